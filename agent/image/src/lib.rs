//! Images: references, content store, archives, unpacking, and the directories that containers are mounted from.
//!
//! Layout:
//! - [`Reference`], [`Digest`], [`ImageConfig`]: names, content ids, and what an image says about itself
//! - [`ImageStore`] (`store`): the front door; `catalog` (which images and tags exist), `blobs` (content), `layers`
//!   (unpacked layers and root filesystems)
//! - `load`, `import`, `commit`, `save`, `list`, `remove`: one file per operation; `spool` receives archives, `changes` reads
//!   Dockerfile instructions, `user` finds a container's user
//! - `tar_stream`, `unpack`, `merged`: the strict tar reader, the confined unpacker and the view of stacked layers
//! - [`archive`]: trees to tar archives and back, for `cp`, `export`, `commit`, `diff`
//! - [`scratch`]: archives of FROM-scratch images, for demos and tests
//!
//! The main path: `load` spools the archive, unpacks each layer once by chain id, commits; `prepare_rootfs` then makes a
//! container's directories in well under a millisecond. Everything blocks: async callers use a blocking thread.

pub mod archive;
mod blobs;
mod catalog;
mod changes;
mod commit;
mod config;
mod decompress;
mod digest;
mod error;
mod import;
mod layers;
mod limits;
mod list;
mod load;
mod merged;
mod oci;
mod reference;
mod remove;
mod save;
pub mod scratch;
mod spool;
mod store;
mod tar_stream;
mod types;
mod unpack;
mod user;

pub use config::{ContainerConfig, Healthcheck, HistoryEntry, ImageConfig, RootFs};
pub use digest::{Digest, InvalidDigest};
pub use error::{Error, Result};
pub use limits::Limits;
pub use reference::Reference;
pub use store::ImageStore;
pub use types::{
    CommitOptions, ContainerUse, History, Image, ImageId, ImageSummary, ImportOptions, LayersUsage,
    ListOptions, LoadEvent, Loaded, RemoveOptions, Removed, Rootfs, RootfsSize, User,
};
