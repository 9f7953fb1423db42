//! Arguments and answers of [`crate::ImageStore`]: plain values without behaviour, shared by all of its operations.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{ContainerConfig, Digest, ImageConfig, Reference, Stack, archive::IdMap};

/// Id of an image: the digest of its configuration, as in Docker.
pub type ImageId = Digest;

/// One image as the store holds it.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration.
    pub id: ImageId,
    /// Digest of the manifest (made by us when the archive had none).
    pub manifest: Digest,
    /// Digest of the image index that its name came with.
    pub index: Option<Digest>,
    /// The configuration, parsed.
    pub config: ImageConfig,
    /// Tags in familiar form, sorted (`busybox:latest`).
    pub repo_tags: Vec<String>,
    /// `name@digest` in familiar form, sorted; only for images that came with one.
    pub repo_digests: Vec<String>,
    /// Chain ids, bottom first.
    pub layers: Vec<Digest>,
    /// Bytes of all unpacked layers.
    pub size: u64,
    /// Creation time of the configuration, ns since the epoch; 0 when it has none.
    pub created: i64,
}

/// One line of an image listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// Digest of the configuration.
    pub id: ImageId,
    /// Tags in familiar form.
    pub repo_tags: Vec<String>,
    /// `name@digest` in familiar form.
    pub repo_digests: Vec<String>,
    /// Bytes of all unpacked layers.
    pub size: u64,
    /// Creation time, ns since the epoch.
    pub created: i64,
    /// Labels of the configuration.
    pub labels: BTreeMap<String, String>,
}

/// Filters of [`crate::ImageStore::list`]; all given ones must hold, values of one filter are alternatives.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Patterns for `name`, `name:tag` (`*`, `?`, `[a-z]`, not across `/`). Only matching tags are listed.
    pub references: Vec<String>,
    /// Only images without (true) or with (false) a tag.
    pub dangling: Option<bool>,
    /// `key` or `key=value`; each must hold.
    pub labels: Vec<String>,
    /// Created before this image.
    pub before: Option<String>,
    /// Created after this image.
    pub since: Option<String>,
    /// Created before this time, ns since the epoch.
    pub until: Option<i64>,
    /// Also images that names have for other platforms.
    pub all: bool,
}

/// Options of [`crate::ImageStore::import`].
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Name to tag the image with.
    pub reference: Option<String>,
    /// Message of the history entry; empty takes Docker's "Imported from -".
    pub message: String,
    /// Dockerfile instructions: CMD ENTRYPOINT ENV EXPOSE LABEL USER VOLUME WORKDIR ONBUILD STOPSIGNAL HEALTHCHECK.
    pub changes: Vec<String>,
    /// `os/arch[/variant]`; `None` is this node's.
    pub platform: Option<String>,
}

/// Options of [`crate::ImageStore::commit_container`].
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Name or id of the image that the container was made from.
    pub parent: String,
    /// Name to tag the image with.
    pub reference: Option<String>,
    /// Author of the image and of its history entry.
    pub author: String,
    /// Comment of the image and of its history entry.
    pub message: String,
    /// Dockerfile instructions, applied to `config`.
    pub changes: Vec<String>,
    /// The container's settings, which become the image's defaults.
    pub config: ContainerConfig,
    /// Command of the history entry.
    pub created_by: String,
    /// Ids of a container with a user namespace.
    pub ids: IdMap,
}

/// How [`crate::ImageStore::layer_of_snapshot`] makes a layer.
#[derive(Debug, Clone, Default)]
pub struct LayerOptions {
    /// Ids of a container with a user namespace.
    pub ids: IdMap,
    /// No file gets a later time than this (seconds since the epoch; `SOURCE_DATE_EPOCH`).
    pub latest: Option<i64>,
}

/// What [`crate::ImageStore::compose`] makes an image of.
#[derive(Debug)]
pub struct NewImage {
    /// Its configuration; `rootfs` is filled in from the stack.
    pub config: ImageConfig,
    /// Its layers.
    pub stack: Stack,
    /// Tags that then point at it.
    pub references: Vec<Reference>,
    /// Of its manifest.
    pub annotations: BTreeMap<String, String>,
    /// It is here until [`crate::ImageStore::let_go`]: after the daemon's death nothing is known of it, and its names stand for
    /// what they stood for before.
    pub is_passing: bool,
}

