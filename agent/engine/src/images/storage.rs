//! The storage driver: chosen when the engine opens, and how a root file system of each is mounted.

use pontoon_image::{Rootfs, StorageOptions, SubvolumeCalls};
use pontoon_runtime::RootfsMount;

use crate::engine::make_dir;
use crate::{EngineConfig, Error, Result};

/// The driver to open the image store with.
///
/// # Errors
/// A driver or option that does not exist, or can't work on the data folder's file system.
pub(crate) fn storage(config: &EngineConfig) -> Result<StorageOptions> {
    make_dir(&config.data_dir)?;
    let mut storage = config.storage.clone();
    storage.subvolumes = Some(SubvolumeCalls {
        create: pontoon_runtime::create_subvolume,
        snapshot: pontoon_runtime::snapshot_subvolume,
    });
    storage.driver = storage.choose(&config.data_dir).map_err(Error::Image)?;
    if storage.driver != "overlay2" && !config.userns_remap.is_empty() {
        return Err(Error::Invalid(format!(
            "userns-remap needs storage driver overlay2: with {} files belong to the host's users",
            storage.driver
        )));
    }
    make_dir(&config.data_dir.join(pontoon_image::folder_of(&storage.driver)))?;
    Ok(storage)
}

/// What the runtime makes a container's root of.
pub(crate) fn mount_of(rootfs: Rootfs) -> RootfsMount {
    if rootfs.is_tree {
        return RootfsMount::Bind(rootfs.upper);
    }
    RootfsMount::Overlay {
        lower: rootfs.lower,
        upper: rootfs.upper,
        work: rootfs.work,
    }
}
