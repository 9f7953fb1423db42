//! `push`: layers at once, then the configuration, then the manifest. A manifest that came with the image goes out byte by byte; one
//! that was made here names plain layers, which go out compressed under a manifest that says so.

use std::{fs::File, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Method, StatusCode, header};

use super::{
    auth::Credentials,
    client::Registry,
    compress::{self, Compressed},
    error::{Error, Result},
    platform::rank,
    progress::Progress,
    pull::on_thread,
    session::{Purpose, Session},
    upload::{Blob, Content, Uploaded, exists, mounted, refused, upload},
};
use crate::{
    Digest, Image, ImageStore, Platform, Reference,
    decompress::Compression,
    oci::{self, Descriptor, Manifest},
    spool::Spool,
};

/// What a push needs to know of an image.
struct Outgoing {
    image: Image,
    /// The manifest's bytes.
    text: Vec<u8>,
    manifest: Manifest,
    /// We made the manifest: its layers may be compressed on their way out.
    made_here: bool,
    /// Repositories of the same registry that have had blobs of ours, for taking them from there.
    neighbours: Vec<(Digest, String)>,
}

impl Outgoing {
    fn of(store: &ImageStore, reference: &Reference, platform: Option<&Platform>) -> Result<Self> {
        let image = match platform {
            Some(platform) => store.get_platform(&reference.to_string(), platform),
            None => store.get(&reference.to_string()),
        };
        let image = image.map_err(|error| match error {
            crate::Error::NotFound(_) => Error::Settings(format!(
                "An image does not exist locally with the tag: {}",
                reference.familiar_name()
            )),
            other => other.into(),
        })?;
        let (text, manifest) = store.manifest(&image.id)?;
        let catalog = store.view();
        let mut neighbours = Vec::new();
        for (other, target) in &catalog.references {
            // Only a digest says that the registry has (had) it.
            let elsewhere = other.digest().is_some() && other.path() != reference.path();
            if !elsewhere || other.domain() != reference.domain() {
                continue;
            }
            let records = target.images().filter_map(|id| catalog.images.get(id));
            let blobs = records.flat_map(|record| record.blobs.iter().copied());
            neighbours.extend(blobs.map(|blob| (blob, other.path().to_owned())));
        }
        Ok(Outgoing {
            made_here: catalog
                .images
                .get(&image.id)
                .is_some_and(|record| record.made_here),
            image,
            text,
            manifest,
            neighbours,
        })
    }
}

/// What a push brought into the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The tag.
    pub tag: String,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
}

impl Registry {
    /// Pushes one tag.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn push(
        &self,
        store: &Arc<ImageStore>,
        reference: &Reference,
        (platform, credentials): (Option<&Platform>, &Credentials),
        progress: &Progress,
    ) -> Result<Pushed> {
        let reference = reference.clone().with_default_tag();
        let outgoing = {
            let (store, reference, platform) = (store.clone(), reference.clone(), platform.cloned());
            on_thread(move || Outgoing::of(&store, &reference, platform.as_ref())).await?
        };
        let config = &outgoing.image.config;
        let own = Platform {
            os: config.os.clone(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
        };
        if let Some(wanted) = platform
            && rank(wanted, &own).is_none()
        {
            return Err(Error::Settings(format!(
                "image with reference {} was found but does not provide the specified platform ({wanted})",
                reference.familiar()
            )));
        }
        let place = (reference.domain(), reference.path());
        let session = Session::first(&self.shared(), place, Purpose::Push, credentials).await?;
        let push = Push {
            session,
            store: store.clone(),
            outgoing,
            progress: progress.clone(),
        };
        let pushed = push.run(&reference).await?;
        let (store, name, id) = (
            store.clone(),
            reference.with_digest(pushed.digest),
            push.outgoing.image.id,
        );
        on_thread(move || {
            Ok(store.change(|catalog| {
                // The image may have been removed meanwhile: then it has no names.
                if catalog.images.contains_key(&id) {
                    catalog.point(name, id, None);
                }
                Ok(())
            })?)
        })
        .await?;
        Ok(pushed)
    }
}

