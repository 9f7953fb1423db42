//! Manifests and indexes as bytes: which of the two it is, and whether it is one that this engine takes. Everything else (schema 1,
//! unknown kinds, charts, foreign layers) is refused by name. Called by the loader and the registry client.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{CONFIG, DOCKER_LIST, DOCKER_MANIFEST, INDEX, Index, MANIFEST, Manifest};
use crate::{Error, Limits, Result};

const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1";

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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(media_type: &str, text: &str) -> Result<Document> {
        Document::parse(media_type, text.as_bytes(), &Limits::default())
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
