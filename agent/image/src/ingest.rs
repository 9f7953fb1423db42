//! [`Ingest`]: images on their way into the store, from a registry or a peer. Nothing of it is visible until
//! [`Ingest::commit`], which makes all of it visible at once; dropping it leaves nothing but partial blobs, from which a later
//! ingest goes on.
//!
//! ```text
//! let ingest = Ingest::begin(&store)?;
//! let image = ingest.image(&manifest, &configuration)?;            // checks both; says which layers there are
//! for layer in &image.layers {                                     // in parallel, each in its own (blocking) thread
//!     match ingest.blob(&layer.blob)? {                            // waits while another ingest writes the same blob
//!         Transfer::Present => {}
//!         Transfer::Needed(mut writer) => {
//!             // ask the sender for bytes from writer.offset() on; writer.restart() if it can only begin at 0
//!             writer.write(&bytes)?;
//!             ingest.finish(writer)?;                              // checks size and digest
//!         }
//!     }
//! }
//! ingest.commit(vec![Ingested { image, index: None, references }], &mut |event| …)?;
//! ```
//!
//! Layers are unpacked while they arrive. All of this blocks: async callers use a blocking thread.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    thread::JoinHandle,
};

use crate::{
    Digest, Error, ImageConfig, ImageId, LoadEvent, Reference, Result,
    blobs::BlobPin,
    catalog::Record,
    error::At,
    layers::{Pin, Staged},
    oci::{Descriptor, Document, Index, Manifest},
    pipeline::Pipeline,
    spool::Spool,
    stack::{chains, layer_reader, unpack_file},
    store::{Candidate, ImageStore},
    tail::{Offer, Offered},
    tar_stream::read_failed,
    transfer::{Begun, BlobWriter, Held, Progress},
    unpack::{self, Apply, Form},
};

/// Images on their way in. `Send + Sync`: blobs are written from several threads at once.
pub struct Ingest {
    store: Arc<ImageStore>,
    state: Mutex<State>,
}

struct State {
    spool: Spool,
    /// Blobs that are complete: in place, or waiting in `partial/`.
    blobs: HashMap<Digest, Present>,
    /// Layers of the images that were looked at, by their blobs.
    wanted: HashMap<Digest, IncomingLayer>,
    /// Layers that are unpacked while they arrive.
    unpacking: HashMap<Digest, Unpacking>,
    /// Blobs and the diff ids that they were found to have.
    verified: HashSet<(Digest, Digest)>,
    /// What peers may read meanwhile.
    offered: Vec<Offered>,
}

/// A thread that unpacks a layer.
struct Unpacking {
    thread: JoinHandle<Result<(Staged, Apply)>>,
    progress: Arc<Progress>,
}

impl Drop for State {
    fn drop(&mut self) {
        // When this is gone, so is all that was unpacked.
        let left: Vec<Unpacking> = self.unpacking.drain().map(|(_, unpacking)| unpacking).collect();
        left.iter().for_each(|unpacking| unpacking.progress.abandon());
        for unpacking in left {
            let _ = unpacking.thread.join();
        }
    }
}

enum Present {
    InPlace { _pin: BlobPin },
    Arrived(Held),
}

/// What [`Ingest::blob`] gives.
pub enum Transfer {
    /// The blob is here: nothing to fetch.
    Present,
    /// The blob has to be written.
    Needed(Box<BlobWriter>),
}

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
    config_text: Vec<u8>,
    manifest_text: Vec<u8>,
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

impl ImageStore {
    /// Bytes of a blob that is in the store.
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        self.blobs.size(digest)
    }

    /// A small blob (manifest, index, configuration), checked.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is missing or damaged.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.blobs.read(digest)
    }

    /// Opens a blob for a push or a peer, with its size. It is not checked: the receiver does that.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is missing.
    pub fn open_blob(&self, digest: &Digest) -> Result<(std::fs::File, u64)> {
        self.blobs.open_blob(digest)
    }

    /// The manifest of an image: its bytes and its parsed form.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`].
    pub fn manifest(&self, image: &ImageId) -> Result<(Vec<u8>, Manifest)> {
        let catalog = self.view();
        let record = catalog
            .images
            .get(image)
            .ok_or_else(|| Error::NotFound(image.to_string()))?;
        let text = self.blobs.read(&record.manifest)?;
        let manifest = self.manifest_of(record)?;
        Ok((text, manifest))
    }

    /// The index that an image's name came with: its bytes and its parsed form.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`].
    pub fn index(&self, name: &str) -> Result<Option<(Vec<u8>, Index)>> {
        let Some(digest) = self.get(name)?.index else {
            return Ok(None);
        };
        let text = self.blobs.read(&digest)?;
        match Document::parse("", &text, &self.limits)? {
            Document::Index(index) => Ok(Some((text, index))),
            Document::Manifest(_) => Err(Error::corrupt(digest, "it is no index")),
        }
    }
}

