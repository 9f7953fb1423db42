//! [`Tree`]: looks files up in a stack of layers, or in a folder, as a process would whose root it is, without a mount: one name
//! after the other, links worked out on names alone, so that nothing outside is ever reached.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::fs::FileType;

use crate::{
    ImageStore, Result, Stack,
    archive::Node,
    error::At,
    merged::{Folder, Merged},
};

/// Symbolic links followed in one resolution, as in the kernel.
const MAX_LINKS: usize = 40;

/// Files to look at.
pub struct Tree {
    merged: Merged,
    /// The folder that was last looked into: who looks at one file looks at its neighbours next.
    last: Mutex<Option<(Vec<u8>, Arc<Folder>)>>,
}

impl From<Merged> for Tree {
    fn from(merged: Merged) -> Self {
        Tree {
            merged,
            last: Mutex::default(),
        }
    }
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
        Ok(merged.into())
    }
}

impl Tree {
    /// The files of a folder.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn folder(dir: &Path) -> Result<Self> {
        let merged = Merged::open([dir]).at("cannot open", dir)?;
        Ok(merged.into())
    }

    /// A folder below a folder whose content strangers made, links followed inside; `None`: there is none.
    ///
    /// # Errors
    /// It can't be looked for.
    pub fn folder_below(dir: &Path, path: &str) -> io::Result<Option<PathBuf>> {
        let whole = Merged::open([dir])?;
        let resolved = Tree::from(whole).resolve(path.as_bytes())?;
        let is_folder = resolved.node.is_some_and(|node| node.is_dir());
        Ok(is_folder.then(|| dir.join(OsStr::from_bytes(&resolved.path))))
    }

    /// Nothing.
    pub fn empty() -> Self {
        Merged::open([]).expect("nothing is opened").into()
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
        let mut above: Vec<&[u8]> = names(path).collect();
        let found = match above.pop() {
            Some(name) => self.look_into(above.join(&b'/'))?.find(OsStr::from_bytes(name))?,
            None => self.merged.find(std::iter::empty())?,
        };
        Ok(found.map(|found| Node {
            fd: found.fd,
            stat: found.stat,
        }))
    }

    fn look_into(&self, path: Vec<u8>) -> io::Result<Arc<Folder>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, folder)) = last.as_ref()
            && *known == path
        {
            return Ok(folder.clone());
        }
        let folder = Arc::new(self.merged.folder(&path)?);
        *last = Some((path, folder.clone()));
        Ok(folder)
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
