//! One object of a tree, held by an `O_PATH` descriptor: what it is can't change between the look and the use. Opening
//! it for reading goes through that descriptor, so a device or a FIFO that takes a file's place is never opened.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat, openat},
    io::Errno,
};

use super::{Head, IdMap, Kind};
use crate::{merged::proc_path, snapshot::is_mark};

/// Bytes of all names of an object's attributes (Linux' `XATTR_LIST_MAX`) and of one value (`XATTR_SIZE_MAX`).
const XATTRS: usize = 64 << 10;

/// A handle on an object and what it was when the handle was made.
#[derive(Debug)]
pub struct Node {
    /// `O_PATH` descriptor.
    pub fd: OwnedFd,
    /// Its attributes.
    pub stat: Stat,
}

impl Node {
    /// Takes an `O_PATH` descriptor.
    ///
    /// # Errors
    /// The object can't be looked at.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let stat = rustix::fs::statat(&fd, "", AtFlags::EMPTY_PATH)?;
        Ok(Node { fd, stat })
    }

    /// The object called `name` in a directory; a link is not followed.
    ///
    /// # Errors
    /// `ENOENT` and the like.
    pub fn at(dir: impl AsFd, name: &OsStr) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Node::new(openat(dir, name, flags, Mode::empty())?)
    }

    /// What it is.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// True for a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// It is none, or can't be opened.
    pub fn open(&self) -> io::Result<File> {
        if self.kind() != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        File::open(proc_path(&self.fd))
    }

    /// Names in a directory, sorted by their bytes.
    ///
    /// # Errors
    /// It is none, or can't be read.
    pub fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let dir = openat(&self.fd, ".", flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// It is none.
    pub fn read_link(&self) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.fd, "", Vec::new())?.into_bytes())
    }

    /// Value of one extended attribute.
    ///
    /// # Errors
    /// Other than that it has none.
    pub fn xattr(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; XATTRS];
        match rustix::fs::getxattr(proc_path(&self.fd), name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                Ok(Some(value))
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The extended attributes that belong to the file itself: users', capabilities, access lists. Those of overlayfs
    /// and labels of this host's policy (SELinux, IMA) are not.
    ///
    /// # Errors
    /// They can't be read.
    pub fn xattrs(&self) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut names = vec![0; XATTRS];
        let length = match rustix::fs::listxattr(proc_path(&self.fd), &mut names[..]) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP) => 0,
            Err(e) => return Err(e.into()),
        };
        let mut found = Vec::new();
        for name in names[..length].split(|b| *b == 0) {
            let Ok(name) = std::str::from_utf8(name) else {
                continue;
            };
            let own = name.starts_with("user.")
                || name.starts_with("trusted.")
                || name == "security.capability"
                || name.starts_with("system.posix_acl_");
            if own
                && !is_mark(name)
                && let Some(value) = self.xattr(name)?
            {
                found.push((name.to_owned(), value));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// What an archive says about it under `name`; `None` for a socket, of which there is nothing to keep.
    ///
    /// # Errors
    /// Its link or attributes can't be read.
    pub fn head(&self, name: &[u8], ids: &IdMap) -> io::Result<Option<Head>> {
        let stat = &self.stat;
        let kind = match self.kind() {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::Char,
            FileType::BlockDevice => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            _ => return Ok(None),
        };
        let (uid, gid) = ids.to_container(stat.st_uid, stat.st_gid);
        let size = if kind == Kind::File { stat.st_size } else { 0 };
        let link = if kind == Kind::Symlink {
            self.read_link()?
        } else {
            Vec::new()
        };
        Ok(Some(Head {
            name: name.to_vec(),
            link,
            kind,
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            mtime: stat.st_mtime,
            size: u64::try_from(size).unwrap_or(0),
            dev: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            xattrs: self.xattrs()?,
        }))
    }
}