/// Options of [`crate::ImageStore::remove`].
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Remove although stopped containers or several tags use it.
    pub force: bool,
    /// Keep the content of the image (layers, blobs) when its last tag goes; it stays as an untagged image.
    pub no_prune: bool,
}

/// A container that uses an image, as the engine tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerUse {
    /// Container id.
    pub id: String,
    /// It runs (or is paused), so that even `force` can't take its image.
    pub running: bool,
}

/// One step of a removal, in the order in which they happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A tag or digest reference went, in familiar form.
    Untagged(String),
    /// An image or a layer (chain id) was deleted.
    Deleted(Digest),
}

/// An image that `load` brought in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: ImageId,
    /// The tags that now point at it.
    pub references: Vec<Reference>,
}

/// Progress of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadEvent {
    /// So many bytes of the archive (uncompressed) have been received.
    Received {
        /// Bytes so far.
        bytes: u64,
    },
    /// A layer is about to be unpacked.
    Unpacking {
        /// Its diff id.
        diff_id: Digest,
        /// Size of its blob.
        bytes: u64,
    },
    /// A layer is in place.
    Unpacked {
        /// Its diff id.
        diff_id: Digest,
        /// It was there before and did not have to be unpacked.
        shared: bool,
    },
}

/// One line of `history`, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Image id for the newest line, `None` (`<missing>`) for the others.
    pub id: Option<ImageId>,
    /// Creation time, ns since the epoch.
    pub created: i64,
    /// The command that made the layer.
    pub created_by: String,
    /// Free text.
    pub comment: String,
    /// Unpacked bytes of the layer, 0 for an empty one.
    pub size: u64,
    /// Tags, for the newest line.
    pub tags: Vec<String>,
}

/// A container's root filesystem: an overlay to be mounted, or with drivers of whole trees (btrfs, vfs) a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// What it began as, top first, never empty. The first holds the mount points that every container needs and the
    /// image lacks (`/proc`, `/etc/hosts` …), as Docker's init layer does. Overlayfs' layers; of whole trees that with the
    /// mount points and that without (if the image has any layers).
    pub lower: Vec<PathBuf>,
    /// The container's writable layer; the whole root when `is_tree`.
    pub upper: PathBuf,
    /// overlayfs' work directory, on the same file system as `upper`; not there when `is_tree`.
    pub work: PathBuf,
    /// `upper` is the whole root: nothing is stacked.
    pub is_tree: bool,
}

impl Rootfs {
    /// Overlayfs' layers (top first) of the image alone, without the container's mount points; a single one is a directory
    /// to be used as it is.
    pub fn image_layers(&self) -> &[PathBuf] {
        match self.lower.as_slice() {
            [_, image @ ..] if !image.is_empty() => image,
            init => init,
        }
    }

    /// As [`Rootfs::image_layers`], with the mount points.
    pub fn initial_layers(&self) -> &[PathBuf] {
        if self.is_tree {
            &self.lower[..1]
        } else {
            &self.lower
        }
    }
}

/// Disk use of a container's root filesystem.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RootfsSize {
    /// Bytes written by the container.
    pub rw: u64,
    /// `rw` and the image's layers.
    pub total: u64,
}

/// What the layers of all images take on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayersUsage {
    /// Bytes of layers and blobs of the images that were said to be in use.
    pub held: u64,
    /// Bytes of all blobs: manifests, configurations and layers as they came. They are kept beside the unpacked layers, so that
    /// what goes out again has the digests that it came with.
    pub blobs: u64,
    /// Bytes of all layers, each counted once.
    pub total: u64,
    /// Bytes of an image's layers that other images use too.
    pub shared: BTreeMap<ImageId, u64>,
}

/// Who a container's process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups from the image's group file.
    pub additional_gids: Vec<u32>,
    /// Home directory from the image's passwd file, `/` when it has no entry.
    pub home: String,
}
