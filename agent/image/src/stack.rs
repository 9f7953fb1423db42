//! [`Stack`]: layers on top of each other, held so that nobody takes them away: what a build works with. An image's stack, one
//! more layer from a tree, an archive or what was written into a snapshot, and at the end an image of it.
//!
//! ```text
//! stack(image) ─► snapshot(id, stack) ─► run something in it ─► layer_of_snapshot(id, stack) ─► compose(config, stack)
//! ```
//!
//! Called by `commit` here and by the builder. A stack can be kept under a key across restarts (`keep`), as a build's cache is.

use std::{fs::File, io::Read, path::Path, sync::Arc};

use crate::{
    Digest, Error, ImageId, LayerOptions, Limits, NewImage, Reference, Result, Rootfs, archive,
    blobs::BlobPin,
    catalog::{KeptLayer, Record, Target},
    decompress::Compression,
    error::At,
    layers::{Layers, Pin, Staged},
    merged::Merged,
    oci::{self, Descriptor, Manifest},
    pipeline::Pipeline,
    spool::{Spool, Spooled},
    store::{Candidate, ImageStore},
    tar_stream::read_failed,
    unpack,
};

/// Bytes of an archive without entries.
const EMPTY_TAR: u64 = 1024;

/// Layers, bottom first, held as long as a clone of this exists.
#[derive(Clone, Default)]
pub struct Stack {
    layers: Vec<Arc<StackLayer>>,
}

/// One layer of a [`Stack`].
pub struct StackLayer {
    /// Digest of the plain archive.
    pub diff_id: Digest,
    /// It and all below it.
    pub chain: Digest,
    /// The blob as an image's manifest names it.
    pub blob: Descriptor,
    /// Bytes of its regular files.
    pub size: u64,
    pin: Pin,
    _blob: BlobPin,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.layers.iter().map(|l| l.chain))
            .finish()
    }
}

impl Stack {
    /// No layers: what `FROM scratch` stands on.
    pub fn empty() -> Self {
        Stack::default()
    }

    /// The layers, bottom first.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = &StackLayer> {
        self.layers.iter().map(Arc::as_ref)
    }

    /// Chain id of the whole stack; `None` when it is empty. Equal chain ids are equal file systems.
    pub fn chain(&self) -> Option<Digest> {
        self.layers.last().map(|l| l.chain)
    }

    /// The lowest `count` layers of it.
    #[must_use]
    pub fn lowest(&self, count: usize) -> Self {
        Stack {
            layers: self.layers[..count.min(self.layers.len())].to_vec(),
        }
    }

    pub(crate) fn chains(&self) -> Vec<Digest> {
        self.layers.iter().map(|l| l.chain).collect()
    }

    fn with(&self, layer: StackLayer) -> Self {
        let mut layers = self.layers.clone();
        layers.push(Arc::new(layer));
        Stack { layers }
    }
}

impl ImageStore {
    /// The layers of an image, held.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Corrupt`] when a layer or blob is lost.
    pub fn stack(&self, image: &ImageId) -> Result<Stack> {
        let found = self.read().images.get(image).cloned();
        let record = found.ok_or_else(|| Error::NotFound(image.to_string()))?;
        let manifest = self.manifest_of(&record)?;
        let layers = record.config.rootfs.diff_ids.iter().zip(manifest.layers);
        let layers: Vec<KeptLayer> = layers
            .map(|(diff_id, blob)| KeptLayer {
                diff_id: *diff_id,
                blob,
            })
            .collect();
        self.hold_stack(&layers)
    }

    /// The image's manifest as the store has it.
    pub(crate) fn manifest_of(&self, record: &Record) -> Result<Manifest> {
        let text = self.blobs.read(&record.manifest)?;
        serde_json::from_slice(&text).map_err(|source| Error::Json {
            what: "image manifest".into(),
            source,
        })
    }

