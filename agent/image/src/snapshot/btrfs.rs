//! `btrfs`: each layer and each container is a subvolume, made as a snapshot of what is below it in constant time. They are
//! deleted as plain directories are: an empty subvolume goes with rmdir(2) since Linux 4.18.

use std::{ffi::OsStr, fmt, fs::File, io, path::Path};

use super::{BTRFS_MAGIC, Snapshotter};
use crate::{Error, Result, error::At, unpack::Form};

/// btrfs' ioctl(2)s, given by whoever opens the store.
#[derive(Clone, Copy)]
pub struct SubvolumeCalls {
    /// `BTRFS_IOC_SUBVOL_CREATE`: an empty subvolume called so in the directory.
    pub create: fn(&File, &OsStr) -> io::Result<()>,
    /// `BTRFS_IOC_SNAP_CREATE_V2`: a writable snapshot, called so in the directory, of the subvolume.
    pub snapshot: fn(&File, &OsStr, &File) -> io::Result<()>,
}

impl fmt::Debug for SubvolumeCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubvolumeCalls")
    }
}

pub(super) struct Btrfs {
    calls: SubvolumeCalls,
}

impl Btrfs {
    pub(super) fn new(folder: &Path, calls: Option<SubvolumeCalls>) -> Result<Self> {
        let magic = rustix::fs::statfs(folder).at("cannot read the file system of", folder)?;
        if u64::try_from(magic.f_type).ok() != Some(BTRFS_MAGIC) {
            return Err(Error::InvalidArgument(format!(
                "storage driver btrfs can't use {}: it is not on a btrfs file system; use overlay2, or a --data-dir that is",
                folder.display()
            )));
        }
        let calls = calls.ok_or_else(|| {
            Error::InvalidArgument("storage driver btrfs is not built into this program".into())
        })?;
        Ok(Btrfs { calls })
    }
}

impl Snapshotter for Btrfs {
    fn name(&self) -> &'static str {
        "btrfs"
    }

    fn form(&self) -> Form {
        Form::Tree
    }

    fn make(&self, dest: &Path, like: Option<&Path>) -> Result<()> {
        let (Some(parent), Some(name)) = (dest.parent(), dest.file_name()) else {
            return Err(Error::InvalidArgument(format!("{} is no name", dest.display())));
        };
        let dir = File::open(parent).at("cannot open", parent)?;
        match like {
            None => (self.calls.create)(&dir, name).at("cannot make the subvolume", dest),
            Some(like) => {
                let from = File::open(like).at("cannot open", like)?;
                (self.calls.snapshot)(&dir, name, &from).at("cannot make the snapshot", dest)
            }
        }
    }

    fn status(&self) -> Vec<(String, String)> {
        vec![("Btrfs".to_owned(), String::new())]
    }
}
