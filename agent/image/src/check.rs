//! `image check`: reads every blob against its digest, looks for each layer that an image, a kept stack or a container needs,
//! counts who holds it, and finds what nobody needs. `--repair` deletes what is damaged or stray, unpacks lost layers again and
//! sets counts right; what is gone for good has to be pulled or loaded again, and the report says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use crate::{
    Digest, Error, Result,
    catalog::{Catalog, Record},
    digest::HashReader,
    stack::{chains, unpack_file},
    store::ImageStore,
};

/// What [`ImageStore::check`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Images looked at.
    pub images: usize,
    /// Blobs read.
    pub blobs: usize,
    /// Layers looked at.
    pub layers: usize,
    /// What is wrong, in the order of the digests.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What it is about: `blob sha256:…`, `layer sha256:…`.
    pub object: String,
    /// What is wrong with it, and for whom.
    pub what: String,
    /// What was done about it; empty without `--repair`.
    pub repaired: String,
    /// What the user has to do; empty when nothing is left to do.
    pub advice: String,
}

struct Check<'s> {
    store: &'s ImageStore,
    catalog: Catalog,
    repair: bool,
    report: CheckReport,
}

impl ImageStore {
    /// Checks the whole store. Blobs are read from end to end: it takes as long as reading all of them.
    ///
    /// # Errors
    /// The store's folder can't be read, or with `repair` not be written.
    pub fn check(&self, repair: bool) -> Result<CheckReport> {
        let mut check = Check {
            store: self,
            catalog: self.view(),
            repair,
            report: CheckReport::default(),
        };
        check.report.images = check.catalog.images.len();
        check.blobs()?;
        check.layers()?;
        check.counts();
        check.strays()?;
        Ok(check.report)
    }
}

