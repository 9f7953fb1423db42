//! Makes docker-loadable archives of FROM-scratch images, for demos and tests. Output is deterministic: equal input
//! gives equal bytes, so equal image ids.

use std::{io::Write, path::Path};

use crate::config::ImageConfig;
use crate::{ContainerConfig, ImageId, Reference, Result};

/// Collects files and configuration, then writes the archive.
#[derive(Default)]
pub struct Builder {
    config: ImageConfig,
}

#[allow(clippy::todo)]
impl Builder {
    /// An empty image.
    pub fn new() -> Self {
        Builder::default()
    }
    /// Adds a regular file; parent directories are made 0755.
    pub fn file(self, _path: &str, _mode: u32, _bytes: impl Into<Vec<u8>>) -> Self {
        todo!()
    }
    /// Adds a file of the host.
    pub fn host_file(self, _path: &str, _mode: u32, _source: &Path) -> Result<Self> {
        todo!()
    }
    /// Adds a symbolic link.
    pub fn symlink(self, _path: &str, _target: &str) -> Self {
        todo!()
    }
    /// Adds a directory.
    pub fn dir(self, _path: &str, _mode: u32) -> Self {
        todo!()
    }
    /// Sets the container defaults: command, entrypoint, environment, ports, health check, labels.
    pub fn config(mut self, config: ContainerConfig) -> Self {
        self.config.config = config;
        self
    }
    /// Writes the archive under these names; gives the image's id.
    pub fn write(self, _references: &[Reference], _w: impl Write) -> Result<ImageId> {
        todo!()
    }
}
