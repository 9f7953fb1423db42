//! Subvolumes of btrfs: ioctl(2) calls that no safe wrapper covers (linux/btrfs.h).

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::ffi::OsStrExt,
    },
};

/// `BTRFS_IOC_SUBVOL_CREATE`: `_IOW(0x94, 14, struct btrfs_ioctl_vol_args)`.
const SUBVOL_CREATE: libc::Ioctl = 0x5000_940e_u32 as libc::Ioctl;
/// `BTRFS_IOC_SNAP_CREATE_V2`: `_IOW(0x94, 23, struct btrfs_ioctl_vol_args_v2)`.
const SNAP_CREATE_V2: libc::Ioctl = 0x5000_9417_u32 as libc::Ioctl;
/// `BTRFS_SUBVOL_NAME_MAX`, and what the first structure has room for.
const NAME_MAX: usize = 255;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolumeArguments {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolumeArguments2 {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

fn put_name(into: &mut [u8], name: &OsStr) -> io::Result<()> {
    let name = name.as_bytes();
    if name.is_empty() || name.len() > NAME_MAX || name.contains(&0) || name.contains(&b'/') {
        return Err(io::Error::from(io::ErrorKind::InvalidFilename));
    }
    into[..name.len()].copy_from_slice(name);
    Ok(())
}

/// Makes an empty subvolume called `name` in a directory.
pub(crate) fn create_subvolume(dir: &File, name: &OsStr) -> io::Result<()> {
    let mut arguments = Box::new(VolumeArguments {
        fd: 0,
        name: [0; 4088],
    });
    put_name(&mut arguments.name, name)?;
    call(dir.as_raw_fd(), SUBVOL_CREATE, &*arguments)
}

/// Makes a writable snapshot of the subvolume `of`, called `name`, in a directory.
pub(crate) fn snapshot_subvolume(dir: &File, name: &OsStr, of: &File) -> io::Result<()> {
    let mut arguments = Box::new(VolumeArguments2 {
        fd: i64::from(of.as_raw_fd()),
        transaction: 0,
        flags: 0,
        unused: [0; 4],
        name: [0; 4040],
    });
    put_name(&mut arguments.name, name)?;
    call(dir.as_raw_fd(), SNAP_CREATE_V2, &*arguments)
}

fn call<T>(dir: RawFd, request: libc::Ioctl, arguments: &T) -> io::Result<()> {
    const {
        assert!(
            std::mem::size_of::<T>() == 4096,
            "the request's number says 4096 bytes"
        )
    };
    // SAFETY: both requests read as many bytes as `arguments` has (checked above) and write nothing to them; the
    // descriptors are open for the whole call. Another file system's answer is ENOTTY.
    let result = unsafe { libc::ioctl(dir, request, std::ptr::from_ref(arguments)) };
    super::check(result.into()).map(drop)
}
