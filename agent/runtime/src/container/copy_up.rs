//! `tmpcopyup`: a tmpfs that begins as a copy of the directory that it covers. Called while mounts are made,
//! in the container's own mount namespace; symlinks are copied, never followed.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, fchmod, fchown, mkdirat, mknodat,
    openat, readlinkat, statat, symlinkat,
};

use crate::Error;
use crate::error::IoContext;

/// Deepest directory that is copied.
const MAX_DEPTH: u32 = 256;

/// Copies the content of `from` (a handle on a directory) into the root of a detached tmpfs.
pub(super) fn copy(from: &OwnedFd, tree: &OwnedFd) -> Result<(), Error> {
    directory(from, tree, MAX_DEPTH).context(|| "copy the directory's content into the tmpfs")
}

fn directory(from: &OwnedFd, to: &OwnedFd, depth: u32) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::from_raw_os_error(libc::ELOOP));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(from, ".", flags, Mode::empty())?;
    for entry in Dir::read_from(&opened)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = openat(&opened, name, flags, Mode::empty())?;
                mkdirat(to, name, Mode::from_raw_mode(0o700))?;
                let made = openat(to, name, flags, Mode::empty())?;
                directory(&inner, &made, depth - 1)?;
                fchown(&made, owner.0, owner.1)?;
                fchmod(&made, mode)?;
            }
            FileType::RegularFile => {
                let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = openat(&opened, name, read, Mode::empty())?;
                let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target = openat(to, name, write, Mode::from_raw_mode(0o600))?;
                let mut target = std::fs::File::from(target);
                io::copy(&mut std::fs::File::from(source), &mut target)?;
                fchown(target.as_fd(), owner.0, owner.1)?;
                fchmod(target.as_fd(), mode)?;
            }
            FileType::Symlink => {
                symlinkat(readlinkat(&opened, name, Vec::new())?, to, name)?;
                chownat(to, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            kind => {
                mknodat(to, name, kind, mode, stat.st_rdev)?;
                chownat(to, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
                chmodat(to, name, mode, AtFlags::empty())?;
            }
        }
    }
    Ok(())
}
