//! Storage drivers: how layers and containers' root filesystems lie on disk.
//!
//! - `overlay2` ([`overlay`]): a layer is what it changes; the kernel stacks them. The default.
//! - `btrfs` ([`btrfs`]): each layer and container is a subvolume, a snapshot of what is below it.
//! - `vfs` ([`vfs`]): each is a full copy (sharing blocks where the file system can). Works everywhere, costs space.
//!
//! Chosen once, when the store is opened. Called by `layers`, which keeps the directories; a driver only makes and removes
//! them.

mod btrfs;
mod marks;
mod overlay;
mod vfs;

use std::path::Path;

use crate::{Error, Result, unpack::Form};

pub use btrfs::SubvolumeCalls;
pub use marks::is_opaque;
pub(crate) use marks::{is_mark, marks};

/// One way of keeping file systems.
pub(crate) trait Snapshotter: Send + Sync {
    /// Its name, as users choose it.
    fn name(&self) -> &'static str;

    /// What its directories hold.
    fn form(&self) -> Form;

    /// Makes the directory `dest`: for whole trees a copy of `like`, or empty.
    fn make(&self, dest: &Path, like: Option<&Path>) -> Result<()>;

    /// What `info` says of it besides its name: key and value.
    fn status(&self) -> Vec<(String, String)>;
}

/// Names of the drivers, in the order in which they are tried.
pub const DRIVERS: [&str; 3] = ["overlay2", "btrfs", "vfs"];

/// What a store is opened with.
#[derive(Debug, Clone, Default)]
pub struct StorageOptions {
    /// `overlay2`, `btrfs` or `vfs`; empty: the one that is in use below the folder, else the first that works there.
    pub driver: String,
    /// `--storage-opt`s.
    pub options: Vec<String>,
    /// btrfs' system calls, which need `unsafe` and so live elsewhere.
    pub subvolumes: Option<SubvolumeCalls>,
}

impl StorageOptions {
    /// Refuses names and options that no driver here has, with what to use in their place.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`].
    pub fn check(&self) -> Result<()> {
        let refuse = |text: String| Err(Error::InvalidArgument(text));
        let known = "use overlay2 (the default), btrfs (on a btrfs file system) or vfs";
        match self.driver.as_str() {
            "" | "overlay2" | "btrfs" | "vfs" => {}
            "overlay" => {
                return refuse(format!(
                    "storage driver overlay was replaced by overlay2: {known}"
                ));
            }
            "aufs" | "devicemapper" => {
                return refuse(format!(
                    "storage driver {} is not supported: Docker and current kernels have dropped it: {known}",
                    self.driver
                ));
            }
            "zfs" => {
                return refuse(format!(
                    "storage driver zfs is not supported: {known}; overlay2 works on ZFS 2.2 and later, vfs on any ZFS"
                ));
            }
            "fuse-overlayfs" => {
                return refuse(format!(
                    "storage driver fuse-overlayfs is not supported, since the daemon runs as root: {known}"
                ));
            }
            other => return refuse(format!("unknown storage driver {other:?}: {known}")),
        }
        match self.options.first() {
            None => Ok(()),
            Some(option) => {
                let key = option.split('=').next().unwrap_or_default();
                let hint = match key {
                    "overlay2.override_kernel_check" => "it does nothing in Docker either: leave it out",
                    "overlay2.size" | "vfs.size" | "size" => {
                        "limits of a container's file system are not supported: give --data-dir a file system of that size"
                    }
                    "btrfs.min_space" => "quotas of subvolumes are not supported",
                    _ => "no storage driver has such an option",
                };
                refuse(format!("storage option {key}: {hint}"))
            }
        }
    }

    /// The driver for a store whose folder is chosen from `data_dir`, by Docker's rules: what is named; else what is in use
    /// already; else the first that works.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the named one can't work there, or when several are in use and none is named.
    pub fn choose(&self, data_dir: &Path) -> Result<String> {
        self.check()?;
        if !self.driver.is_empty() {
            self.try_driver(&self.driver, data_dir)?;
            return Ok(self.driver.clone());
        }
        let used: Vec<&str> = DRIVERS
            .into_iter()
            .filter(|name| data_dir.join(folder_of(name)).join("images.json").exists())
            .collect();
        match used[..] {
            [] => {}
            [one] => return Ok(one.to_owned()),
            _ => {
                return Err(Error::InvalidArgument(format!(
                    "{} contains several valid storage drivers: {}; remove the folders of the others or choose one with \
                     --storage-driver",
                    data_dir.display(),
                    used.join(", ")
                )));
            }
        }
        let mut last = None;
        for name in DRIVERS {
            match self.try_driver(name, data_dir) {
                Ok(_) => {
                    if name == "vfs" {
                        tracing::warn!(
                            "storage driver vfs copies whole file systems: give --data-dir a better one"
                        );
                    }
                    return Ok(name.to_owned());
                }
                Err(e) => {
                    tracing::info!(
                        driver = name,
                        error = &e as &dyn std::error::Error,
                        "storage driver can't be used"
                    );
                    last = Some(e);
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::InvalidArgument("no storage driver works here".into())))
    }

    fn try_driver(&self, name: &str, folder: &Path) -> Result<Box<dyn Snapshotter>> {
        Ok(match name {
            "btrfs" => Box::new(btrfs::Btrfs::new(folder, self.subvolumes)?),
            "vfs" => Box::new(vfs::Vfs::new(folder)),
            _ => Box::new(overlay::Overlay::new(folder)?),
        })
    }

    /// The driver of a store in `root`; overlay2 when none is named.
    pub(crate) fn open(&self, root: &Path) -> Result<Box<dyn Snapshotter>> {
        self.check()?;
        self.try_driver(&self.driver, root)
    }
}

/// Folder of a driver's store below the data folder: images unpacked by one are of no use to another.
pub fn folder_of(driver: &str) -> String {
    match driver {
        "overlay2" => "image".to_owned(),
        other => format!("image-{other}"),
    }
}

/// Name of the file system of a folder, as Docker's `info` shows it (statfs(2), and linux/magic.h for those it leaves out).
pub fn backing_filesystem(folder: &Path) -> String {
    let kind = rustix::fs::statfs(folder).map(|stat| u64::try_from(stat.f_type).unwrap_or(0));
    let name = match kind {
        Ok(0xef53) => "extfs",
        Ok(0x5846_5342) => "xfs",
        Ok(BTRFS_MAGIC) => "btrfs",
        Ok(0x0102_1994) => "tmpfs",
        Ok(0x794c_7630) => "overlayfs",
        Ok(0x2fc1_2fc1) => "zfs",
        Ok(0xf2f5_2010) => "f2fs",
        Ok(0x6969) => "nfs",
        Ok(other) => return format!("0x{other:x}"),
        Err(_) => "unknown",
    };
    name.to_owned()
}

const BTRFS_MAGIC: u64 = 0x9123_683e;

#[cfg(test)]
mod tests;
