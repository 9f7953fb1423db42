//! What the store has by digest: blobs and manifests for a push; for peers, who ask for the parts of an image; and for those who tell
//! peers what is here.
//! Called by the agent and the engine.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Digest, Error, ImageId, Reference, Result,
    catalog::Catalog,
    oci::{Document, Index, Manifest},
    store::ImageStore,
};

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

    /// Digests of all manifests and indexes that are here: what an image may be pinned to, sorted.
    pub fn pinnable(&self) -> Vec<Digest> {
        let catalog = self.read();
        let manifests = catalog.images.values().map(|record| record.manifest);
        let indexes = catalog.references.values().filter_map(|target| target.index);
        let all: BTreeSet<Digest> = manifests.chain(indexes).collect();
        all.into_iter().collect()
    }

    /// The blobs of the image that is pinned to a manifest or an index: itself, manifests, configurations, layers. Empty when it
    /// is not here.
    pub fn parts(&self, pinned: &Digest) -> BTreeSet<Digest> {
        let catalog = self.read();
        let mut parts = BTreeSet::new();
        for (id, record) in ids_of(&catalog, pinned).into_iter().filter_map(|id| {
            let record = catalog.images.get(&id)?;
            Some((id, record))
        }) {
            parts.extend([*pinned, id, record.manifest]);
            parts.extend(record.blobs.iter().copied());
        }
        parts
    }

    /// What each tag stands for: the digest that it may be pinned to, by the name as users write it.
    pub fn tags(&self) -> BTreeMap<String, Digest> {
        let catalog = self.read();
        let tags = catalog
            .references
            .iter()
            .filter(|(name, _)| name.tag().is_some() && name.digest().is_none());
        let pinned = tags.filter_map(|(name, target)| {
            let manifest = catalog.images.get(&target.image)?.manifest;
            Some((name.familiar(), target.index.unwrap_or(manifest)))
        });
        pinned.collect()
    }

    /// The image that a task's spec names: by name, or by the digest that it is pinned to, whatever became of its tags.
    pub fn pinned(&self, name: &str) -> Option<ImageId> {
        let catalog = self.read();
        catalog.find(name).ok().or_else(|| {
            let reference = Reference::parse(name).ok()?;
            ids_of(&catalog, reference.digest()?).first().copied()
        })
    }

    /// Gives the image that is pinned to this digest the name `name@digest`, so that it is found by that name whatever becomes of
    /// its tags. False when it is not here.
    ///
    /// # Errors
    /// The catalog can't be written.
    pub fn name_pinned(&self, reference: &Reference, pinned: &Digest) -> Result<bool> {
        let name = reference.with_digest(*pinned);
        let known = {
            let catalog = self.read();
            match ids_of(&catalog, pinned).first() {
                None => return Ok(false),
                Some(id) => catalog
                    .references
                    .get(&name)
                    .is_some_and(|target| target.image == *id),
            }
        };
        if known {
            return Ok(true);
        }
        self.change(|catalog| {
            let Some(id) = ids_of(catalog, pinned).first().copied() else {
                return Ok(false);
            };
            let index = catalog
                .references
                .values()
                .find(|target| target.index == Some(*pinned))
                .and_then(|target| target.index);
            catalog.point(name, id, index);
            Ok(true)
        })
    }
}

/// The images behind a digest, the meant one first.
fn ids_of(catalog: &Catalog, pinned: &Digest) -> Vec<Digest> {
    let by_index = catalog
        .references
        .values()
        .filter(|target| target.index == Some(*pinned))
        .flat_map(|target| target.images().copied());
    let by_manifest = catalog
        .images
        .iter()
        .filter(|(_, record)| record.manifest == *pinned)
        .map(|(id, _)| *id);
    by_index.chain(by_manifest).collect()
}