    fn hold_stack(&self, layers: &[KeptLayer]) -> Result<Stack> {
        let mut stack = Stack::empty();
        for layer in layers {
            let chain = Digest::chain(stack.chain().as_ref(), &layer.diff_id);
            let blob = self.blobs.pin(&layer.blob.digest);
            let blob = blob.ok_or_else(|| Error::corrupt(layer.blob.digest, "the blob is missing"))?;
            let pin = self.layers.pin(&chain)?;
            stack = stack.with(StackLayer {
                diff_id: layer.diff_id,
                chain,
                blob: layer.blob.clone(),
                size: pin.size,
                pin,
                _blob: blob,
            });
        }
        Ok(stack)
    }

    /// A root filesystem with a writable layer on a stack, as a container has on its image: [`ImageStore::rootfs`],
    /// [`ImageStore::remove_rootfs`], [`ImageStore::changes`] and [`ImageStore::rootfs_size`] work with its id. Ids that belong to
    /// no container are swept at the daemon's start.
    ///
    /// # Errors
    /// [`Error::RootfsExists`], [`Error::InvalidArgument`] for an id that is no plain name.
    pub fn snapshot(&self, id: &str, below: &Stack) -> Result<Rootfs> {
        self.layers.make_init(below.chain().as_ref())?;
        self.layers.prepare(id, &below.chains())
    }

    /// `below` and one more layer of what was changed in the snapshot (or container) `id`; `below` itself when nothing was.
    ///
    /// # Errors
    /// [`Error::NoRootfs`]; a file name that a layer can't hold.
    pub fn layer_of_snapshot(&self, id: &str, below: &Stack, options: &LayerOptions) -> Result<Stack> {
        let rootfs = self.rootfs(id)?;
        let mut spool = Spool::new(&self.staging())?;
        let layer = spool.write(|out| archive::write_layer(&rootfs, options, out))?;
        if layer.size <= EMPTY_TAR {
            return Ok(below.clone());
        }
        self.add_layer(&layer, below)
    }

    /// `below` and one more layer from an archive in the form of OCI layers (tar, plain or compressed), kept as it comes.
    ///
    /// # Errors
    /// [`Error::HostileArchive`], [`Error::NotAnArchive`].
    pub fn layer_of_archive(&self, mut archive: impl Read, below: &Stack) -> Result<Stack> {
        let mut spool = Spool::new(&self.staging())?;
        let layer = spool.store(&mut archive, self.limits.layer_bytes.saturating_mul(2))?;
        if layer.size == 0 {
            return Err(Error::NotAnArchive("it is empty".into()));
        }
        self.add_layer(&layer, below)
    }

    /// `below` and one more layer of what `write` writes: a plain tar in the form of OCI layers. [`archive::TarWriter`] makes one.
    ///
    /// # Errors
    /// `write`'s, and those of [`ImageStore::layer_of_archive`].
    pub fn layer_of(
        &self,
        below: &Stack,
        write: impl FnOnce(&mut dyn std::io::Write) -> Result<()>,
    ) -> Result<Stack> {
        let mut spool = Spool::new(&self.staging())?;
        let layer = spool.write(write)?;
        if layer.size <= EMPTY_TAR {
            return Ok(below.clone());
        }
        self.add_layer(&layer, below)
    }

    pub(crate) fn add_layer(&self, layer: &Spooled, below: &Stack) -> Result<Stack> {
        let (diff_id, compression) = self.diff_id_of(layer)?;
        let top = below.chain();
        let chain = Digest::chain(top.as_ref(), &diff_id);
        let (pin, _) = self.layers.acquire(chain, top, diff_id, |under| {
            let place = (top.as_ref(), &diff_id);
            unpack_file(&self.layers, &self.limits, &layer.path, place, under)
        })?;
        let blob = Descriptor::new(oci::layer_type(compression), layer.digest, layer.size);
        Ok(below.with(StackLayer {
            diff_id,
            chain,
            blob,
            size: pin.size,
            pin,
            _blob: self.blobs.adopt(&layer.digest, &layer.path)?,
        }))
    }

    fn diff_id_of(&self, layer: &Spooled) -> Result<(Digest, Compression)> {
        let reader = layer_reader(&layer.path, &self.limits)?;
        let compression = reader.compression();
        if compression == Compression::Plain {
            return Ok((layer.digest, compression));
        }
        Ok((reader.finish().map_err(read_failed)?, compression))
    }

