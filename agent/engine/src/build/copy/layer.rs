//! What a [`Selection`] becomes: a digest, which the cache asks for, and the archive of a layer.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use pontoon_build::ignore::Patterns;
use pontoon_image::archive::{Kind, TarWriter};
use pontoon_image::build::Tree;
use pontoon_image::{Digest, DigestWriter};

use super::{Content, Options, Selection, Taken, files};
use crate::Result;

impl Selection<'_> {
    /// What is copied, times left out.
    pub(in crate::build) fn digest(&self) -> Result<Digest> {
        let mut hash = DigestWriter::default();
        let mut text = |text: String| hash.write_all(text.as_bytes()).map_err(files(b""));
        for commit in &self.commits {
            text(format!("commit {commit}\n"))?;
        }
        for (path, item) in self.items.iter().filter(|(_, item)| !item.is_of_commit) {
            let head = &item.head;
            let content = match &item.content {
                Content::Folder => String::new(),
                Content::Data(data) => Digest::of(data).hex(),
                Content::Node { tree, path } => content_digest(tree, path)?.hex(),
            };
            text(format!(
                "{:?} {:?} {:o} {} {} {:?} {} {:?} {:?} {content}\n",
                OsStr::from_bytes(path),
                head.kind,
                head.mode,
                head.uid,
                head.gid,
                OsStr::from_bytes(&head.link),
                head.size,
                head.dev,
                head.xattrs,
            ))?;
        }
        Ok(hash.finish())
    }

    /// Writes the layer's archive.
    pub(in crate::build) fn write(&self, out: impl Write) -> io::Result<()> {
        let mut tar = TarWriter::new(out);
        let mut links: HashMap<(u64, u64), &Vec<u8>> = HashMap::new();
        for (path, item) in &self.items {
            let mut head = item.head.clone();
            let latest = self.options.latest.unwrap_or(i64::MAX);
            head.mtime = head.mtime.min(latest);
            if item.is_made {
                head.mtime = self.options.latest.unwrap_or(head.mtime);
            }
            if let Some(inode) = item.inode {
                if let Some(first) = links.get(&inode) {
                    head.kind = Kind::Hardlink;
                    head.link.clone_from(first);
                    head.size = 0;
                    head.xattrs.clear();
                    tar.entry(&head)?;
                    continue;
                }
                links.insert(inode, path);
            }
            match &item.content {
                Content::Data(data) if head.kind == Kind::File => tar.file(&head, &mut data.as_slice())?,
                Content::Node { tree, path } => tar.file(&head, &mut open(tree, path)?)?,
                _ => tar.entry(&head)?,
            }
        }
        tar.finish().map(drop)
    }
}

fn open(tree: &Tree, path: &[u8]) -> io::Result<std::fs::File> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "it has gone meanwhile");
    tree.get(path)?.ok_or_else(gone)?.open()
}

fn content_digest(tree: &Tree, path: &[u8]) -> Result<Digest> {
    let mut file = open(tree, path).map_err(files(path))?;
    let mut hash = DigestWriter::default();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer).map_err(files(path))? {
            0 => return Ok(hash.finish()),
            count => hash.write_all(&buffer[..count]).map_err(files(path))?,
        }
    }
}

/// What everything at and below a path is, times left out: what a mount of it depends on.
pub(in crate::build) fn digest_below(tree: &Arc<Tree>, path: &str) -> Result<Digest> {
    let nothing = Patterns::default();
    let base = Tree::empty();
    let options = Options {
        destination: "/",
        owner: None,
        mode: None,
        excludes: &nothing,
        now: 0,
        latest: None,
    };
    let mut selection = Selection::new(&base, options);
    selection.add(Taken::Tree {
        tree: tree.clone(),
        path: path.to_owned(),
        below: None,
    })?;
    selection.digest()
}
