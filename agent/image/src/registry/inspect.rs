//! `manifest inspect`: a manifest as the registry has it, and with `--verbose` the manifests of an index one by one.

use super::{
    auth::Credentials,
    client::Registry,
    download::small_blob,
    error::Result,
    manifest::Received,
    session::{Purpose, Session},
};
use crate::{Digest, Platform, Reference, oci::Document};

/// A manifest in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedManifest {
    /// `name@digest`
    pub reference: String,
    /// Its bytes, as they are.
    pub bytes: Vec<u8>,
    /// Its media type.
    pub media_type: String,
    /// The platform that the index gives for it, or the image's configuration; none for an index.
    pub platform: Option<Platform>,
}

impl Registry {
    /// The manifest that a reference stands for, and with `entries` those of the images in an index. `insecure` takes any
    /// certificate and plain HTTP.
    ///
    /// # Errors
    /// The registry's.
    pub async fn inspect(
        &self,
        reference: &Reference,
        (entries, insecure): (bool, bool),
        credentials: &Credentials,
    ) -> Result<Vec<InspectedManifest>> {
        let reference = reference.clone().with_default_tag();
        let mut settings = self.settings();
        if insecure {
            settings.add_insecure(reference.domain())?;
        }
        let shared = if insecure {
            Registry::new(settings).shared()
        } else {
            self.shared()
        };
        let place = (reference.domain(), reference.path());
        let session = Session::first(&shared, place, Purpose::Pull, credentials).await?;
        let name = reference.familiar();
        let which = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let top = session.document(&which, &name).await?;
        let shown = |received: Received, platform| InspectedManifest {
            reference: reference.with_digest(received.digest).to_string(),
            bytes: received.bytes,
            media_type: received.media_type,
            platform,
        };
        if !entries {
            return Ok(vec![shown(top, None)]);
        }
        let index = match &top.document {
            Document::Manifest(_) => {
                let platform = session.platform_of(&top).await?;
                return Ok(vec![shown(top, Some(platform))]);
            }
            Document::Index(index) => index.clone(),
        };
        let mut found = Vec::new();
        for entry in index.manifests {
            let received = session.document(&entry.digest.to_string(), &name).await?;
            found.push(shown(received, entry.platform));
        }
        Ok(found)
    }
}

impl Registry {
    /// Digest of what a name stands for in the registry, without fetching anything: what a cluster pins a service's image to.
    ///
    /// # Errors
    /// The registry's.
    pub async fn digest(&self, reference: &Reference, credentials: &Credentials) -> Result<Digest> {
        let reference = reference.clone().with_default_tag();
        if let Some(digest) = reference.digest() {
            return Ok(*digest);
        }
        let place = (reference.domain(), reference.path());
        let session = Session::first(&self.shared(), place, Purpose::Pull, credentials).await?;
        let tag = reference.tag().unwrap_or("latest");
        let name = reference.familiar();
        match session.head(tag, &name).await? {
            Some(digest) => Ok(digest),
            // A registry that does not say it shows it.
            None => Ok(session.document(tag, &name).await?.digest),
        }
    }
}

impl Session {
    async fn platform_of(&self, received: &Received) -> Result<Platform> {
        let Document::Manifest(manifest) = &received.document else {
            return Ok(Platform::default());
        };
        let config = &manifest.config;
        let text = small_blob(self, config, 4 << 20).await?;
        let config: crate::ImageConfig =
            serde_json::from_slice(&text).map_err(|source| crate::Error::Json {
                what: "image configuration".into(),
                source,
            })?;
        Ok(Platform {
            os: config.os,
            architecture: config.architecture,
            variant: config.variant,
        })
    }
}
