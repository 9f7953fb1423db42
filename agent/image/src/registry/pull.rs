//! `pull`: resolve the name, fetch the configuration, then all missing layers at once, and commit. Nothing is visible before the
//! commit; an error or a caller that leaves ends the downloads, and what they have brought serves the next attempt.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    auth::Credentials,
    client::Registry,
    download::{download, small_blob},
    endpoint::endpoints,
    error::{Error, Result},
    manifest::Resolved,
    platform::rank,
    progress::Progress,
    session::{Purpose, Session},
    share::{Joint, Share},
};
use crate::{
    Digest, ImageId, ImageStore, IncomingImage, Ingest, Ingested, LoadEvent, Platform, Reference,
    oci::Descriptor,
};

/// What a pull may be told.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Of which platform an image is wanted; this machine's if not said.
    pub platform: Option<Platform>,
    /// Who asks.
    pub credentials: Credentials,
}

/// What a pull brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub id: ImageId,
    /// Digest of what the name stands for in the registry.
    pub digest: Digest,
    /// The name stands for another image than before, or is new.
    pub new: bool,
}

impl Registry {
    /// Pulls one image by tag or digest. Dropping the future ends the pull; the store is then as before.
    ///
    /// # Errors
    /// See [`Error`]; the store is as before then.
    pub async fn pull(
        &self,
        store: &Arc<ImageStore>,
        reference: &Reference,
        options: &PullOptions,
        progress: &Progress,
    ) -> Result<Pulled> {
        let reference = reference.clone().with_default_tag();
        let shared = self.shared();
        let mut last = None;
        for endpoint in endpoints(&shared, reference.domain(), true).await? {
            let mirror = endpoint.mirror;
            let base = endpoint.base.clone();
            let opened = Session::open(
                &shared,
                endpoint,
                reference.path(),
                Purpose::Pull,
                &options.credentials,
            );
            let outcome = match opened.await {
                Ok(session) => {
                    let pull = Pull {
                        session,
                        store: store.clone(),
                        progress: progress.clone(),
                    };
                    pull.run(&reference, options).await
                }
                Err(error) if error.is_unreachable() => {
                    last = Some(error);
                    continue;
                }
                Err(error) => Err(error),
            };
            match outcome {
                // What a mirror lacks or spoils, the registry itself may have; our own disk's errors stay.
                Err(error) if mirror && !matches!(error, Error::Image(crate::Error::Io { .. })) => {
                    tracing::warn!(mirror = %base, error = &error as &dyn std::error::Error, "mirror is passed over");
                    last = Some(error);
                }
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| Error::protocol(reference.domain(), "the registry has no address")))
    }
}

/// One pull under way.
struct Pull {
    session: Session,
    store: Arc<ImageStore>,
    progress: Progress,
}

impl Pull {
    async fn run(&self, reference: &Reference, options: &PullOptions) -> Result<Pulled> {
        let resolved = self.session.resolve(reference, options.platform.as_ref()).await?;
        let shown = reference.digest().map(ToString::to_string);
        let shown = shown.unwrap_or_else(|| reference.tag().unwrap_or_default().to_owned());
        self.progress
            .say(&shown, format!("Pulling from {}", reference.path()));
        let config_of = &resolved.manifest.config;
        let limit = self.store.limits.json_bytes;
        let config = small_blob(&self.session, config_of, limit).await?;
        let (ingest, image) = {
            let (store, manifest) = (self.store.clone(), resolved.bytes.clone());
            let (top, index) = (resolved.top, resolved.index.clone());
            on_thread(move || {
                let ingest = Ingest::begin(&store)?;
                let image = ingest.image(&manifest, &config)?;
                ingest.offer(&top, &image, index.as_deref());
                Ok((Joint::new(ingest), image))
            })
            .await?
        };
        let names = names(reference, &resolved.top);
        let before = self.store.get(&names[0].to_string()).ok().map(|image| image.id);
        let known = self.store.get(&image.id.to_string()).is_ok();
        let (id, digest) = (image.id, resolved.top);
        let fetched = match check_platform(&resolved, &image, reference, options) {
            Ok(()) => {
                let share = ingest.share().ok_or(Error::Cancelled)?;
                self.layers(&share, &image, known).await
            }
            refused => refused,
        };
        let ingest = ingest.alone().await;
        if let Err(error) = fetched {
            return Err(self.given_up(ingest, error).await);
        }
        let ingest = ingest.ok_or(Error::Cancelled)?;
        self.commit(ingest, image, resolved.index, names).await?;
        Ok(Pulled {
            id,
            digest,
            new: before != Some(id),
        })
    }

    /// Fetches what is missing. `known`: the image is here, possibly by another name; nothing is told of its layers then.
    async fn layers(&self, ingest: &Share, image: &IncomingImage, known: bool) -> Result<()> {
        let at_once = self.session.settings().max_downloads.max(1);
        let mut seen = BTreeSet::new();
        let layers: Vec<_> = image
            .layers
            .iter()
            .filter(|layer| seen.insert(layer.blob.digest))
            .collect();
        if !known {
            for layer in &layers {
                let words = if layer.present {
                    "Already exists"
                } else {
                    "Pulling fs layer"
                };
                self.progress.say(&layer.blob.digest.short(), words);
            }
            for layer in layers.iter().filter(|layer| !layer.present).skip(at_once) {
                self.progress.say(&layer.blob.digest.short(), "Waiting");
            }
        }
        let blobs: Vec<Descriptor> = layers.into_iter().map(|layer| layer.blob.clone()).collect();
        stream::iter(blobs)
            .map(|blob| self.layer(ingest, blob))
            .buffer_unordered(at_once)
            .try_collect()
            .await
    }

