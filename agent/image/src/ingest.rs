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

mod image;
mod install;

pub use image::{IncomingImage, IncomingLayer, Ingested};

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    thread::JoinHandle,
};

use crate::{
    Digest, Error, ImageId, LoadEvent, Result,
    blobs::BlobPin,
    error::At,
    layers::Staged,
    oci::Descriptor,
    pipeline::Pipeline,
    spool::Spool,
    store::ImageStore,
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
