//! What changes the catalog, and how: blobs take their places and are made durable, then `images.json` is replaced by one rename.

use std::{collections::btree_map::Entry, sync::MutexGuard};

use super::ImageStore;
use crate::{
    Digest, ImageId, Reference, Result,
    blobs::BlobPin,
    catalog::{Catalog, Record},
    layers::Pin,
    spool::Spooled,
};

/// An image that is complete in staging, with its layers unpacked.
pub(crate) struct Candidate {
    pub(crate) id: ImageId,
    pub(crate) record: Record,
    /// Configuration, manifest, index, layer blobs: what is still in staging.
    pub(crate) files: Vec<Spooled>,
    /// Its blobs that are in place.
    pub(crate) _held: Vec<BlobPin>,
    pub(crate) references: Vec<Reference>,
    /// The image index that it came from, among `files`.
    pub(crate) index: Option<Digest>,
    pub(crate) pins: Vec<Pin>,
    /// As [`crate::NewImage::is_passing`].
    pub(crate) is_passing: bool,
    /// Its manifest counts, whatever the one was that the image came with.
    pub(crate) is_annotated: bool,
}

impl Candidate {
    /// Every blob that the catalog will need for it.
    fn blobs(&self) -> impl Iterator<Item = Digest> {
        let layers = self.record.blobs.iter().copied();
        layers.chain([self.id, self.record.manifest]).chain(self.index)
    }
}

impl ImageStore {
    /// Changes the catalog on disk and then in memory; on an error nothing has changed.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Catalog) -> Result<T>) -> Result<T> {
        let writing = self.writing();
        self.change_locked(&writing, change)
    }

    pub(crate) fn change_locked<T>(
        &self,
        _writing: &MutexGuard<'_, ()>,
        change: impl FnOnce(&mut Catalog) -> Result<T>,
    ) -> Result<T> {
        let mut next = self.view();
        let answer = change(&mut next)?;
        next.write(&self.root)?;
        let needed = next.blobs();
        *self.catalog.write().unwrap_or_else(|e| e.into_inner()) = next;
        // The catalog is what counts: a blob that can't be deleted now is swept at the next open.
        if let Err(e) = self.blobs.need(needed) {
            tracing::warn!(error = &e as &dyn std::error::Error, "cannot delete a blob");
        }
        if let Some(tell) = self.watcher.get() {
            tell();
        }
        Ok(answer)
    }

    /// Makes complete images visible, all or none.
    pub(crate) fn commit(&self, candidates: Vec<Candidate>) -> Result<()> {
        for candidate in &candidates {
            self.layers.make_init(candidate.record.layers.last())?;
        }
        // Held until the catalog names them; after an error they go again.
        let mut placed: Vec<BlobPin> = Vec::new();
        for file in candidates.iter().flat_map(|c| &c.files) {
            placed.push(self.blobs.adopt(&file.digest, &file.path)?);
        }
        // By design not those of an image that is made for an archive and dropped after it: the catalog on the disk never names it.
        let lasting = candidates.iter().filter(|c| !c.is_passing);
        self.blobs.settle(lasting.flat_map(Candidate::blobs))?;
        let writing = self.writing();
        let mut new = Vec::new();
        self.change_locked(&writing, |catalog| {
            for c in &candidates {
                match catalog.images.entry(c.id) {
                    Entry::Vacant(slot) => {
                        slot.insert(c.record.clone());
                        new.push(c.id);
                    }
                    // An image that comes again takes the manifest that it comes with now: a push then sends what was pulled
                    // (or loaded) last, byte by byte.
                    Entry::Occupied(mut slot) if !c.record.made_here || c.is_annotated => {
                        slot.insert(c.record.clone());
                    }
                    // Built again, perhaps with other annotations.
                    Entry::Occupied(mut slot) if slot.get().made_here => {
                        slot.insert(c.record.clone());
                    }
                    Entry::Occupied(_) => {}
                }
                if c.is_passing {
                    catalog.lend(c.id, &c.references, new.contains(&c.id));
                    continue;
                }
                catalog.settle(&c.id, &c.references);
                for reference in &c.references {
                    catalog.point(reference.clone(), c.id, c.index);
                }
            }
            Ok(())
        })?;
        for candidate in candidates {
            // A blob that was there already has the time of its first coming.
            self.touch(&candidate.id);
            // Only the first of two candidates of one id hands its layers to the image.
            if let Some(i) = new.iter().position(|id| *id == candidate.id) {
                new.swap_remove(i);
                candidate.pins.into_iter().for_each(Pin::keep);
            }
        }
        Ok(())
    }
}
