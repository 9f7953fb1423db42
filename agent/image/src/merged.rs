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

enum Step {
    Here(Found),
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
                Step::Here(found) => return Ok(Some(found)),
                Step::Gone => return Ok(None),
                Step::Below => {}
            }
        }
        Ok(None)
    }

    /// Names in the directory `path` (relative, plain names), sorted.
    pub(crate) fn list(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let plain = |path: &[u8]| names(path).collect::<Vec<_>>();
        let dir = plain(path);
        let mut all = BTreeSet::new();
        for layer in &self.layers {
            let Step::Here(found) = find_in(layer, dir.iter().map(OsString::as_os_str))? else {
                continue;
            };
            if found.kind() == FileType::Directory {
                all.extend(
                    crate::archive::Node {
                        fd: found.fd,
                        stat: found.stat,
                    }
                    .names()?,
                );
            }
        }
        let mut shown = Vec::new();
        for name in all {
            let full = [&dir[..], &[OsStr::from_bytes(&name).to_owned()]].concat();
            if self.find(full.iter().map(OsString::as_os_str))?.is_some() {
                shown.push(name);
            }
        }
        Ok(shown)
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

fn find_in<'c>(layer: &OwnedFd, path: impl Iterator<Item = &'c OsStr>) -> io::Result<Step> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut opaque = false;
    let mut names = path.peekable();
    let mut dir: Option<OwnedFd> = None;
    if names.peek().is_none() {
        let fd = layer.try_clone()?;
        return Ok(Step::Here(Found {
            stat: rustix::fs::fstat(&fd)?,
            fd,
        }));
    }
    while let Some(name) = names.next() {
        let fd = match rustix::fs::openat(dir.as_ref().unwrap_or(layer), name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) if opaque => return Ok(Step::Gone),
            Err(Errno::NOENT) => return Ok(Step::Below),
            Err(e) => return Err(e.into()),
        };
        let stat = rustix::fs::fstat(&fd)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            return Ok(Step::Gone);
        }
        if names.peek().is_none() {
            return Ok(Step::Here(Found { fd, stat }));
        }
        if kind != FileType::Directory {
            return Ok(Step::Gone);
        }
        let mut value = [0; 1];
        opaque |= matches!(
            rustix::fs::getxattr(proc_path(&fd), marks().opaque, &mut value),
            Ok(1)
        ) && value == *b"y";
        dir = Some(fd);
    }
    Ok(Step::Below)
}
