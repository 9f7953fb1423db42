//! Paths that patterns stand for, and paths put together.

use pontoon_build::ignore;
use pontoon_image::archive::Node;
use pontoon_image::build::Tree;

use super::files;
use crate::{Error, Result};

/// Paths that a pattern stands for, relative and sorted; one without wildcards stands for itself if it is there.
pub(in crate::build) fn expand(tree: &Tree, pattern: &str) -> Result<Vec<Vec<u8>>> {
    let mut found = vec![Vec::new()];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let mut next = Vec::new();
        for folder in found {
            if !ignore::has_wildcards(part) {
                next.push(join(&folder, part.replace('\\', "").as_bytes()));
                continue;
            }
            let resolved = tree.resolve(&folder).map_err(files(&folder))?;
            if !resolved.node.as_ref().is_some_and(Node::is_dir) {
                continue;
            }
            for name in tree.names(&resolved.path).map_err(files(&folder))? {
                let fits = ignore::name_fits(part, &String::from_utf8_lossy(&name));
                if fits.map_err(|e| Error::Invalid(e.message))? {
                    next.push(join(&folder, &name));
                }
            }
        }
        found = next;
    }
    let mut there = Vec::new();
    for path in found {
        if tree.resolve(&path).map_err(files(&path))?.node.is_some() {
            there.push(path);
        }
    }
    Ok(there)
}

/// The folder that a path is in.
pub(super) fn parent(path: &[u8]) -> &[u8] {
    path.iter()
        .rposition(|b| *b == b'/')
        .map_or(b"", |slash| &path[..slash])
}

/// A name in a folder.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match (dir.is_empty(), name.is_empty()) {
        (true, _) => name.to_vec(),
        (_, true) => dir.to_vec(),
        _ => [dir, b"/", name].concat(),
    }
}
