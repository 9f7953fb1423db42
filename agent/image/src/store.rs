//! [`ImageStore`]: the crate's front door.

use std::{
    io::{Read, Write},
    path::Path,
};

use crate::Result;
use crate::types::*;

/// All images of a daemon and the root filesystems made from them. Blocking, `Send + Sync`.
pub struct ImageStore {}

#[allow(clippy::todo)]
impl ImageStore {
    /// Opens (or makes) the store below `root`.
    pub fn open(_root: &Path) -> Result<Self> {
        todo!()
    }
    /// Loads a docker-save archive or an OCI layout.
    pub fn load(&self, _r: impl Read, _progress: &mut dyn FnMut(LoadEvent)) -> Result<Vec<Loaded>> {
        todo!()
    }
    /// Makes an image from a flat root filesystem archive.
    pub fn import(&self, _r: impl Read, _options: &ImportOptions) -> Result<ImageId> {
        todo!()
    }
    /// Writes images as one archive.
    pub fn save(&self, _names: &[String], _w: impl Write) -> Result<()> {
        todo!()
    }
    /// Lists images, newest first.
    pub fn list(&self, _options: &ListOptions) -> Result<Vec<ImageSummary>> {
        todo!()
    }
    /// Finds an image by name, `name@digest`, id or unique id prefix.
    pub fn get(&self, _name_or_id: &str) -> Result<Image> {
        todo!()
    }
    /// Adds a tag.
    pub fn tag(&self, _source: &str, _target: &str) -> Result<()> {
        todo!()
    }
    /// Removes a tag or an image.
    pub fn remove(
        &self,
        _name: &str,
        _options: &RemoveOptions,
        _in_use: &dyn Fn(&ImageId) -> Vec<ContainerUse>,
    ) -> Result<Vec<Removed>> {
        todo!()
    }
    /// History, newest first.
    pub fn history(&self, _name: &str) -> Result<Vec<History>> {
        todo!()
    }
    /// Makes the directories of a container's root filesystem.
    pub fn prepare_rootfs(&self, _container_id: &str, _image: &Image) -> Result<Rootfs> {
        todo!()
    }
    /// The directories of an existing container's root filesystem.
    pub fn rootfs(&self, _container_id: &str) -> Result<Rootfs> {
        todo!()
    }
    /// Ids of all containers that have a root filesystem here.
    pub fn rootfs_ids(&self) -> Result<Vec<String>> {
        todo!()
    }
    /// Removes a container's root filesystem; no error if there is none.
    pub fn remove_rootfs(&self, _container_id: &str) -> Result<()> {
        todo!()
    }
    /// Disk use of a container's root filesystem.
    pub fn rootfs_size(&self, _container_id: &str) -> Result<RootfsSize> {
        todo!()
    }
    /// Resolves `user[:group]` with the container's passwd and group files.
    pub fn resolve_user(&self, _rootfs: &Rootfs, _user: &str) -> Result<User> {
        todo!()
    }
    /// Resolves one group name or number (`--group-add`).
    pub fn resolve_group(&self, _rootfs: &Rootfs, _group: &str) -> Result<u32> {
        todo!()
    }
}