    /// Makes an image of a stack. Its layers, and nothing else, become the configuration's `rootfs`; equal arguments give equal
    /// ids.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the configuration's history names another number of layers.
    pub fn compose(&self, image: NewImage) -> Result<ImageId> {
        let image = configured(image)?;
        let config_text = json(&image.config)?;
        let manifest_text = json(&manifest_of(&config_text, &image))?;
        let (id, manifest) = (Digest::of(&config_text), Digest::of(&manifest_text));
        if self.is_composed(&id, &manifest, &image) {
            self.touch(&id);
            return Ok(id);
        }
        let mut spool = Spool::new(&self.staging())?;
        let config_file = spool.store(&mut &config_text[..], u64::MAX)?;
        let manifest = spool.store(&mut &manifest_text[..], u64::MAX)?;
        let candidate = self.candidate_of(image, (config_file, manifest))?;
        let id = candidate.id;
        self.commit(vec![candidate])?;
        Ok(id)
    }

    /// True if the image is here as it would be made, whole, and has its names: then there is nothing to write (and to sync).
    fn is_composed(&self, id: &ImageId, manifest: &Digest, image: &NewImage) -> bool {
        let catalog = self.read();
        let Some(record) = catalog.images.get(id) else {
            return false;
        };
        // One that came from elsewhere keeps the manifest that it came with.
        let is_same = record.manifest == *manifest || !record.made_here && image.annotations.is_empty();
        let mut names = image.references.iter();
        let are_named = names.all(|name| catalog.references.get(name) == Some(&Target::new(*id)));
        let blobs = image.stack.layers().map(|layer| &layer.blob.digest);
        let has_layers = blobs.eq(&record.blobs) && record.layers == image.stack.chains();
        is_same
            && are_named
            && has_layers
            && !image.is_passing
            && !catalog.is_passing(id)
            && [id, &record.manifest]
                .iter()
                .all(|blob| self.blobs.size(blob).is_some())
    }

    fn candidate_of(
        &self,
        image: NewImage,
        (config_file, manifest): (Spooled, Spooled),
    ) -> Result<Candidate> {
        let stack = &image.stack;
        // The image gets holds of its own: the stack may live on, in a build's cache.
        let pins: Vec<Pin> = stack
            .layers()
            .map(|l| self.layers.pin(&l.pin.chain))
            .collect::<Result<_>>()?;
        let held: Option<Vec<BlobPin>> = stack.layers().map(|l| self.blobs.pin(&l.blob.digest)).collect();
        let held = held.ok_or_else(|| Error::corrupt(config_file.digest, "a layer's blob is missing"))?;
        Ok(Candidate {
            id: config_file.digest,
            record: Record {
                manifest: manifest.digest,
                layers: stack.chains(),
                config: image.config.into(),
                blobs: stack.layers().map(|l| l.blob.digest).collect(),
                size: pins.iter().map(|pin| pin.size).sum(),
                made_here: true,
            },
            files: vec![config_file, manifest],
            _held: held,
            references: image.references,
            index: None,
            pins,
            is_passing: image.is_passing,
            is_annotated: !image.annotations.is_empty(),
        })
    }

    /// Keeps a stack under a key, also across restarts, in place of what was kept there.
    ///
    /// # Errors
    /// The catalog can't be written.
    pub fn keep(&self, key: &str, stack: &Stack) -> Result<()> {
        let kept = |l: &StackLayer| KeptLayer {
            diff_id: l.diff_id,
            blob: l.blob.clone(),
        };
        let layers: Vec<KeptLayer> = stack.layers().map(kept).collect();
        self.blobs.settle(stack.layers().map(|l| l.blob.digest))?;
        let pins: Vec<Pin> = stack
            .layers()
            .map(|l| self.layers.pin(&l.chain))
            .collect::<Result<_>>()?;
        let before = self.change(|catalog| Ok(catalog.kept.insert(key.to_owned(), layers)))?;
        pins.into_iter().for_each(Pin::keep);
        self.release_kept(before)
    }

