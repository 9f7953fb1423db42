//! Paths inside a container's root, resolved by the kernel (`RESOLVE_IN_ROOT`, openat2(2)) so that no symlink
//! leads out and no race between check and use exists: what comes back is a descriptor, and it is used.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat, statat};
use rustix::io::Errno;

use crate::Error;
use crate::error::IoContext;

/// Symlinks followed while missing directories are made.
const MAX_LINKS: u32 = 40;
/// A rename elsewhere in the system makes openat2 give up with EAGAIN.
const MAX_RETRIES: u32 = 128;

/// What to make where a mount target is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// The root directory of a container that is being built or entered.
#[derive(Debug)]
pub(super) struct Root(pub(super) OwnedFd);

impl Root {
    /// Opens a path inside the root.
    pub(super) fn open(&self, path: &Path, flags: OFlags, extra: ResolveFlags) -> Result<OwnedFd, Errno> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() {
            Path::new(".")
        } else {
            relative
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | extra;
        let mut retries = 0;
        loop {
            match openat2(&self.0, relative, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if retries < MAX_RETRIES => retries += 1,
                result => return result,
            }
        }
    }

    /// A mere handle on a path.
    pub(super) fn handle(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH, ResolveFlags::empty())
    }

    /// A handle on a directory that must not be reached through any symlink (procfs and sysfs:
    /// CVE-2023-27561, CVE-2023-28642).
    pub(super) fn plain_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)
    }

    /// A handle on a path, which is made if it is missing, with the directories above it.
    pub(super) fn ensure(&self, path: &Path, kind: Kind) -> Result<OwnedFd, Error> {
        self.ensure_within(path, kind, MAX_LINKS)
    }

    fn ensure_within(&self, path: &Path, kind: Kind, links: u32) -> Result<OwnedFd, Error> {
        let shown = || format!("open {} inside the container", path.display());
        match self.handle(path) {
            Err(Errno::NOENT) => {}
            result => return result.context(shown),
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::NOENT).context(shown);
        };
        let directory = self.ensure_within(parent, Kind::Directory, links)?;
        let made = match kind {
            Kind::Directory => mkdirat(&directory, name, Mode::from_raw_mode(0o755)),
            Kind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(&directory, name, flags, Mode::from_raw_mode(0o755)).map(drop)
            }
        };
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                // A symlink to something missing: make what it points at.
                if let Ok(target) = readlinkat(&directory, name, Vec::new()) {
                    if links == 0 {
                        return Err(Errno::LOOP).context(shown);
                    }
                    let target = PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes()));
                    let target = super::options::inside(&parent.join(target))?;
                    return self.ensure_within(&target, kind, links - 1);
                }
            }
            Err(e) => return Err(e).context(|| format!("create {} inside the container", path.display())),
        }
        self.handle(path).context(shown)
    }
}

use std::os::unix::ffi::OsStringExt;

/// File type and device number of what a handle opens.
pub(super) fn stat_handle(handle: impl AsFd) -> Result<rustix::fs::Stat, Errno> {
    statat(handle, "", AtFlags::EMPTY_PATH)
}
