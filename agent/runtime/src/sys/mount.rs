//! mount_setattr(2), Linux 5.12.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::check;

/// `MOUNT_ATTR_*` of linux/mount.h.
pub(crate) mod attr {
    pub(crate) const RDONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const NOEXEC: u64 = 0x8;
    /// The field that holds the three access time modes.
    pub(crate) const ATIME: u64 = 0x70;
    pub(crate) const NOATIME: u64 = 0x10;
    pub(crate) const STRICTATIME: u64 = 0x20;
    pub(crate) const NODIRATIME: u64 = 0x80;
    pub(crate) const NOSYMFOLLOW: u64 = 0x20_0000;
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Changes attributes (`set`, `clear`) and propagation (`MS_*`, 0 = keep) of the mount that `mount` opens.
pub(crate) fn set_attributes(
    mount: impl AsFd,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
) -> io::Result<()> {
    let attributes = MountAttr {
        set,
        clear,
        propagation,
        userns: 0,
    };
    apply(mount, recursive, attributes)
}

/// Shows the owners of a detached mount as the user namespace `userns` maps them (`MOUNT_ATTR_IDMAP`).
pub(crate) fn set_id_map(mount: impl AsFd, recursive: bool, userns: impl AsFd) -> io::Result<()> {
    const IDMAP: u64 = 0x10_0000;
    let attributes = MountAttr {
        set: IDMAP,
        clear: 0,
        propagation: 0,
        userns: u64::from(userns.as_fd().as_raw_fd().unsigned_abs()),
    };
    apply(mount, recursive, attributes)
}

fn apply(mount: impl AsFd, recursive: bool, attributes: MountAttr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant C string, the struct lives across the call and its size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    check(result).map(drop)
}
