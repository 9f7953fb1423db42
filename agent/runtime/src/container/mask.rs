//! Paths that are hidden or read-only. Every step works on descriptors that were checked, never on a path
//! twice (CVE-2025-31133).

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, major, minor};
use rustix::io::Errno;

use super::mounts::{attach, copy_handle};
use super::resolve::{Root, stat_handle};
use super::rootfs::new_file_system;
use crate::Error;
use crate::error::IoContext;
use crate::sys::mount::{attr, set_attributes};

/// The host's null device, checked to be that.
pub(super) fn open_null() -> Result<OwnedFd, Error> {
    let null = rustix::fs::open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open /dev/null")?;
    let stat = stat_handle(&null).context(|| "stat /dev/null")?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3);
    if is_null {
        Ok(null)
    } else {
        Err(Error::Create(
            "the host's /dev/null is not the null device".to_owned(),
        ))
    }
}

/// Hides files behind the null device and directories behind an empty read-only tmpfs.
pub(super) fn mask(root: &Root, paths: &[String], null: &OwnedFd) -> Result<(), Error> {
    for path in paths {
        let what = || format!("mask {path}");
        let Some(target) = existing(root, path)? else {
            continue;
        };
        let kind = FileType::from_raw_mode(stat_handle(&target).context(what)?.st_mode);
        let cover = if kind == FileType::Directory {
            let parameters = [
                ("size".to_owned(), Some("4k".to_owned())),
                ("nr_inodes".to_owned(), Some("1".to_owned())),
            ];
            new_file_system(
                "tmpfs",
                "tmpfs",
                &parameters,
                attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC,
            )?
        } else {
            let cover = copy_handle(null, false).context(what)?;
            set_attributes(&cover, false, 0, 0, libc::MS_PRIVATE).context(what)?;
            cover
        };
        attach(&cover, target.as_fd()).context(what)?;
    }
    Ok(())
}

/// Covers paths with read-only copies of themselves.
pub(super) fn make_read_only(root: &Root, paths: &[String]) -> Result<(), Error> {
    for path in paths {
        let what = || format!("make {path} read-only");
        let Some(target) = existing(root, path)? else {
            continue;
        };
        let copy = copy_handle(&target, true).context(what)?;
        set_attributes(&copy, true, attr::RDONLY, 0, libc::MS_PRIVATE).context(what)?;
        attach(&copy, target).context(what)?;
    }
    Ok(())
}

fn existing(root: &Root, path: &str) -> Result<Option<OwnedFd>, Error> {
    match root.handle(Path::new(path)) {
        Ok(handle) => Ok(Some(handle)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e).context(|| format!("open {path} inside the container")),
    }
}
