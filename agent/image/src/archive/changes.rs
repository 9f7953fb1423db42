//! What a container has changed, as `diff` lists it: its upper directory compared with the layers below, by moby's rules
//! (`archive.ChangesDirs`): a directory counts as modified when something in it has changed or when its own mode or owner
//! has; a file also by size and time.

use std::{collections::BTreeMap, ffi::OsStr, io, os::unix::ffi::OsStrExt};

use rustix::fs::{FileType, Stat};

use super::{
    Node,
    layer::{below, is_opaque, is_whiteout, open},
    walk::{Steps, at, join},
};
use crate::{Rootfs, error::At, merged::Merged, tar_stream::read_failed};

/// How a path has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is there in another form.
    Modified,
    /// It was not there.
    Added,
    /// It is not there any more.
    Deleted,
}

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// How.
    pub kind: ChangeKind,
    /// Which, absolute.
    pub path: Vec<u8>,
}

type Found = BTreeMap<Vec<u8>, ChangeKind>;

/// Lists what a container has changed, sorted by path.
///
/// # Errors
/// Its directories can't be read.
pub fn changes(rootfs: &Rootfs) -> crate::Result<Vec<Change>> {
    let upper = open(&rootfs.upper).at("cannot open", &rootfs.upper)?;
    let below = below(rootfs)?;
    let found = compare(&upper, &below, rootfs.is_tree).map_err(read_failed)?;
    let absolute = |(path, kind): (Vec<u8>, ChangeKind)| Change {
        kind,
        path: [b"/", &path[..]].concat(),
    };
    Ok(found.into_iter().map(absolute).collect())
}

pub(super) fn names(path: &[u8]) -> impl Iterator<Item = &OsStr> + Clone {
    path.split(|b| *b == b'/')
        .filter(|name| !name.is_empty())
        .map(OsStr::from_bytes)
}

/// `whole`: the upper directory is not a layer but all of the tree; what it lacks is gone.
fn compare(upper: &Node, below: &Merged, whole: bool) -> io::Result<Found> {
    let mut found = Found::new();
    if whole {
        missing(&mut found, b"", upper, below)?;
    }
    let mut steps = Steps::new(upper)?;
    // Directories in which the lower layers do not show.
    let mut opaque: Vec<Vec<u8>> = Vec::new();
    while let Some((path, node)) = steps.next()? {
        opaque.retain(|dir| path.starts_with(dir));
        let old = below.find(names(&path))?;
        if !whole && is_whiteout(&node) {
            if old.is_some() {
                add(&mut found, path, ChangeKind::Deleted);
            }
            continue;
        }
        match &old {
            None => add(&mut found, path.clone(), ChangeKind::Added),
            Some(old) if differs(&old.stat, &node.stat) || has_other_capability(&node, old)? => {
                add(&mut found, path.clone(), ChangeKind::Modified);
            }
            Some(_) => {}
        }
        if !node.is_dir() {
            continue;
        }
        // Of a directory that became something else Docker does not list what was in it.
        if old.is_some_and(|old| old.kind() == FileType::Directory) {
            let marked = whole || is_opaque(&node).map_err(|e| at(&path, e))?;
            if marked || !opaque.is_empty() {
                missing(&mut found, &path, &node, below)?;
            }
            if marked && !whole {
                opaque.push([&path[..], b"/"].concat());
            }
        }
        steps.enter(path.clone(), &node).map_err(|e| at(&path, e))?;
    }
    Ok(found)
}

/// What a directory has below and has not itself.
pub(super) fn missing_names(path: &[u8], dir: &Node, below: &Merged) -> io::Result<Vec<Vec<u8>>> {
    let mut gone = Vec::new();
    for name in below.list(path)? {
        match Node::at(&dir.fd, OsStr::from_bytes(&name)) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => gone.push(join(path, &name)),
            Err(e) => return Err(at(&join(path, &name), e)),
        }
    }
    Ok(gone)
}

/// A directory that was removed and made again: what it had and has no more is deleted.
fn missing(found: &mut Found, path: &[u8], dir: &Node, below: &Merged) -> io::Result<()> {
    for gone in missing_names(path, dir, below)? {
        add(found, gone, ChangeKind::Deleted);
    }
    Ok(())
}

/// Notes a change, and that the directories above have changed by it.
fn add(found: &mut Found, path: Vec<u8>, kind: ChangeKind) {
    for (slash, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
        found
            .entry(path[..slash].to_vec())
            .or_insert(ChangeKind::Modified);
    }
    found.insert(path, kind);
}

pub(super) fn differs(old: &Stat, new: &Stat) -> bool {
    let common = |s: &Stat| (s.st_mode, s.st_uid, s.st_gid, s.st_rdev);
    let content = |s: &Stat| (s.st_size, s.st_mtime);
    // Layers have whole seconds, which says nothing of the rest.
    let whole = old.st_mtime_nsec == 0 || new.st_mtime_nsec == 0;
    let same_time = whole || old.st_mtime_nsec == new.st_mtime_nsec;
    let is_dir = FileType::from_raw_mode(new.st_mode) == FileType::Directory;
    common(old) != common(new) || !is_dir && (content(old) != content(new) || !same_time)
}

pub(super) fn has_other_capability(node: &Node, old: &crate::merged::Found) -> io::Result<bool> {
    if node.kind() != FileType::RegularFile {
        return Ok(false);
    }
    let old = Node::new(old.fd.try_clone()?)?;
    Ok(node.xattr("security.capability")? != old.xattr("security.capability")?)
}
