//! The JSON documents of archives and registries: OCI image spec manifest.md, image-index.md and descriptor.md, their
//! Docker forms, and docker-save's `manifest.json`. Only what the loader, the writer and the registry client need; what
//! this engine does not take (schema 1, unknown kinds, foreign layers) is refused by name in [`Document::parse`].

mod document;
mod platform;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, config::null_default, decompress::Compression};

pub use document::Document;
pub use platform::Platform;

/// Media type of an OCI manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of Docker's image index.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Media type of Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of an OCI image configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The full reference, as containerd and Docker write it into an index.
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";
/// The tag, or with some tools the full reference.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Buildkit marks manifests that are no images with it.
pub(crate) const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// What names a blob: kind, digest and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type.
    #[serde(default)]
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Bytes of the content.
    pub size: u64,
    /// Where else to fetch it (foreign layers).
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub urls: Vec<String>,
    /// Annotations.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// What the image behind it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// A descriptor without annotations.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
        }
    }

    /// An attestation or the like beside images, not an image.
    pub fn is_attestation(&self) -> bool {
        self.annotations.contains_key(REFERENCE_TYPE)
    }

    fn is_index(&self) -> bool {
        [INDEX, DOCKER_LIST].contains(&self.media_type.as_str())
    }
}

/// An image index: one name, an image for each platform.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Media type, may be missing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The images, and what belongs to them.
    #[serde(default, deserialize_with = "null_default")]
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// The first image for a platform; a nested index or an image without a platform counts as fitting.
    pub fn select(&self, platform: &Platform) -> Option<&Descriptor> {
        let images = || self.manifests.iter().filter(|d| !d.is_attestation());
        let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| platform.is_met_by(p));
        images()
            .find(fits)
            .or_else(|| images().find(|d| d.is_index() || d.platform.is_none()))
    }

    /// Platforms of the images in it, for messages.
    pub fn platforms(&self) -> Vec<String> {
        let images = self.manifests.iter().filter(|d| !d.is_attestation());
        images
            .filter_map(|d| d.platform.as_ref().map(ToString::to_string))
            .collect()
    }
}

/// An image: its configuration and its layers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Media type, may be missing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// Layer blobs, bottom first.
    #[serde(default, deserialize_with = "null_default")]
    pub layers: Vec<Descriptor>,
    /// Annotations.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// The manifest of an image that came without one.
    pub(crate) fn new(config: (Digest, u64), layers: Vec<Descriptor>) -> Self {
        Manifest {
            schema_version: 2,
            media_type: MANIFEST.into(),
            config: Descriptor::new(CONFIG, config.0, config.1),
            layers,
            annotations: BTreeMap::new(),
        }
    }
}

pub(crate) fn layer_type(compression: Compression) -> &'static str {
    match compression {
        Compression::Plain => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}

/// Docker's names for layers in OCI's words: a manifest has one kind.
pub(crate) fn oci_layer_type(media_type: &str) -> String {
    media_type
        .replace(
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.oci.image.layer.v1.tar",
        )
        .replace(".tar.gzip", ".tar+gzip")
        .replace(".tar.zstd", ".tar+zstd")
}

/// One image of docker-save's `manifest.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SavedImage {
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) repo_tags: Option<Vec<String>>,
    #[serde(default, deserialize_with = "null_default")]
    pub(crate) layers: Vec<String>,
}