/// One push under way.
struct Push {
    session: Session,
    store: Arc<ImageStore>,
    outgoing: Outgoing,
    progress: Progress,
}

impl Push {
    async fn run(&self, reference: &Reference) -> Result<Pushed> {
        let manifest = &self.outgoing.manifest;
        let diff_ids = &self.outgoing.image.config.rootfs.diff_ids;
        let pairs: Vec<(&Descriptor, Digest)> =
            manifest.layers.iter().zip(diff_ids.iter().copied()).collect();
        let mut order: Vec<(Descriptor, Digest)> =
            pairs.iter().map(|(layer, id)| ((*layer).clone(), *id)).collect();
        // Top first, as Docker shows them; equal layers once.
        order.reverse();
        let mut seen = std::collections::BTreeSet::new();
        order.retain(|(_, diff_id)| seen.insert(*diff_id));
        let at_once = self.session.settings().max_uploads.max(1);
        for (_, diff_id) in &order {
            self.progress.say(&diff_id.short(), "Preparing");
        }
        for (_, diff_id) in order.iter().skip(at_once) {
            self.progress.say(&diff_id.short(), "Waiting");
        }
        let sent: Vec<(Digest, Sent)> = stream::iter(order)
            .map(|(layer, diff_id)| self.layer(layer, diff_id))
            .buffer_unordered(at_once)
            .try_collect()
            .await?;
        let (text, media_type) = self.manifest(&pairs, &sent)?;
        let config = self.outgoing.image.id;
        let bytes = {
            let store = self.store.clone();
            on_thread(move || Ok(store.blobs.read(&config)?)).await?
        };
        let blob = Blob {
            digest: config,
            size: bytes.len() as u64,
            content: Content::Bytes(Bytes::from(bytes)),
        };
        upload(&self.session, &blob, None, (&Progress::none(), "")).await?;
        let tag = reference.tag().unwrap_or_default().to_owned();
        let digest = Digest::of(&text);
        let size = text.len() as u64;
        self.put_manifest(&tag, Bytes::from(text), (digest, &media_type))
            .await?;
        Ok(Pushed { tag, digest, size })
    }

    /// The manifest that names what was sent.
    fn manifest(
        &self,
        pairs: &[(&Descriptor, Digest)],
        sent: &[(Digest, Sent)],
    ) -> Result<(Vec<u8>, String)> {
        let old = &self.outgoing.manifest;
        if sent.iter().all(|(_, sent)| !sent.compressed) {
            let media_type = if old.media_type.is_empty() {
                oci::MANIFEST.to_owned()
            } else {
                old.media_type.clone()
            };
            return Ok((self.outgoing.text.clone(), media_type));
        }
        let mut layers = Vec::new();
        for (layer, diff_id) in pairs {
            let found = sent.iter().find(|(of, _)| of == diff_id).map(|(_, sent)| sent);
            layers.push(match found {
                Some(Sent {
                    compressed: true,
                    digest,
                    size,
                }) => Descriptor::new(oci::layer_type(Compression::Gzip), *digest, *size),
                _ => (*layer).clone(),
            });
        }
        let manifest = Manifest::new((old.config.digest, old.config.size), layers);
        let text = serde_json::to_vec(&manifest).map_err(|source| crate::Error::Json {
            what: "image manifest".into(),
            source,
        })?;
        Ok((text, oci::MANIFEST.to_owned()))
    }

    async fn layer(&self, layer: Descriptor, diff_id: Digest) -> Result<(Digest, Sent)> {
        Ok((diff_id, self.sent(&layer, diff_id).await?))
    }

    async fn sent(&self, layer: &Descriptor, diff_id: Digest) -> Result<Sent> {
        let id = diff_id.short();
        let plain = layer.media_type.ends_with(".tar");
        if self.outgoing.made_here && plain {
            return self.compressed(layer, diff_id, &id).await;
        }
        let (store, digest) = (self.store.clone(), layer.digest);
        let (file, size) = on_thread(move || Ok(store.blobs.open_blob(&digest)?)).await?;
        self.send(&id, digest, size, file).await?;
        Ok(Sent {
            digest,
            size,
            compressed: false,
        })
    }

