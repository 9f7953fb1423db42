//! Copying and emptying folders by descriptor: names are never followed, so nobody who changes either side meanwhile can
//! lead us elsewhere. Owner, mode, times, extended attributes and hard links are kept. Called by `content`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
    fchmod, fchown, fstat, futimens, linkat, mkdirat, mknodat, openat, openat2, readlinkat, statat,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// Attributes of overlayfs itself are not the file's.
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Owner of a copy, from that of what is copied.
pub(super) type Owner<'a> = &'a dyn Fn((u32, u32)) -> (u32, u32);

struct Copy<'a> {
    owner: Owner<'a>,
    /// The folder that is filled.
    root: &'a OwnedFd,
    /// Where files with several names have got their first one, below `root`.
    linked: HashMap<(u64, u64), PathBuf>,
}

/// Copies what is in `source` into the empty folder `destination`, and the folder's own attributes.
pub(super) fn copy(source: &OwnedFd, destination: &OwnedFd, owner: Owner<'_>) -> io::Result<()> {
    let mut copy = Copy {
        owner,
        root: destination,
        linked: HashMap::new(),
    };
    copy.folder(source, destination, Path::new(""))
}

impl Copy<'_> {
    fn folder(&mut self, from: &OwnedFd, to: &OwnedFd, path: &Path) -> io::Result<()> {
        for name in names(from)? {
            let stat = self.owned(statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?);
            self.entry((from, to), &name, &stat, &path.join(&name))?;
        }
        let stat = self.owned(fstat(from)?);
        attributes(from, to, &stat)
    }

    /// With the owner that the copy gets.
    fn owned(&self, mut stat: Stat) -> Stat {
        (stat.st_uid, stat.st_gid) = (self.owner)((stat.st_uid, stat.st_gid));
        stat
    }

    fn entry(
        &mut self,
        (from, to): (&OwnedFd, &OwnedFd),
        name: &OsStr,
        stat: &Stat,
        path: &Path,
    ) -> io::Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            mkdirat(to, name, Mode::RWXU)?;
            let inner = openat(from, name, FOLDER, Mode::empty())?;
            let made = openat(to, name, FOLDER, Mode::empty())?;
            return self.folder(&inner, &made, path);
        }
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&key) {
                return self.link(first, to, name);
            }
            self.linked.insert(key, path.to_owned());
        }
        match kind {
            FileType::RegularFile => file(from, to, name, stat),
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new())?;
                symlinkat(&target, to, name)?;
                special(to, name, stat, false)
            }
            kind => {
                mknodat(to, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?;
                special(to, name, stat, true)
            }
        }
    }

    /// Another name for a file that is there.
    fn link(&self, first: &Path, to: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = loop {
            match openat2(self.root, first, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                opened => break opened?,
            }
        };
        Ok(linkat(&file, c"", to, name, AtFlags::EMPTY_PATH)?)
    }
}

fn file(from: &OwnedFd, to: &OwnedFd, name: &OsStr, stat: &Stat) -> io::Result<()> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut source = File::from(openat(from, name, read, Mode::empty())?);
    let mut copy = File::from(openat(to, name, write, Mode::RUSR | Mode::WUSR)?);
    io::copy(&mut source, &mut copy)?;
    attributes(&source, &copy, stat)
}