impl Check<'_> {
    fn found(&mut self, object: String, what: String, repaired: &str, advice: String) {
        self.report.problems.push(Problem {
            object,
            what,
            repaired: if self.repair {
                repaired.to_owned()
            } else {
                String::new()
            },
            advice,
        });
    }

    /// Names of images for messages: a tag, else the id.
    fn named(&self, ids: &BTreeSet<Digest>) -> Vec<String> {
        let name = |id: &Digest| {
            let first = self.catalog.references_of(id).into_iter().next();
            first.map_or_else(|| id.short(), |r| r.familiar())
        };
        ids.iter().map(name).collect()
    }

    fn blobs(&mut self) -> Result<()> {
        let mut users: BTreeMap<Digest, BTreeSet<Digest>> = BTreeMap::new();
        for digest in self.catalog.blobs() {
            users.entry(digest).or_default();
        }
        for (id, record) in &self.catalog.images {
            for blob in [id, &record.manifest].into_iter().chain(&record.blobs) {
                users.entry(*blob).or_default().insert(*id);
            }
        }
        let mut needed: BTreeSet<Digest> = users.keys().copied().collect();
        for (digest, images) in users {
            // Went with an image.
            if !needed.contains(&digest) {
                continue;
            }
            self.report.blobs += 1;
            let Some(what) = self.damage(&digest)? else {
                continue;
            };
            let names = self.named(&images);
            let essential: Vec<Digest> = images
                .iter()
                .filter(|id| **id == digest || self.is_manifest(id, &digest))
                .copied()
                .collect();
            if self.repair {
                self.store.blobs.discard(&digest)?;
                // Without its manifest or configuration an image is nothing.
                for id in &essential {
                    self.drop_image(id)?;
                    needed = self.catalog.blobs();
                }
            }
            let done = match essential.is_empty() {
                true => "deleted the damaged blob",
                false => "removed the image, which can't be read without it",
            };
            let advice = match names.is_empty() {
                true => String::new(),
                false => format!("pull or load again: {}", names.join(", ")),
            };
            self.found(format!("blob {digest}"), what, done, advice);
        }
        Ok(())
    }

    fn is_manifest(&self, image: &Digest, digest: &Digest) -> bool {
        let record = self.catalog.images.get(image);
        record.is_some_and(|r| r.manifest == *digest)
    }

    /// How a blob differs from its digest.
    fn damage(&self, digest: &Digest) -> Result<Option<String>> {
        let file = match self.store.blobs.open_blob(digest) {
            Ok((file, _)) => file,
            Err(Error::Corrupt { .. }) => return Ok(Some("is missing".into())),
            Err(e) => return Err(e),
        };
        let mut reader = HashReader::new(file);
        if let Err(e) = io::copy(&mut reader, &mut io::sink()) {
            return Ok(Some(format!("can't be read: {e}")));
        }
        let (actual, size) = reader.finish();
        Ok((actual != *digest).then(|| format!("is corrupt: its {size} bytes have the digest {actual}")))
    }

    fn drop_image(&mut self, id: &Digest) -> Result<()> {
        let record = self.store.change(|catalog| {
            let record = catalog.images.remove(id);
            catalog.drop_dangling_names();
            Ok(record)
        })?;
        if let Some(record) = record {
            self.store.layers.release(record.layers.iter().rev().copied())?;
        }
        self.catalog = self.store.view();
        Ok(())
    }

    /// Lost layers: unpacked again from their blobs, bottom first.
    fn layers(&mut self) -> Result<()> {
        let mut seen = BTreeSet::new();
        let images: Vec<(Digest, Record)> = self.catalog.images.clone().into_iter().collect();
        for (id, record) in images {
            let mut below = None;
            for ((chain, diff_id), blob) in record
                .layers
                .iter()
                .zip(&record.config.rootfs.diff_ids)
                .zip(&record.blobs)
            {
                if seen.insert(*chain) {
                    self.report.layers += 1;
                    if !self.store.layers.is_whole(chain) {
                        self.lost_layer(&id, (*chain, below, *diff_id), blob);
                    }
                }
                below = Some(*chain);
            }
        }
        Ok(())
    }

    fn lost_layer(&mut self, image: &Digest, layer: (Digest, Option<Digest>, Digest), blob: &Digest) {
        let (chain, ..) = layer;
        let names = self.named(&[*image].into()).join(", ");
        let what = format!("its unpacked files are missing (image {names})");
        if !self.repair {
            let advice = "run image check --repair".to_owned();
            return self.found(format!("layer {chain}"), what, "", advice);
        }
        let (done, advice) = match self.unpack_again(layer, blob) {
            Ok(()) => ("unpacked it again", String::new()),
            Err(e) => {
                tracing::warn!(%chain, error = &e as &dyn std::error::Error, "cannot unpack a layer again");
                ("", format!("pull or load again: {names}"))
            }
        };
        self.found(format!("layer {chain}"), what, done, advice);
    }

    fn unpack_again(
        &self,
        (chain, below, diff_id): (Digest, Option<Digest>, Digest),
        blob: &Digest,
    ) -> Result<()> {
        let store = self.store;
        store.layers.restore(chain, below, diff_id, |under| {
            let place = (below.as_ref(), &diff_id);
            unpack_file(
                &store.layers,
                &store.limits,
                &store.blobs.path(blob),
                place,
                under,
            )
        })
    }

    /// Each image, kept stack and container holds each of its layers once; work under way may hold more.
    fn counts(&mut self) {
        let mut expected: BTreeMap<Digest, usize> = BTreeMap::new();
        let images = self.catalog.images.values().map(|r| r.layers.clone());
        let kept = self
            .catalog
            .kept
            .values()
            .map(|stack| chains(stack.iter().map(|l| &l.diff_id)));
        let containers = self.store.layers.container_stacks();
        for chain in images.chain(kept).chain(containers).flatten() {
            *expected.entry(chain).or_default() += 1;
        }
        for (chain, expected, held) in self.store.layers.short_counts(&expected, self.repair) {
            self.found(
                format!("layer {chain}"),
                format!("is held {held} times where {expected} need it"),
                "set the count right",
                String::new(),
            );
        }
    }

    fn strays(&mut self) -> Result<()> {
        let needed = self.catalog.blobs();
        for name in self.store.blobs.strays()? {
            let of = Digest::from_hex(&name);
            if of.is_none_or(|d| !needed.contains(&d)) {
                self.found(
                    format!("blob {name}"),
                    "is needed by no image".into(),
                    "deleted it",
                    String::new(),
                );
            }
        }
        for name in self.store.layers.strays()? {
            self.found(
                format!("layer {name}"),
                "belongs to no image".into(),
                "deleted it",
                String::new(),
            );
            if self.repair {
                self.store.layers.discard_stray(&name)?;
            }
        }
        if self.repair {
            self.store.blobs.sweep()?;
        }
        Ok(())
    }
}
