//! Walks a directory tree in the order of its names and writes it as archive entries. A tree may change while it is
//! walked: names that are gone are left out, and a directory that was swapped for a link is not entered.
//!
//! A tree may also be deeper than the process may have descriptors: those of directories far above are closed and opened
//! again by their path below the walk's root.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io::{self, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};

use super::{Head, IdMap, Kind, Node, TarWriter};

/// Directories that are kept open.
const OPEN: usize = 64;
/// Bytes of a path below the walk's root that the kernel can open again (`PATH_MAX` with its NUL).
const PATH: usize = 4095;

struct Level {
    path: Vec<u8>,
    names: std::vec::IntoIter<Vec<u8>>,
    fd: Option<OwnedFd>,
}

/// Goes through a tree, parents before what is in them.
pub(crate) struct Steps {
    root: OwnedFd,
    levels: Vec<Level>,
}

impl Steps {
    /// Begins below a directory, which itself is not among the steps.
    pub(crate) fn new(root: &Node) -> io::Result<Self> {
        let mut steps = Steps {
            root: root.fd.try_clone()?,
            levels: Vec::new(),
        };
        steps.enter(Vec::new(), root)?;
        Ok(steps)
    }

    /// Goes on with what is in the directory that the last step gave.
    pub(crate) fn enter(&mut self, path: Vec<u8>, dir: &Node) -> io::Result<()> {
        let names = match dir.names() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        if let Some(far) = self.levels.len().checked_sub(OPEN) {
            self.levels[far].fd = None;
        }
        self.levels.push(Level {
            path,
            names: names.into_iter(),
            fd: Some(dir.fd.try_clone()?),
        });
        Ok(())
    }

    /// The next object with its path below the root.
    pub(crate) fn next(&mut self) -> io::Result<Option<(Vec<u8>, Node)>> {
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.names.next() else {
                self.levels.pop();
                continue;
            };
            if level.fd.is_none() {
                level.fd = open_again(&self.root, &level.path)?;
            }
            let Some(dir) = &level.fd else {
                self.levels.pop();
                continue;
            };
            let path = join(&level.path, &name);
            if path.len() > PATH {
                return Err(too_long(&path));
            }
            match Node::at(dir, OsStr::from_bytes(&name)) {
                Ok(node) => return Ok(Some((path, node))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(at(&path, e)),
            }
        }
        Ok(None)
    }
}

fn open_again(root: &OwnedFd, path: &[u8]) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let path = if path.is_empty() {
        OsStr::new(".")
    } else {
        OsStr::from_bytes(path)
    };
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(fd) => return Ok(Some(fd)),
            // openat2(2): a rename elsewhere on the system raced with the check.
            Err(Errno::AGAIN) => {}
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
}

pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        return name.to_vec();
    }
    let slash: &[u8] = if dir.ends_with(b"/") { b"" } else { b"/" };
    [dir, slash, name].concat()
}

/// Adds the path to an error.
pub(super) fn at(path: &[u8], error: io::Error) -> io::Error {
    let shown = String::from_utf8_lossy(path);
    io::Error::new(error.kind(), format!("{shown}: {error}"))
}

fn too_long(path: &[u8]) -> io::Error {
    let shown = String::from_utf8_lossy(&path[..64]).into_owned();
    let text = format!("{shown}…: path of more than {PATH} bytes");
    io::Error::new(io::ErrorKind::InvalidFilename, text)
}

/// Writes trees to an archive. Hard links between what one walk writes become links in the archive.
#[derive(Default)]
pub struct Walk {
    ids: IdMap,
    /// No entry gets a later time.
    latest: Option<i64>,
    /// First name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl Walk {
    /// A walk whose entries get the container's ids.
    pub fn new(ids: IdMap) -> Self {
        Walk {
            ids,
            latest: None,
            links: HashMap::new(),
        }
    }

    /// Times after `latest` (seconds since the epoch) are written as that.
    #[must_use]
    pub fn with_latest(self, latest: Option<i64>) -> Self {
        Walk { latest, ..self }
    }

    /// Writes an object, and what is in it, under `name`: `web` gives `web/`, `web/index.html`; `.` gives `./`,
    /// `./index.html`; `/` gives `/`, `/index.html`.
    ///
    /// # Errors
    /// The archive can't be written, or the tree can't be read; the message names the path.
    pub fn tree<W: Write>(&mut self, out: &mut TarWriter<W>, node: &Node, name: &[u8]) -> io::Result<()> {
        self.node(out, node, name)?;
        if !node.is_dir() {
            return Ok(());
        }
        self.content(out, node, name)
    }

    /// Writes what is in a directory, without an entry for itself; `name` goes before each path.
    ///
    /// # Errors
    /// As [`Walk::tree`].
    pub fn content<W: Write>(&mut self, out: &mut TarWriter<W>, dir: &Node, name: &[u8]) -> io::Result<()> {
        let mut steps = Steps::new(dir)?;
        while let Some((path, node)) = steps.next()? {
            let full = join(name, &path);
            self.node(out, &node, &full)?;
            if node.is_dir() {
                steps.enter(path, &node).map_err(|e| at(&full, e))?;
            }
        }
        Ok(())
    }

    /// Writes one object without what is in it.
    ///
    /// # Errors
    /// As [`Walk::tree`].
    pub fn node<W: Write>(&mut self, out: &mut TarWriter<W>, node: &Node, name: &[u8]) -> io::Result<()> {
        let Some(mut head) = node.head(name, &self.ids).map_err(|e| at(name, e))? else {
            return Ok(());
        };
        head.mtime = self.latest.map_or(head.mtime, |latest| head.mtime.min(latest));
        let several = node.stat.st_nlink > 1 && head.kind != Kind::Dir;
        if several {
            let id = (node.stat.st_dev, node.stat.st_ino);
            if let Some(first) = self.links.get(&id) {
                let link = Head {
                    kind: Kind::Hardlink,
                    link: first.clone(),
                    size: 0,
                    xattrs: Vec::new(),
                    ..head
                };
                return out.entry(&link);
            }
            self.links.insert(id, name.to_vec());
        }
        if node.kind() != FileType::RegularFile || head.size == 0 {
            return out.entry(&head);
        }
        let mut file = node.open().map_err(|e| at(name, e))?;
        out.file(&head, &mut file).map_err(|e| at(name, e))
    }
}