impl Ingest {
    /// Begins an ingest.
    ///
    /// # Errors
    /// The staging directory can't be written.
    pub fn begin(store: &Arc<ImageStore>) -> Result<Self> {
        Ok(Ingest {
            store: store.clone(),
            state: Mutex::new(State {
                spool: Spool::new(&store.staging())?,
                blobs: HashMap::new(),
                wanted: HashMap::new(),
                unpacking: HashMap::new(),
                verified: HashSet::new(),
                offered: Vec::new(),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

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

    /// Lets peers read the image's blobs while they arrive, until this ingest ends: see [`crate::Tail`]. `pinned` is the digest that nodes know
    /// it by: its index's, if it was picked from one, or its manifest's.
    pub fn offer(&self, pinned: &Digest, image: &IncomingImage, index: Option<&[u8]>) {
        let mut documents = BTreeMap::from([
            (image.id, image.config_text.clone()),
            (image.manifest, image.manifest_text.clone()),
        ]);
        documents.extend(index.map(|text| (*pinned, text.to_vec())));
        let offer = Offer {
            pinned: *pinned,
            documents,
            layers: image.layers.iter().map(|layer| layer.blob.digest).collect(),
        };
        let offered = Offered::new(&self.store, offer);
        self.state().offered.push(offered);
    }

    /// Bytes of a blob that an earlier transfer has left.
    pub fn partial(&self, digest: &Digest) -> u64 {
        self.store.transfers.partial(digest)
    }

    /// Begins the transfer of a blob. Waits while another ingest transfers the same one.
    ///
    /// # Errors
    /// The disk's.
    pub fn blob(&self, blob: &Descriptor) -> Result<Transfer> {
        if let Some(pin) = self.store.blobs.pin(&blob.digest) {
            let size = self.store.blobs.size(&blob.digest);
            if size == Some(blob.size) {
                self.state()
                    .blobs
                    .insert(blob.digest, Present::InPlace { _pin: pin });
                return Ok(Transfer::Present);
            }
            return Err(Error::corrupt(
                blob.digest,
                format!(
                    "the store has {} bytes of it, its descriptor says {}",
                    size.unwrap_or(0),
                    blob.size
                ),
            ));
        }
        match self.store.transfers.begin(&blob.digest, blob.size)? {
            Begun::Complete(held) => {
                self.state().blobs.insert(blob.digest, Present::Arrived(held));
                Ok(Transfer::Present)
            }
            Begun::Writer(writer) => {
                self.unpack_meanwhile(&writer)?;
                Ok(Transfer::Needed(writer))
            }
        }
    }

    /// Begins to unpack a layer that is about to arrive. Overlayfs' layers can be unpacked before those below them are there;
    /// whole trees can't, and are unpacked at the commit.
    fn unpack_meanwhile(&self, writer: &BlobWriter) -> Result<()> {
        let mut state = self.state();
        let Some(layer) = state.wanted.get(writer.digest()).cloned() else {
            return Ok(());
        };
        let layers = &self.store.layers;
        if layers.driver().form() == Form::Tree || layers.has(&layer.chain) {
            return Ok(());
        }
        let staged = layers.stage(None)?;
        let ((content, progress), limits) = (writer.follow()?, self.store.limits.clone());
        let diff_id = layer.diff_id;
        let unpack = move || {
            let reader = Pipeline::start(content, &limits).map_err(read_failed)?;
            let (apply, reader) = unpack::begin(reader, &staged.diff(), Form::Overlay, &limits)?;
            unpack::check(reader, &diff_id)?;
            Ok((staged, apply))
        };
        let thread = std::thread::Builder::new().name("unpack".into()).spawn(unpack);
        let thread = thread.at("cannot start a thread to unpack", writer.digest().to_string())?;
        let chain = layer.chain;
        state.unpacking.insert(chain, Unpacking { thread, progress });
        Ok(())
    }

    /// Ends the transfer of a blob.
    ///
    /// # Errors
    /// [`Error::Incomplete`] when bytes are missing (what is there stays for the next attempt), [`Error::Corrupt`] when the
    /// digest is another (nothing stays).
    // As `blob` gave it.
    #[allow(clippy::boxed_local)]
    pub fn finish(&self, writer: Box<BlobWriter>) -> Result<()> {
        let held = writer.finish()?;
        self.state().blobs.insert(held.digest, Present::Arrived(held));
        Ok(())
    }

    /// Makes images visible: all of them, or after an error none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when a blob was not brought or does not unpack to its diff id, [`Error::HostileArchive`], the disk's.
    pub fn commit(self, images: Vec<Ingested>, progress: &mut dyn FnMut(LoadEvent)) -> Result<Vec<ImageId>> {
        let mut state = self.state.into_inner().unwrap_or_else(|e| e.into_inner());
        let mut candidates = Vec::new();
        for image in images {
            candidates.push(state.install(&self.store, image, progress)?);
        }
        let ids = candidates.iter().map(|c| c.id).collect();
        self.store.commit(candidates)?;
        for blob in state.blobs.values() {
            if let Present::Arrived(held) = blob {
                held.committed();
            }
        }
        Ok(ids)
    }
}

impl State {
    fn install(
        &mut self,
        store: &ImageStore,
        ingested: Ingested,
        progress: &mut dyn FnMut(LoadEvent),
    ) -> Result<Candidate> {
        let Ingested {
            image,
            index,
            references,
        } = ingested;
        let (mut pins, mut held): (Vec<Pin>, Vec<BlobPin>) = (Vec::new(), Vec::new());
        for layer in &image.layers {
            let blob = self.take(store, &layer.blob)?;
            held.push(blob);
            let below = pins.last().map(|p| p.chain);
            pins.push(self.unpack(store, layer, below, progress)?);
        }
        let config_file = self.spool.store(&mut &image.config_text[..], u64::MAX)?;
        let manifest = self.spool.store(&mut &image.manifest_text[..], u64::MAX)?;
        let mut files = vec![config_file, manifest];
        let index = index
            .map(|text| self.spool.store(&mut &text[..], u64::MAX))
            .transpose()?;
        let digest = index.as_ref().map(|i| i.digest);
        files.extend(index);
        Ok(Candidate {
            id: image.id,
            record: Record {
                manifest: image.manifest,
                layers: image.layers.iter().map(|l| l.chain).collect(),
                config: image.config.into(),
                blobs: image.layers.iter().map(|l| l.blob.digest).collect(),
                size: pins.iter().map(|p| p.size).sum(),
                made_here: false,
            },
            files,
            _held: held,
            references: references.into_iter().map(Reference::with_default_tag).collect(),
            index: digest,
            pins,
        })
    }

    /// The blob in its place, held.
    fn take(&self, store: &ImageStore, blob: &Descriptor) -> Result<BlobPin> {
        let pin = match self.blobs.get(&blob.digest) {
            Some(Present::Arrived(held)) => Some(store.blobs.link(&blob.digest, &held.path())?),
            Some(Present::InPlace { .. }) | None => store.blobs.pin(&blob.digest),
        };
        pin.ok_or_else(|| Error::corrupt(blob.digest, "the blob was not transferred"))
    }

    fn unpack(
        &mut self,
        store: &ImageStore,
        layer: &IncomingLayer,
        below: Option<Digest>,
        progress: &mut dyn FnMut(LoadEvent),
    ) -> Result<Pin> {
        let (pin, shared) = store.layers.acquire(layer.chain, below, layer.diff_id, |under| {
            progress(LoadEvent::Unpacking {
                diff_id: layer.diff_id,
                bytes: layer.blob.size,
            });
            let begun = self
                .unpacking
                .remove(&layer.chain)
                .map(|begun| begun.thread.join());
            if let Some(Ok(Ok((staged, apply)))) = begun {
                return Ok((staged, apply.finish(under)?));
            }
            // It was not begun, or the transfer began anew in between. What is wrong with the layer itself shows again.
            let path = store.blobs.path(&layer.blob.digest);
            let place = (below.as_ref(), &layer.diff_id);
            unpack_file(&store.layers, &store.limits, &path, place, under)
        })?;
        if shared {
            self.verify(store, layer)?;
        }
        self.verified.insert((layer.blob.digest, layer.diff_id));
        progress(LoadEvent::Unpacked {
            diff_id: layer.diff_id,
            shared,
        });
        Ok(pin)
    }

    /// The layer was there before its blob: that this blob is really that layer must hold before it is kept for it.
    fn verify(&mut self, store: &ImageStore, layer: &IncomingLayer) -> Result<()> {
        let (blob, diff_id) = (layer.blob.digest, layer.diff_id);
        let arrived = matches!(self.blobs.get(&blob), Some(Present::Arrived(_)));
        if !arrived || blob == diff_id || self.verified.contains(&(blob, diff_id)) {
            return Ok(());
        }
        let begun = self.unpacking.remove(&layer.chain);
        if begun.is_some_and(|begun| matches!(begun.thread.join(), Ok(Ok(_)))) {
            return Ok(());
        }
        let reader = layer_reader(&store.blobs.path(&blob), &store.limits)?;
        unpack::check(reader, &diff_id)
    }
}