/// Owner first: chown(2) clears set-id bits and capabilities.
fn attributes(from: impl AsFd, to: impl AsFd, stat: &Stat) -> io::Result<()> {
    fchown(
        &to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    extended(&from, &to)?;
    Ok(futimens(&to, &times(stat))?)
}

/// Attributes of what can't be opened: links, devices, fifos, sockets.
fn special(to: &OwnedFd, name: &OsStr, stat: &Stat, has_mode: bool) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if has_mode {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = openat(to, name, flags, Mode::empty())?;
        let path = format!("/proc/self/fd/{}", node.as_raw_fd());
        rustix::fs::chmod(path, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    }
    Ok(utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn extended(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(&from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let names = names[..length].split(|byte| *byte == 0);
    for name in names.filter(|name| !name.is_empty() && !OVERLAY.iter().any(|own| name.starts_with(own))) {
        let name = OsStr::from_bytes(name);
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(&from, name, &mut value[..])?;
        match rustix::fs::fsetxattr(&to, name, &value[..length], XattrFlags::empty()) {
            // As in Docker: what the volume's file system does not know is left out.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[allow(clippy::cast_possible_wrap, reason = "nanoseconds of a second fit")]
fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    }
}

/// Names in a folder, sorted, so that a failure is the same each time.
fn names(folder: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Removes everything in a folder.
pub(super) fn clear(folder: &OwnedFd) -> io::Result<()> {
    for name in names(folder)? {
        match unlinkat(folder, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR) => {}
            Err(errno) => return Err(errno.into()),
        }
        clear(&openat(folder, &name, FOLDER, Mode::empty())?)?;
        unlinkat(folder, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Bytes of the files in a folder, each once. What is removed meanwhile counts nothing.
pub(super) fn size(folder: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::HashSet::new();
    let mut todo = vec![folder.to_path_buf()];
    let mut bytes = 0;
    while let Some(folder) = todo.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(stat) = entry.metadata() else { continue };
            if stat.is_dir() {
                todo.push(entry.path());
            } else if stat.nlink() == 1 || seen.insert((stat.dev(), stat.ino())) {
                bytes += stat.len();
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        openat(rustix::fs::CWD, path, FOLDER, Mode::empty()).unwrap()
    }

    #[test]
    fn everything_is_kept() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        std::fs::create_dir_all(from.join("sub/deep")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("a"), "content").unwrap();
        std::fs::hard_link(from.join("a"), from.join("sub/b")).unwrap();
        symlink("/etc/passwd", from.join("sub/link")).unwrap();
        std::fs::set_permissions(from.join("sub"), PermissionsExt::from_mode(0o2750)).unwrap();
        std::fs::set_permissions(&from, PermissionsExt::from_mode(0o701)).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            std::os::unix::fs::chown(from.join("a"), Some(1000), Some(1001)).unwrap();
            std::fs::set_permissions(from.join("a"), PermissionsExt::from_mode(0o4711)).unwrap();
            let kind = FileType::Fifo;
            mknodat(rustix::fs::CWD, from.join("fifo"), kind, Mode::RUSR, 0).unwrap();
        }
        let has_attributes =
            rustix::fs::setxattr(from.join("a"), "user.x", b"y", XattrFlags::empty()).is_ok();
        copy(&open(&from), &open(&to), &|(uid, gid)| (uid, gid)).unwrap();
        let stat = |path: &str| std::fs::symlink_metadata(to.join(path)).unwrap();
        assert_eq!(std::fs::read(to.join("a")).unwrap(), b"content");
        assert_eq!(stat("a").ino(), stat("sub/b").ino());
        assert_eq!(
            std::fs::read_link(to.join("sub/link")).unwrap(),
            Path::new("/etc/passwd")
        );
        assert_eq!(
            (stat("sub").mode() & 0o7777, stat("").mode() & 0o7777),
            (0o2750, 0o701)
        );
        let mtime = std::fs::metadata(from.join("sub")).unwrap().mtime_nsec();
        assert_eq!(stat("sub").mtime_nsec(), mtime);
        assert!(stat("sub/deep").is_dir());
        if is_root {
            assert_eq!(
                (stat("a").uid(), stat("a").gid(), stat("a").mode() & 0o7777),
                (1000, 1001, 0o4711)
            );
            assert_eq!(stat("fifo").mode() & 0o7777, 0o400);
        }
        if has_attributes {
            let mut value = [0; 8];
            assert_eq!(rustix::fs::getxattr(to.join("a"), "user.x", &mut value), Ok(1));
        } else {
            println!(
                "the file system of {} has no extended attributes",
                temp.path().display()
            );
        }
        assert_eq!(size(&to).unwrap(), 7 + 11);
        clear(&open(&to)).unwrap();
        assert_eq!(std::fs::read_dir(&to).unwrap().count(), 0);
    }
}