    /// The stack that is kept under a key.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when part of it is lost: then forget it.
    pub fn kept(&self, key: &str) -> Result<Option<Stack>> {
        let layers = self.read().kept.get(key).cloned();
        layers.map(|l| self.hold_stack(&l)).transpose()
    }

    /// Keys under which stacks are kept, sorted.
    pub fn kept_keys(&self) -> Vec<String> {
        self.read().kept.keys().cloned().collect()
    }

    /// Ends the keeping of a stack; what nothing else needs goes. False: there was none.
    ///
    /// # Errors
    /// The catalog can't be written.
    pub fn forget(&self, key: &str) -> Result<bool> {
        let before = self.change(|catalog| Ok(catalog.kept.remove(key)))?;
        let was = before.is_some();
        self.release_kept(before)?;
        Ok(was)
    }

    fn release_kept(&self, layers: Option<Vec<KeptLayer>>) -> Result<()> {
        let chains = chains(layers.iter().flatten().map(|l| &l.diff_id));
        self.layers.release(chains.into_iter().rev()).map(drop)
    }
}

/// The image with its layers in its configuration, and its names in full.
fn configured(mut image: NewImage) -> Result<NewImage> {
    let config = &mut image.config;
    let with_layer = config.history.iter().filter(|step| !step.empty_layer).count();
    if !config.history.is_empty() && with_layer != image.stack.layers.len() {
        return Err(Error::InvalidArgument(format!(
            "the image's history has {with_layer} layers, its stack {}",
            image.stack.layers.len()
        )));
    }
    if let Some(bad) = image.references.iter().find(|r| r.digest().is_some()) {
        return Err(Error::InvalidArgument(format!(
            "refusing to create a tag with a digest reference ({})",
            bad.familiar()
        )));
    }
    config.rootfs = crate::RootFs {
        diff_ids: image.stack.layers().map(|l| l.diff_id).collect(),
        ..crate::RootFs::default()
    };
    let references = image.references.into_iter().map(Reference::with_default_tag);
    image.references = references.collect();
    Ok(image)
}

fn manifest_of(config: &[u8], image: &NewImage) -> Manifest {
    let oci_form = |layer: &StackLayer| Descriptor {
        media_type: oci::oci_layer_type(&layer.blob.media_type),
        ..layer.blob.clone()
    };
    Manifest {
        annotations: image.annotations.clone(),
        ..Manifest::new(
            (Digest::of(config), config.len() as u64),
            image.stack.layers().map(oci_form).collect(),
        )
    }
}

/// Chain ids of layers, bottom first.
pub(crate) fn chains<'d>(diff_ids: impl Iterator<Item = &'d Digest>) -> Vec<Digest> {
    let mut chains: Vec<Digest> = Vec::new();
    for diff_id in diff_ids {
        chains.push(Digest::chain(chains.last(), diff_id));
    }
    chains
}

fn json(document: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|source| Error::Json {
        what: "image".into(),
        source,
    })
}

/// Unpacks a layer's file on top of `below` and checks that it is the layer of this diff id. Gives the filled directory and how
/// many bytes are in it.
pub(crate) fn unpack_file(
    layers: &Layers,
    limits: &Limits,
    path: &Path,
    (below, diff_id): (Option<&Digest>, &Digest),
    under: &Merged,
) -> Result<(Staged, u64)> {
    let staged = layers.stage(below)?;
    let reader = layer_reader(path, limits)?;
    let form = layers.driver().form();
    let (size, reader) = unpack::unpack(reader, &staged.diff(), form, under, limits)?;
    unpack::check(reader, diff_id)?;
    Ok((staged, size))
}

/// The layer's plain archive, cut off above the limit (its digest is wrong then).
pub(crate) fn layer_reader(path: &Path, limits: &Limits) -> Result<Pipeline> {
    let file = File::open(path).at("cannot read", path)?;
    Pipeline::start(file, limits).map_err(read_failed)
}
