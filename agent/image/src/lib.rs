//! Images: references, content store, archives, unpacking, and the directories that containers are mounted from.
//!
//! Layout:
//! - [`Reference`], [`Digest`], [`ImageConfig`]: names, content ids, and what an image says about itself
//! - [`ImageStore`] (`store`): the front door; `catalog` (which images and tags exist), `blobs` (content), `layers`
//!   (unpacked layers and root filesystems)
//! - `load`, `import`, `commit`, `save`, `list`, `remove`: one file per operation; `spool` receives archives, `changes` reads
//!   Dockerfile instructions, `user` finds a container's user
//! - `check`, `recover`: damage found and mended; `room`: what may go first when the disk is full; `measure`: what benches time
//! - `ingest`, `transfer`: blobs on their way in; `contents`: what is here by digest, for peers
//! - `tar_stream`, `unpack`, `merged`: the strict tar reader, the confined unpacker and the view of stacked layers
//! - [`archive`]: trees to tar archives and back, for `cp`, `export`, `commit`, `diff`
//! - [`registry`]: pull, push and their like
//! - [`scratch`]: archives of FROM-scratch images, for demos and tests
//!
//! The main path: `load` spools the archive, unpacks each layer once by chain id, commits; `prepare_rootfs` then makes a
//! container's directories in well under a millisecond. Everything but [`registry`] blocks: async callers use a blocking thread.

pub mod archive;
mod blobs;
pub mod build;
mod catalog;
mod changes;
mod check;
mod commit;
mod config;
mod contents;
mod decompress;
mod digest;
mod error;
mod import;
mod ingest;
mod layers;
mod limits;
mod list;
mod load;
mod measure;
mod merged;
pub mod oci;
mod pipeline;
mod recover;
mod reference;
pub mod registry;
mod remove;
mod room;
mod save;
pub mod scratch;
mod snapshot;
mod spool;
mod stack;
mod store;
mod tail;
mod tar_stream;
mod transfer;
mod types;
mod unpack;
mod user;

pub use build::{DigestWriter, Mode};
pub use changes::duration as instruction_duration;
pub use check::{CheckReport, Problem};
pub use config::{CachedStep, ContainerConfig, Healthcheck, HistoryEntry, ImageConfig, RootFs};
pub use digest::{Digest, InvalidDigest};
pub use error::{Error, Result};
pub use ingest::{IncomingImage, IncomingLayer, Ingest, Ingested, Transfer};
pub use limits::Limits;
pub use measure::{decompress_layer, digest_layer, unpack_layer};
pub use oci::Platform;
pub use reference::Reference;
pub use snapshot::{DRIVERS, StorageOptions, SubvolumeCalls, backing_filesystem, folder_of, is_opaque};
pub use stack::{Stack, StackLayer};
pub use store::ImageStore;
pub use tail::{More, Tail};
pub use transfer::BlobWriter;
pub use types::{
    CommitOptions, ContainerUse, History, Image, ImageId, ImageSummary, ImportOptions, LayerOptions,
    LayersUsage, ListOptions, LoadEvent, Loaded, NewImage, RemoveOptions, Removed, Rootfs, RootfsSize, User,
};