    /// Sends a plain layer compressed.
    async fn compressed(&self, layer: &Descriptor, diff_id: Digest, id: &str) -> Result<Sent> {
        let store = self.store.clone();
        let known = on_thread(move || Ok(compress::remembered(&store, &diff_id))).await?;
        if let Some(Compressed { digest, size }) = known
            && self.is_there(id, digest, layer.digest).await?
        {
            return Ok(Sent {
                digest,
                size,
                compressed: true,
            });
        }
        let (store, blob) = (self.store.clone(), layer.digest);
        let (_spool, file, compressed): (Spool, File, Compressed) = on_thread(move || {
            let (plain, _) = store.blobs.open_blob(&blob)?;
            let (spool, file) = compress::compress(&store, plain, &diff_id)?;
            let compressed = Compressed {
                digest: file.digest,
                size: file.size,
            };
            let opened = File::open(&file.path).map_err(|source| crate::Error::Io {
                op: "cannot read",
                path: file.path.clone(),
                source,
            })?;
            Ok((spool, opened, compressed))
        })
        .await?;
        let Compressed { digest, size } = compressed;
        self.send(id, digest, size, file).await?;
        let store = self.store.clone();
        on_thread(move || Ok(compress::remember(&store, diff_id, compressed)?)).await?;
        Ok(Sent {
            digest,
            size,
            compressed: true,
        })
    }

    /// The registry has the blob, or has it now from another of its repositories.
    async fn is_there(&self, id: &str, digest: Digest, own: Digest) -> Result<bool> {
        if exists(&self.session, &digest).await? {
            self.progress.say(id, "Layer already exists");
            return Ok(true);
        }
        let Some(from) = self.neighbour(&own) else {
            return Ok(false);
        };
        let mounted = mounted(&self.session, &digest, from).await?;
        if mounted {
            self.progress.say(id, format!("Mounted from {from}"));
        }
        Ok(mounted)
    }

    /// A repository of the registry that probably has what this blob of ours became.
    fn neighbour(&self, own: &Digest) -> Option<&str> {
        let found = self.outgoing.neighbours.iter().find(|(blob, _)| blob == own);
        found.map(|(_, path)| path.as_str())
    }

    async fn send(&self, id: &str, digest: Digest, size: u64, file: File) -> Result<()> {
        let blob = Blob {
            digest,
            size,
            content: Content::File(Arc::new(file)),
        };
        let neighbour = self.neighbour(&digest);
        let how = upload(&self.session, &blob, neighbour, (&self.progress, id)).await?;
        self.progress.say(
            id,
            match how {
                Uploaded::Exists => "Layer already exists".to_owned(),
                Uploaded::Mounted(from) => format!("Mounted from {from}"),
                Uploaded::Sent => "Pushed".to_owned(),
            },
        );
        Ok(())
    }

    async fn put_manifest(&self, tag: &str, text: Bytes, (digest, media_type): (Digest, &str)) -> Result<()> {
        let url = self.session.repository_url(&format!("manifests/{tag}"))?;
        let response = self
            .session
            .send(Method::PUT, &url, |request| {
                request
                    .header(header::CONTENT_TYPE, media_type)
                    .body(text.clone())
            })
            .await?;
        if !matches!(
            response.status(),
            StatusCode::CREATED | StatusCode::ACCEPTED | StatusCode::OK
        ) {
            return Err(refused(&self.session, Method::PUT, response).await);
        }
        let said = response
            .headers()
            .get("docker-content-digest")
            .and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
        match said {
            Some(said) if said != digest => Err(Error::protocol(
                format!("manifest {digest}"),
                format!("the registry stored {said}"),
            )),
            _ => Ok(()),
        }
    }
}

/// A layer in the registry.
struct Sent {
    digest: Digest,
    size: u64,
    /// It went out as other bytes than the store has.
    compressed: bool,
}
