//! What is known of an image before its blobs are here: manifest and configuration, checked against each other.

use super::Ingest;
use crate::{
    Digest, Error, ImageConfig, ImageId, Reference, Result,
    oci::{Descriptor, Document},
    stack::chains,
};

/// An image that is to be fetched.
#[derive(Debug, Clone)]
pub struct IncomingImage {
    /// Digest of the configuration.
    pub id: ImageId,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// The configuration, parsed.
    pub config: ImageConfig,
    /// Bytes of the configuration, as they came.
    pub(super) config_text: Vec<u8>,
    pub(super) manifest_text: Vec<u8>,
    /// Its layers, bottom first.
    pub layers: Vec<IncomingLayer>,
}

/// One layer of an [`IncomingImage`].
#[derive(Debug, Clone)]
pub struct IncomingLayer {
    /// The blob.
    pub blob: Descriptor,
    /// Digest of the plain archive.
    pub diff_id: Digest,
    /// It and all below it.
    pub chain: Digest,
    /// Blob and unpacked layer were here when the image was looked at ("Already exists").
    pub present: bool,
}

/// An image whose blobs have all been brought, and what it is to be called.
#[derive(Debug)]
pub struct Ingested {
    /// The image.
    pub image: IncomingImage,
    /// The index that it was picked from, as it came: its digest stays the name's digest, and images of the same index for
    /// other platforms stay beside it.
    pub index: Option<Vec<u8>>,
    /// Names (tags and digests) that point at it afterwards.
    pub references: Vec<Reference>,
}

impl Ingest {
    /// Checks an image's manifest against its configuration and says which layers it has. Both are taken as bytes whose digests
    /// the caller has checked against what named them.
    ///
    /// # Errors
    /// [`Error::Unsupported`], [`Error::Json`], [`Error::Corrupt`] when the two don't belong together.
    pub fn image(&self, manifest: &[u8], configuration: &[u8]) -> Result<IncomingImage> {
        let digest = Digest::of(manifest);
        let Document::Manifest(parsed) = Document::parse("", manifest, &self.store.limits)? else {
            return Err(Error::Unsupported(format!(
                "{digest} is an index: pick one of its images first"
            )));
        };
        let id = Digest::of(configuration);
        if id != parsed.config.digest {
            return Err(Error::corrupt(
                parsed.config.digest,
                format!("the configuration that arrived is {id}"),
            ));
        }
        if configuration.len() as u64 > self.store.limits.json_bytes {
            return Err(Error::hostile(
                "configuration",
                format!("document of {} bytes", configuration.len()),
            ));
        }
        let config: ImageConfig = serde_json::from_slice(configuration).map_err(|source| Error::Json {
            what: "image configuration".into(),
            source,
        })?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != parsed.layers.len() {
            return Err(Error::corrupt(
                id,
                format!(
                    "it names {} layers, the manifest {}",
                    diff_ids.len(),
                    parsed.layers.len()
                ),
            ));
        }
        let layers = parsed
            .layers
            .into_iter()
            .zip(diff_ids)
            .zip(chains(diff_ids.iter()));
        let layers = layers.map(|((blob, diff_id), chain)| IncomingLayer {
            present: self.store.layers.has(&chain) && self.store.blobs.size(&blob.digest).is_some(),
            blob,
            diff_id: *diff_id,
            chain,
        });
        let layers: Vec<IncomingLayer> = layers.collect();
        let wanted = layers.iter().map(|layer| (layer.blob.digest, layer.clone()));
        self.state().wanted.extend(wanted);
        Ok(IncomingImage {
            id,
            manifest: digest,
            layers,
            config,
            config_text: configuration.to_vec(),
            manifest_text: manifest.to_vec(),
        })
    }
}
