//! [`Tree`]: looks files up in a stack of layers, or in a folder, as a process would whose root it is, without a mount: one name
//! after the other, links worked out on names alone, so that nothing outside is ever reached.

use std::{collections::VecDeque, ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path};

use rustix::fs::FileType;

use crate::{ImageStore, Result, Stack, archive::Node, error::At, merged::Merged};

/// Symbolic links followed in one resolution, as in the kernel.
const MAX_LINKS: usize = 40;

/// Files to look at.
pub struct Tree {
    merged: Merged,
}

/// Where a path leads.
pub struct Resolved {
    /// Without links, relative to the root; what does not exist is as it was given.
    pub path: Vec<u8>,
    /// What is there.
    pub node: Option<Node>,
}

impl ImageStore {
    /// The files of a stack. The stack has to be held as long as they are looked at.
    ///
    /// # Errors
    /// A layer's folder can't be opened.
    pub fn tree(&self, stack: &Stack) -> Result<Tree> {
        let merged = self.layers.merged(stack.chain().as_ref())?;
        Ok(Tree { merged })
    }
}

impl Tree {
    /// The files of a folder.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn folder(dir: &Path) -> Result<Self> {
        let merged = Merged::open([dir]).at("cannot open", dir)?;
        Ok(Tree { merged })
    }

    /// Nothing.
    pub fn empty() -> Self {
        let merged = Merged::open([]).expect("nothing is opened");
        Tree { merged }
    }

    /// Content of a regular file, links followed; `None` when there is none. Longer than `limit` is an error.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        self.merged.read(path, limit)
    }

    /// What is at a relative path without links; a link at its end is given as it is.
    ///
    /// # Errors
    /// Other than that nothing is there.
    pub fn get(&self, path: &[u8]) -> io::Result<Option<Node>> {
        let found = self.merged.find(names(path).map(OsStr::from_bytes))?;
        Ok(found.map(|found| Node {
            fd: found.fd,
            stat: found.stat,
        }))
    }

    /// Names in a folder, sorted.
    ///
    /// # Errors
    /// It can't be read.
    pub fn names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.merged.list(path)
    }

    /// Follows all links of a path, the last one too.
    ///
    /// # Errors
    /// Too many links, or a folder can't be read.
    pub fn resolve(&self, path: &[u8]) -> io::Result<Resolved> {
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut todo: VecDeque<Vec<u8>> = names(path).map(<[u8]>::to_vec).collect();
        let (mut links, mut node) = (0, self.get(b"")?);
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                done.pop();
                node = self.get(&done.join(&b'/'))?;
                continue;
            }
            done.push(name);
            node = self.get(&done.join(&b'/'))?;
            let Some(found) = &node else { continue };
            if found.kind() != FileType::Symlink {
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(rustix::io::Errno::LOOP.into());
            }
            let target = found.read_link()?;
            done.pop();
            if target.starts_with(b"/") {
                done.clear();
            }
            for name in names(&target)
                .map(<[u8]>::to_vec)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
            {
                todo.push_front(name);
            }
            if todo.is_empty() {
                node = self.get(&done.join(&b'/'))?;
            }
        }
        Ok(Resolved {
            path: done.join(&b'/'),
            node,
        })
    }
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    path.split(|b| *b == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
}
