//! The confined file operations of the unpacker: every one works on a directory descriptor below the layer's root and
//! one plain name that is not followed.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
        openat2,
    },
    io::Errno,
};

use super::RelPath;
use crate::{
    merged::{Found, proc_path},
    snapshot::{is_mark, marks},
};

/// Owner, mode, time and attributes that an entry gets.
#[derive(Debug, Clone)]
pub(super) struct Attrs<'e> {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: &'e [(String, Vec<u8>)],
}

/// The directory that a layer is unpacked into.
pub(super) struct Tree {
    root: OwnedFd,
    /// The directory that was used last: archives come in directory order.
    cached: Option<(RelPath, Arc<OwnedFd>)>,
}

impl Tree {
    pub(super) fn open(dest: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(Tree {
            root: rustix::fs::open(dest, flags, Mode::empty())?,
            cached: None,
        })
    }

    /// Opens a directory of the layer. `ELOOP` means a link on the way, `ENOTDIR` something else.
    pub(super) fn dir(&mut self, path: &RelPath) -> Result<Arc<OwnedFd>, Errno> {
        if let Some((cached, fd)) = &self.cached
            && cached == path
        {
            return Ok(fd.clone());
        }
        let fd = Arc::new(self.open_dir(path)?);
        self.cached = Some((path.clone(), fd.clone()));
        Ok(fd)
    }

    fn open_dir(&self, path: &RelPath) -> Result<OwnedFd, Errno> {
        let name = if path.is_root() {
            OsStr::new(".")
        } else {
            path.as_os()
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        loop {
            match openat2(&self.root, name, flags, Mode::empty(), resolve) {
                // openat2(2): a rename elsewhere on the system raced with the check.
                Err(Errno::AGAIN) => {}
                answer => return answer,
            }
        }
    }

    /// What `name` in `dir` is, if it exists.
    pub(super) fn stat(dir: &OwnedFd, name: &OsStr) -> Result<Option<Stat>, Errno> {
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes a directory (or takes the existing one) and opens it. `mode` saves [`Tree::set`] work, where the umask lets it through.
    pub(super) fn make_dir(dir: &OwnedFd, name: &OsStr, mode: u32) -> Result<OwnedFd, Errno> {
        match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode & 0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(dir, name, flags, Mode::empty())
    }

    /// Modification time of an open directory.
    pub(super) fn mtime(fd: &impl AsFd) -> io::Result<(i64, u32)> {
        let stat = rustix::fs::fstat(fd)?;
        Ok((stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)))
    }

    /// Takes all extended attributes of a directory away.
    pub(super) fn clear_xattrs(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        let mut names = vec![0; 64 << 10];
        let length = match rustix::fs::flistxattr(&fd, &mut names[..]) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP) => 0,
            Err(e) => return Err(e.into()),
        };
        for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
            match rustix::fs::fremovexattr(&fd, OsStr::from_bytes(name)) {
                // Labels of the host's policy can't be taken away.
                Ok(()) | Err(Errno::PERM | Errno::NODATA | Errno::OPNOTSUPP | Errno::ACCESS) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Makes a new regular file; `mode` as in [`Tree::make_dir`]. Nobody but root reaches a layer's directory.
    pub(super) fn make_file(dir: &OwnedFd, name: &OsStr, mode: u32) -> Result<OwnedFd, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode & 0o777))
    }

    /// Makes a device or fifo; its attributes come with [`Tree::set_special`].
    pub(super) fn make_node(
        dir: &OwnedFd,
        name: &OsStr,
        kind: FileType,
        dev: (u32, u32),
    ) -> Result<(), Errno> {
        let dev = rustix::fs::makedev(dev.0, dev.1);
        rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, dev)
    }

    /// Sets what `attrs` says on an open file or directory. Owner first: chown clears set-id bits and capabilities. What is right
    /// already is left alone: a look costs a tenth of a change, which the file system's journal takes part in.
    pub(super) fn set(fd: &impl AsFd, attrs: &Attrs<'_>) -> io::Result<()> {
        let made = rustix::fs::fstat(fd)?;
        let owned = (made.st_uid, made.st_gid) == (attrs.uid, attrs.gid);
        if !owned {
            let (uid, gid) = (Uid::from_raw(attrs.uid), Gid::from_raw(attrs.gid));
            rustix::fs::fchown(fd, Some(uid), Some(gid))?;
        }
        if made.st_mode & 0o7777 != attrs.mode || (!owned && attrs.mode & 0o6000 != 0) {
            rustix::fs::fchmod(fd, Mode::from_raw_mode(attrs.mode))?;
        }
        for (name, value) in attrs.xattrs {
            unless_unsupported(
                name,
                rustix::fs::fsetxattr(fd, name.as_str(), value, XattrFlags::empty()),
            )?;
        }
        Ok(rustix::fs::futimens(fd, &times(attrs.mtime))?)
    }

    /// The same for what can't be opened: links, devices, fifos.
    pub(super) fn set_special(dir: &OwnedFd, name: &OsStr, link: bool, attrs: &Attrs<'_>) -> io::Result<()> {
        let made = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if (made.st_uid, made.st_gid) != (attrs.uid, attrs.gid) {
            let (uid, gid) = (Uid::from_raw(attrs.uid), Gid::from_raw(attrs.gid));
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if !link {
            // fchmodat has no "don't follow" before Linux 6.6; the descriptor names exactly the node just made.
            let node = rustix::fs::openat(
                dir,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            rustix::fs::chmod(proc_path(&node), Mode::from_raw_mode(attrs.mode))?;
        }
        for (xattr, value) in attrs.xattrs {
            let path = proc_path(dir).join(name);
            let set = rustix::fs::lsetxattr(path, xattr.as_str(), value, XattrFlags::empty());
            unless_unsupported(xattr, set)?;
        }
        Ok(rustix::fs::utimensat(
            dir,
            name,
            &times(attrs.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Marks an open directory as hiding what lower layers have in it.
    pub(super) fn set_opaque(dir: &OwnedFd) -> Result<(), Errno> {
        rustix::fs::fsetxattr(dir, marks().opaque, b"y", XattrFlags::empty())
    }
}

/// Attributes that the file system or kernel does not know are left out, as Docker does; anything else is an error.
fn unless_unsupported(name: &str, answer: Result<(), Errno>) -> io::Result<()> {
    match answer {
        Err(Errno::OPNOTSUPP) => {
            tracing::warn!(
                xattr = name,
                "extended attribute left out: the file system has none of this kind"
            );
            Ok(())
        }
        other => Ok(other?),
    }
}

fn times(mtime: (i64, u32)) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.0,
        tv_nsec: i64::from(mtime.1),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Extended attributes of a lower layer's file that a copy keeps.
pub(super) fn xattrs_of(found: &Found) -> io::Result<Vec<(String, Vec<u8>)>> {
    let path = found.proc_path();
    let mut names = vec![0; 64 << 10];
    let n = match rustix::fs::listxattr(&path, &mut names[..]) {
        Ok(n) => n,
        Err(Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e.into()),
    };
    let mut out = Vec::new();
    for name in names[..n].split(|b| *b == 0) {
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        if name.is_empty() || is_mark(name) {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::getxattr(&path, name, &mut value[..])?;
        value.truncate(len);
        out.push((name.to_owned(), value));
    }
    Ok(out)
}
