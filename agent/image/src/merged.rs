//! Reads the merged view of a stack of overlayfs layers without a mount: which layer has a path, what it is, and its
//! content with symbolic links followed inside the stack. The unpacker uses it for what upper layers inherit, the user
//! lookup for `/etc/passwd`. Each step opens one name, never following a link, so nothing outside the layers is
//! reachable, whatever they contain or a running container changes meanwhile.

use std::{
    collections::{BTreeSet, VecDeque},
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FileType, Mode, OFlags, Stat},
    io::Errno,
};

use crate::snapshot::marks;

/// Symbolic links followed in one resolution, as in the kernel.
const MAX_LINKS: usize = 40;

/// Layers, top first.
pub(crate) struct Merged {
    layers: Vec<OwnedFd>,
}

/// A path that the view has.
pub(crate) struct Found {
    /// `O_PATH` descriptor of it.
    pub(crate) fd: OwnedFd,
    pub(crate) stat: Stat,
}

impl Found {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Path by which the kernel reaches exactly this inode.
    pub(crate) fn proc_path(&self) -> PathBuf {
        proc_path(&self.fd)
    }

    /// Opens a regular file for reading.
    pub(crate) fn open(&self) -> io::Result<File> {
        if self.kind() != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        File::open(self.proc_path())
    }
}

pub(crate) fn proc_path(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// A directory as the layers that count for it have it, top first.
pub(crate) struct Folder {
    dirs: Vec<OwnedFd>,
}

impl Folder {
    /// Finds a name in it, not following a link.
    pub(crate) fn find(&self, name: &OsStr) -> io::Result<Option<Found>> {
        for dir in &self.dirs {
            let fd = match rustix::fs::openat(dir, name, FLAGS, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e.into()),
            };
            let stat = rustix::fs::fstat(&fd)?;
            return Ok((!is_whiteout(&stat)).then_some(Found { fd, stat }));
        }
        Ok(None)
    }
}

enum Step {
    /// It is here; true: lower layers don't count for what is below it.
    Here(Found, bool),
    /// Hidden by this layer: lower ones do not count.
    Gone,
    Below,
}

impl Merged {
    /// Opens the layers' directories, top first.
    pub(crate) fn open<'p>(dirs: impl IntoIterator<Item = &'p Path>) -> io::Result<Self> {
        let open = |d: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            Ok(rustix::fs::open(d, flags, Mode::empty())?)
        };
        Ok(Merged {
            layers: dirs.into_iter().map(open).collect::<io::Result<_>>()?,
        })
    }

    /// Finds a path, not following a link anywhere. Components must be plain names.
    pub(crate) fn find<'c>(
        &self,
        path: impl Iterator<Item = &'c OsStr> + Clone,
    ) -> io::Result<Option<Found>> {
        for layer in &self.layers {
            match find_in(layer, path.clone())? {
                Step::Here(found, _) => return Ok(Some(found)),
                Step::Gone => return Ok(None),
                Step::Below => {}
            }
        }
        Ok(None)
    }

    /// Names in the directory `path` (relative, plain names), sorted.
    pub(crate) fn list(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let folder = self.folder(path)?;
        let mut all = BTreeSet::new();
        for dir in &folder.dirs {
            let fd = dir.try_clone()?;
            let stat = rustix::fs::fstat(&fd)?;
            all.extend(crate::archive::Node { fd, stat }.names()?);
        }
        let mut shown = Vec::new();
        for name in all {
            if folder.find(OsStr::from_bytes(&name))?.is_some() {
                shown.push(name);
            }
        }
        Ok(shown)
    }

    /// The directory `path` (relative, plain names), for several looks into it; without anything in it if it is none.
    pub(crate) fn folder(&self, path: &[u8]) -> io::Result<Folder> {
        let path: Vec<OsString> = names(path).collect();
        let mut dirs = Vec::new();
        for layer in &self.layers {
            match find_in(layer, path.iter().map(OsString::as_os_str))? {
                Step::Here(found, hides) if found.kind() == FileType::Directory => {
                    // The root is merged whatever it says, as the kernel does.
                    let is_last = hides || !path.is_empty() && is_opaque(&found.fd);
                    dirs.push(found.fd);
                    if is_last {
                        break;
                    }
                }
                Step::Here(..) | Step::Gone => break,
                Step::Below => {}
            }
        }
        Ok(Folder { dirs })
    }

    /// Finds a path as a process inside the root would: links followed, `..` stopping at the root.
    pub(crate) fn resolve(&self, path: &Path) -> io::Result<Option<Found>> {
        let mut done: Vec<OsString> = Vec::new();
        let mut todo: VecDeque<OsString> = names(path.as_os_str().as_bytes()).collect();
        let mut links = 0;
        let mut last = None;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                done.pop();
                continue;
            }
            done.push(name);
            let Some(found) = self.find(done.iter().map(OsString::as_os_str))? else {
                return Ok(None);
            };
            if found.kind() == FileType::Symlink {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = rustix::fs::readlinkat(&found.fd, "", Vec::new())?.into_bytes();
                done.pop();
                if target.starts_with(b"/") {
                    done.clear();
                }
                for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                    todo.push_front(name);
                }
                continue;
            }
            last = Some(found);
        }
        Ok(last)
    }

    /// Content of a file, links followed; `None` when there is no such regular file. Longer than `limit` is an error.
    pub(crate) fn read(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(found) = self.resolve(path)?.filter(|f| f.kind() == FileType::RegularFile) else {
            return Ok(None);
        };
        let mut data = Vec::new();
        found.open()?.take(limit + 1).read_to_end(&mut data)?;
        if data.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "file is too large"));
        }
        Ok(Some(data))
    }
}

fn names(path: &[u8]) -> impl Iterator<Item = OsString> + '_ {
    path.split(|b| *b == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
        .map(|c| OsStr::from_bytes(c).to_owned())
}

const FLAGS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(dir: &OwnedFd) -> bool {
    let mut value = [0; 1];
    matches!(
        rustix::fs::getxattr(proc_path(dir), marks().opaque, &mut value),
        Ok(1)
    ) && value == *b"y"
}

fn find_in<'c>(layer: &OwnedFd, path: impl Iterator<Item = &'c OsStr>) -> io::Result<Step> {
    let mut opaque = false;
    let mut names = path.peekable();
    let mut dir: Option<OwnedFd> = None;
    if names.peek().is_none() {
        let fd = layer.try_clone()?;
        let stat = rustix::fs::fstat(&fd)?;
        return Ok(Step::Here(Found { fd, stat }, false));
    }
    while let Some(name) = names.next() {
        let fd = match rustix::fs::openat(dir.as_ref().unwrap_or(layer), name, FLAGS, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) if opaque => return Ok(Step::Gone),
            Err(Errno::NOENT) => return Ok(Step::Below),
            Err(e) => return Err(e.into()),
        };
        let stat = rustix::fs::fstat(&fd)?;
        if is_whiteout(&stat) {
            return Ok(Step::Gone);
        }
        if names.peek().is_none() {
            return Ok(Step::Here(Found { fd, stat }, opaque));
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(Step::Gone);
        }
        opaque |= is_opaque(&fd);
        dir = Some(fd);
    }
    Ok(Step::Below)
}
