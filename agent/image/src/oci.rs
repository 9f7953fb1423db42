//! The JSON documents of archives and registries: OCI image spec manifest.md, image-index.md and descriptor.md, their
//! Docker forms, and docker-save's `manifest.json`. Only what the loader, the writer and the registry client need; what
//! this engine does not take (schema 1, unknown kinds, foreign layers) is refused by name in [`Document::parse`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Error, Limits, Result, config::null_default, decompress::Compression};

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
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1";
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

/// `os/architecture[/variant]` in Go's names.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64` …
    #[serde(default)]
    pub architecture: String,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `v8` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// This node's.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Platform {
            architecture: architecture.into(),
            os: "linux".into(),
            variant: None,
        }
    }

    /// Reads `os[/architecture[/variant]]` or an architecture alone, with containerd's aliases.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`].
    pub fn parse(text: &str) -> Result<Self> {
        let host = Platform::host();
        let invalid = || {
            Error::InvalidArgument(format!(
                "platform {text:?}: expected linux/<arch>[/<variant>], for instance {host}"
            ))
        };
        let plain = |p: &&str| {
            !p.is_empty()
                && p.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        let lower = text.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        if !parts.iter().all(plain) {
            return Err(invalid());
        }
        let (os, architecture, variant) = match parts[..] {
            ["linux"] => ("linux", host.architecture.as_str(), None),
            ["windows" | "darwin" | "freebsd"] => (parts[0], host.architecture.as_str(), None),
            [architecture] => ("linux", architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(invalid()),
        };
        let (architecture, implied) = match architecture {
            "x86_64" | "x86-64" => ("amd64", None),
            "aarch64" | "arm64" => ("arm64", None),
            "i386" | "i686" => ("386", None),
            "armhf" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            other => (other, None),
        };
        // containerd's normalisation: these variants are what the architecture means alone.
        let variant = variant
            .or(implied)
            .filter(|v| (architecture, *v) != ("amd64", "v1"));
        Ok(Platform {
            architecture: architecture.into(),
            os: os.into(),
            variant: variant.map(|v| {
                if v.starts_with('v') {
                    v.to_owned()
                } else {
                    format!("v{v}")
                }
            }),
        })
    }

    /// Runs on this node.
    pub fn runs_here(&self) -> bool {
        Platform::host().is_met_by(self)
    }

    /// An image for `other` is what a user who asks for this platform gets. A variant counts only when it is asked for.
    pub fn is_met_by(&self, other: &Platform) -> bool {
        let os = if other.os.is_empty() { "linux" } else { &other.os };
        let variant = |p: &Platform| {
            p.variant
                .clone()
                .filter(|v| !(p.architecture == "arm64" && v == "v8"))
        };
        self.os == os
            && (self.architecture == other.architecture || other.architecture.is_empty())
            && (variant(self).is_none() || variant(self) == variant(other))
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|v| write!(f, "/{v}"))
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

/// A manifest as a registry or a layout names it.
#[derive(Debug, Clone)]
// One at a time, taken apart at once.
#[allow(clippy::large_enum_variant)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

impl Document {
    /// Reads a manifest or an index. `media_type` is what its sender or descriptor says; empty: what the document itself says.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for schema 1 and for kinds that are no images, [`Error::Json`], [`Error::HostileArchive`] when it
    /// is larger or names more than `limits` allow.
    pub fn parse(media_type: &str, text: &[u8], limits: &Limits) -> Result<Self> {
        if text.len() as u64 > limits.json_bytes {
            return Err(Error::hostile(
                "manifest",
                format!("document of {} bytes", text.len()),
            ));
        }
        let json = |source| Error::Json {
            what: "image manifest".into(),
            source,
        };
        let shape: Shape = serde_json::from_slice(text).map_err(json)?;
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        let kind = match (media_type, shape.media_type.as_str()) {
            ("" | "application/json" | "text/plain" | "application/octet-stream", inside) => inside,
            // A document of one kind that is served as another is how CVE-2021-41190 confuses readers.
            (outside, inside) if !inside.is_empty() && inside != outside => {
                return Err(Error::Unsupported(format!(
                    "manifest says it is {inside:?} but was served as {outside:?}"
                )));
            }
            (outside, _) => outside,
        };
        if shape.schema_version == Some(1) || kind.starts_with(SCHEMA1) {
            return Err(Error::Unsupported(
                "manifest schema version 1 is not supported: it was removed from Docker as well; push the image again with a \
                 current tool"
                    .into(),
            ));
        }
        let (has_layers, has_manifests) = (shape.layers || shape.config, shape.manifests);
        match kind {
            MANIFEST | DOCKER_MANIFEST => {}
            INDEX | DOCKER_LIST => {}
            "" if has_layers != has_manifests => {}
            "" => {
                return Err(Error::Unsupported(
                    "manifest is neither an image nor an index of images".into(),
                ));
            }
            other => {
                return Err(Error::Unsupported(format!(
                    "unsupported manifest media type {other:?}: images are {MANIFEST}, {DOCKER_MANIFEST}, {INDEX} or {DOCKER_LIST}"
                )));
            }
        }
        let is_index = [INDEX, DOCKER_LIST].contains(&kind) || kind.is_empty() && has_manifests;
        if is_index && has_layers || !is_index && has_manifests {
            return Err(Error::Unsupported(
                "manifest is an image and an index of images at once".into(),
            ));
        }
        if is_index {
            let index: Index = serde_json::from_slice(text).map_err(json)?;
            check_count("manifests", index.manifests.len(), limits.images)?;
            return Ok(Document::Index(index));
        }
        let manifest: Manifest = serde_json::from_slice(text).map_err(json)?;
        check_count("layers", manifest.layers.len(), limits.layers)?;
        check_kinds(&manifest)?;
        Ok(Document::Manifest(manifest))
    }
}

/// Which members a document has.
struct Shape {
    schema_version: Option<u64>,
    media_type: String,
    layers: bool,
    config: bool,
    manifests: bool,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let all = BTreeMap::<String, serde_json::Value>::deserialize(d)?;
        let has = |name: &str| all.get(name).is_some_and(|v| !v.is_null());
        Ok(Shape {
            schema_version: all.get("schemaVersion").and_then(serde_json::Value::as_u64),
            media_type: all
                .get("mediaType")
                .and_then(serde_json::Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            layers: has("layers"),
            config: has("config"),
            manifests: has("manifests"),
        })
    }
}

fn check_count(what: &str, count: usize, limit: usize) -> Result<()> {
    if count > limit {
        return Err(Error::hostile("manifest", format!("more than {limit} {what}")));
    }
    Ok(())
}

/// Artifacts (charts, signatures) have manifests too: they are no images.
fn check_kinds(manifest: &Manifest) -> Result<()> {
    let config = manifest.config.media_type.as_str();
    if ![CONFIG, DOCKER_CONFIG, "", "application/octet-stream"].contains(&config) {
        return Err(Error::Unsupported(format!(
            "it is no image: its configuration is of type {config:?}"
        )));
    }
    for layer in &manifest.layers {
        let kind = layer.media_type.as_str();
        if kind.contains(".foreign.") || kind.contains(".nondistributable.") && !layer.urls.is_empty() {
            return Err(Error::Unsupported(format!(
                "layer {} is a foreign layer ({kind}), which only Windows images have",
                layer.digest
            )));
        }
        let known = kind.is_empty()
            || kind.starts_with("application/vnd.oci.image.layer.")
            || kind.starts_with("application/vnd.docker.image.rootfs.diff.tar");
        if !known || kind.ends_with("+encrypted") {
            return Err(Error::Unsupported(format!(
                "layer {} is of the unsupported media type {kind:?}",
                layer.digest
            )));
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(media_type: &str, text: &str) -> Result<Document> {
        Document::parse(media_type, text.as_bytes(), &Limits::default())
    }

    #[test]
    fn platforms_are_read_as_containerd_does() {
        for (text, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64/v8"),
            ("linux/arm/7", "linux/arm/v7"),
            ("armhf", "linux/arm/v7"),
            ("Linux/AArch64", "linux/arm64"),
        ] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), shown);
        }
        for text in ["", "/", "linux/", "a/b/c/d", "linux/am d64"] {
            assert!(Platform::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_variant_counts_when_it_is_asked_for() {
        let arm = |text| Platform::parse(text).unwrap();
        assert!(arm("linux/arm").is_met_by(&arm("linux/arm/v6")));
        assert!(!arm("linux/arm/v7").is_met_by(&arm("linux/arm/v6")));
        assert!(arm("linux/arm64").is_met_by(&arm("linux/arm64/v8")));
        assert!(!arm("linux/amd64").is_met_by(&arm("linux/arm64")));
    }

    #[test]
    fn what_is_no_image_is_refused_by_name() {
        let config = format!(r#"{{"digest":"sha256:{}","size":1}}"#, "a".repeat(64));
        let image = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#);
        assert!(matches!(parse(MANIFEST, &image), Ok(Document::Manifest(_))));
        assert!(matches!(parse("", &image), Ok(Document::Manifest(_))));
        let refused = |media_type: &str, text: &str| match parse(media_type, text) {
            Err(Error::Unsupported(text)) => text,
            other => panic!("{other:?}"),
        };
        let old = r#"{"schemaVersion":1,"fsLayers":[]}"#;
        assert!(refused("", old).contains("schema version 1"));
        assert!(
            refused("application/vnd.docker.distribution.manifest.v1+prettyjws", "{}")
                .contains("schema version 1")
        );
        assert!(refused("application/x-mine", &image).contains("application/x-mine"));
        assert!(refused("", r#"{"schemaVersion":2}"#).contains("neither"));
        assert!(refused(INDEX, &image).contains("at once"));
        let both = image.replace(
            "\"layers\"",
            "\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"layers\"",
        );
        assert!(refused(MANIFEST, &both).contains("served as"));
        let chart = image.replace(
            "\"size\":1",
            "\"size\":1,\"mediaType\":\"application/vnd.cncf.helm.config.v1+json\"",
        );
        assert!(refused("", &chart).contains("no image"));
        let layer = image.replace(
            "[]",
            &format!(
                "[{}]",
                config.replace("\"size\"", "\"mediaType\":\"text/html\",\"size\"")
            ),
        );
        assert!(refused("", &layer).contains("text/html"));
        let many = image.replace("[]", &format!("[{}]", vec![config; 500].join(",")));
        assert!(matches!(parse("", &many), Err(Error::HostileArchive { .. })));
    }
}