    async fn layer(&self, ingest: &Share, blob: Descriptor) -> Result<()> {
        let id = blob.digest.short();
        let meter = self.progress.meter(&id, "Downloading", blob.size);
        if download(&self.session, ingest, &blob, meter).await? {
            self.progress.say(&id, "Verifying Checksum");
            self.progress.say(&id, "Download complete");
        }
        Ok(())
    }

    async fn commit(
        &self,
        ingest: Ingest,
        image: IncomingImage,
        index: Option<Vec<u8>>,
        references: Vec<Reference>,
    ) -> Result<()> {
        let mut teller = Teller::new(&image, self.progress.clone());
        let ingested = Ingested {
            image,
            index,
            references,
        };
        let committed = on_thread(move || {
            let committed = ingest.commit(vec![ingested], &mut |event| teller.tell(event));
            committed.map(drop).map_err(|error| teller.blame(error))
        });
        match committed.await {
            Err(error) => Err(self.given_up(None, error).await),
            done => done,
        }
    }

    /// Clears up after an error, and gives it back. What has arrived stays for the next attempt, unless the disk is full: then it
    /// would only be in the way of everything else.
    async fn given_up(&self, ingest: Option<Ingest>, error: Error) -> Error {
        let (store, full) = (self.store.clone(), is_full(&error));
        let cleared = on_thread(move || {
            drop(ingest);
            if full {
                store
                    .transfers
                    .sweep(std::time::Duration::ZERO, &BTreeSet::new())?;
            }
            Ok(())
        });
        if let Err(error) = cleared.await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "what a pull has left stays"
            );
        }
        error
    }
}

/// The disk (or the quota) of the store is used up.
fn is_full(error: &Error) -> bool {
    use std::io::ErrorKind;
    match error {
        Error::Image(crate::Error::Io { source, .. }) => {
            matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        }
        _ => false,
    }
}

/// The names that the image gets: the tag, if it was pulled by one, and what it is in the registry.
fn names(reference: &Reference, top: &Digest) -> Vec<Reference> {
    let by_digest = reference.with_digest(*top);
    match (reference.digest(), reference.tag()) {
        (None, Some(tag)) => reference.with_tag(tag).into_iter().chain([by_digest]).collect(),
        _ => vec![by_digest],
    }
}

/// An image that no index has told the platform of must be for the one that was asked for.
fn check_platform(
    resolved: &Resolved,
    image: &IncomingImage,
    reference: &Reference,
    options: &PullOptions,
) -> Result<()> {
    let found = Platform {
        os: image.config.os.clone(),
        architecture: image.config.architecture.clone(),
        variant: image.config.variant.clone(),
    };
    let host = Platform::host();
    if !found.os.is_empty() && found.os != host.os {
        return Err(crate::Error::WrongPlatform {
            found: found.to_string(),
            wanted: host.to_string(),
        }
        .into());
    }
    match &options.platform {
        Some(wanted) if resolved.index.is_none() && rank(wanted, &found).is_none() => {
            Err(Error::WrongPlatform {
                name: reference.familiar(),
                wanted: wanted.to_string(),
                found: found.to_string(),
            })
        }
        _ => Ok(()),
    }
}

/// Turns the store's events into lines of layers.
struct Teller {
    /// Short blob digests by diff id, of the layers that were not here.
    layers: HashMap<Digest, String>,
    progress: Progress,
    /// The layer that is being unpacked.
    current: Option<Digest>,
}

impl Teller {
    fn new(image: &IncomingImage, progress: Progress) -> Self {
        let missing = image.layers.iter().filter(|layer| !layer.present);
        Teller {
            layers: missing
                .map(|layer| (layer.diff_id, layer.blob.digest.short()))
                .collect(),
            progress,
            current: None,
        }
    }

    fn tell(&mut self, event: LoadEvent) {
        match event {
            LoadEvent::Received { .. } => {}
            LoadEvent::Unpacking { diff_id, bytes } => {
                self.current = Some(diff_id);
                if let Some(id) = self.layers.get(&diff_id) {
                    self.progress.meter(id, "Extracting", bytes).at(0);
                }
            }
            LoadEvent::Unpacked { diff_id, .. } => {
                self.current = None;
                if let Some(id) = self.layers.get(&diff_id) {
                    self.progress.say(id, "Pull complete");
                }
            }
        }
    }

    /// Says which layer it was that can't be unpacked, where the error does not.
    fn blame(&self, error: crate::Error) -> Error {
        use crate::Error as E;
        let layer = self.current.and_then(|diff_id| self.layers.get(&diff_id));
        match (layer, error) {
            (
                Some(layer),
                source @ (E::NotAnArchive(_)
                | E::HostileArchive { .. }
                | E::Stream { .. }
                | E::Unsupported(_)),
            ) => Error::Layer {
                layer: layer.clone(),
                source,
            },
            (_, error) => error.into(),
        }
    }
}

/// Runs blocking work of the store.
pub(super) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Cancelled)?
}
