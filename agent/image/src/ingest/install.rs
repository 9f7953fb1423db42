//! The end of an ingest: every blob in its place, every layer unpacked on what is below it, and the image ready to be committed.

use super::{Present, State};
use crate::{
    Digest, Error, IncomingLayer, Ingested, LoadEvent, Reference, Result,
    blobs::BlobPin,
    catalog::Record,
    layers::Pin,
    oci::Descriptor,
    stack::{layer_reader, unpack_file},
    store::{Candidate, ImageStore},
    unpack,
};

impl State {
    pub(super) fn install(
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
            is_passing: false,
            is_annotated: false,
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
