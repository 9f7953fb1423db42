//! Images: references, content store, archives, unpacking, snapshots.

mod config;
mod digest;
mod error;
mod reference;
pub mod scratch;
mod store;
mod types;

pub use config::{ContainerConfig, Healthcheck, HistoryEntry, ImageConfig, RootFs};
pub use digest::{Digest, InvalidDigest};
pub use error::{Error, Result};
pub use reference::Reference;
pub use store::ImageStore;
pub use types::{
    ContainerUse, History, Image, ImageId, ImageSummary, ImportOptions, ListOptions, LoadEvent, Loaded,
    RemoveOptions, Removed, Rootfs, RootfsSize, User,
};
