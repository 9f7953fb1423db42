//! Which images there are and what they are called: `images.json`, replaced by one rename, and its parsed form in
//! memory. An image or tag exists exactly when this file says so; blobs and layers that it does not reach are swept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{Digest, Error, Image, ImageConfig, Reference, Result, blobs::Blobs, error::At, oci::Manifest};

const FILE: &str = "images.json";

/// What is written.
#[derive(Default, Serialize, Deserialize)]
struct Saved {
    version: u32,
    images: BTreeMap<Digest, SavedRecord>,
    /// Canonical `name:tag` or `name@digest`.
    references: BTreeMap<String, Digest>,
}

#[derive(Serialize, Deserialize)]
struct SavedRecord {
    manifest: Digest,
    size: u64,
}

/// One image.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) manifest: Digest,
    pub(crate) config: Arc<ImageConfig>,
    /// Layer blobs, bottom first.
    pub(crate) blobs: Vec<Digest>,
    /// Chain ids, bottom first.
    pub(crate) layers: Vec<Digest>,
    pub(crate) size: u64,
}

impl Record {
    /// Chain ids that follow from the configuration.
    pub(crate) fn chains(config: &ImageConfig) -> Vec<Digest> {
        let mut chains: Vec<Digest> = Vec::new();
        for diff_id in &config.rootfs.diff_ids {
            chains.push(Digest::chain(chains.last(), diff_id));
        }
        chains
    }
}

/// All images and references. Cloned, changed, written, then swapped in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalog {
    pub(crate) images: BTreeMap<Digest, Record>,
    pub(crate) references: BTreeMap<Reference, Digest>,
}

impl Catalog {
    /// Reads the file; an image whose configuration or manifest is lost or damaged is left out, with an error logged.
    pub(crate) fn read(root: &Path, blobs: &Blobs) -> Result<Self> {
        let file = root.join(FILE);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Catalog::default()),
            Err(e) => return Err(e).at("cannot read", file),
        };
        let saved: Saved = serde_json::from_slice(&text).map_err(|source| Error::Json {
            what: file.display().to_string(),
            source,
        })?;
        let mut catalog = Catalog::default();
        for (id, record) in saved.images {
            match record_of(&id, &record, blobs) {
                Ok(r) => drop(catalog.images.insert(id, r)),
                Err(e) => {
                    tracing::error!(image = %id, error = &e as &dyn std::error::Error, "image is damaged")
                }
            }
        }
        for (reference, id) in saved.references {
            if let (Ok(r), true) = (Reference::parse(&reference), catalog.images.contains_key(&id)) {
                catalog.references.insert(r, id);
            }
        }
        Ok(catalog)
    }

    /// Writes the file: after this returns, also a power loss keeps it.
    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        let record = |r: &Record| SavedRecord {
            manifest: r.manifest,
            size: r.size,
        };
        let saved = Saved {
            version: 1,
            images: self.images.iter().map(|(id, r)| (*id, record(r))).collect(),
            references: self
                .references
                .iter()
                .map(|(r, id)| (r.to_string(), *id))
                .collect(),
        };
        let path = root.join(FILE);
        let text = serde_json::to_vec_pretty(&saved).map_err(|source| Error::Json {
            what: FILE.into(),
            source,
        })?;
        let mut file = tempfile::NamedTempFile::new_in(root.join("staging")).at("cannot write", &path)?;
        std::io::Write::write_all(&mut file, &text).at("cannot write", &path)?;
        file.as_file().sync_data().at("cannot sync", &path)?;
        file.persist(&path)
            .map_err(|e| e.error)
            .at("cannot put in place", &path)?;
        fs::File::open(root)
            .and_then(|d| d.sync_all())
            .at("cannot sync", root)
    }

    /// The references of an image, tags first.
    pub(crate) fn references_of(&self, id: &Digest) -> Vec<Reference> {
        let mut refs: Vec<_> = self
            .references
            .iter()
            .filter(|(_, i)| *i == id)
            .map(|(r, _)| r.clone())
            .collect();
        refs.sort_by_key(|r| (r.tag().is_none(), r.familiar()));
        refs
    }

    /// Digests of all blobs that some image needs.
    pub(crate) fn blobs(&self) -> BTreeSet<Digest> {
        let of = |(id, r): (&Digest, &Record)| [*id, r.manifest].into_iter().chain(r.blobs.clone());
        self.images.iter().flat_map(of).collect()
    }

    /// An image in the form that callers get.
    pub(crate) fn image(&self, id: &Digest) -> Result<Image> {
        let record = self
            .images
            .get(id)
            .ok_or_else(|| Error::NotFound(id.to_string()))?;
        let (tags, digests): (Vec<_>, Vec<_>) = self
            .references_of(id)
            .into_iter()
            .partition(|r| r.digest().is_none());
        Ok(Image {
            id: *id,
            manifest: record.manifest,
            config: ImageConfig::clone(&record.config),
            repo_tags: tags.iter().map(Reference::familiar).collect(),
            repo_digests: digests.iter().map(Reference::familiar).collect(),
            layers: record.layers.clone(),
            size: record.size,
            created: nanos(record.config.created.as_deref()),
        })
    }

    /// The id that a user's name or id stands for: an exact id, else a name, else a unique id prefix, as in Docker.
    pub(crate) fn find(&self, name_or_id: &str) -> Result<Digest> {
        let exact = name_or_id.parse().ok().or_else(|| Digest::from_hex(name_or_id));
        if let Some(id) = exact {
            let not_found = || Error::NotFound(name_or_id.into());
            return self.images.contains_key(&id).then_some(id).ok_or_else(not_found);
        }
        let parsed = Reference::parse(name_or_id).map(Reference::with_default_tag);
        if let Some(id) = parsed.as_ref().ok().and_then(|r| self.named(r)) {
            return Ok(id);
        }
        let prefix = name_or_id.strip_prefix("sha256:").unwrap_or(name_or_id);
        let is_prefix = (1..64).contains(&prefix.len())
            && prefix
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if is_prefix {
            let fits: Vec<_> = self
                .images
                .keys()
                .filter(|id| id.hex().starts_with(prefix))
                .collect();
            match fits[..] {
                [id] => return Ok(*id),
                [] => {}
                _ => {
                    return Err(Error::Ambiguous {
                        prefix: prefix.into(),
                        count: fits.len(),
                    });
                }
            }
            return Err(Error::NotFound(name_or_id.into()));
        }
        Err(parsed.map_or_else(|e| e, |r| Error::NotFound(r.familiar())))
    }

    /// Looks a reference up. `name:tag@digest` counts by its digest, as in Docker; an image's own manifest digest counts
    /// for every repository that it is tagged in.
    pub(crate) fn named(&self, reference: &Reference) -> Option<Digest> {
        let Some(digest) = reference.digest() else {
            return self.references.get(reference).copied();
        };
        let exact = self.references.get(&reference.with_digest(*digest)).copied();
        exact.or_else(|| {
            let same_name = |r: &Reference| (r.domain(), r.path()) == (reference.domain(), reference.path());
            let fits = |id: &Digest| self.images.get(id).is_some_and(|r| r.manifest == *digest);
            self.references
                .iter()
                .find(|(r, id)| same_name(r) && fits(id))
                .map(|(_, id)| *id)
        })
    }
}

/// Nanoseconds since the epoch of an RFC 3339 time, 0 if there is none.
pub(crate) fn nanos(time: Option<&str>) -> i64 {
    let parsed = time.and_then(|t| t.parse::<jiff::Timestamp>().ok());
    parsed
        .and_then(|t| i64::try_from(t.as_nanosecond()).ok())
        .unwrap_or(0)
}

fn record_of(id: &Digest, saved: &SavedRecord, blobs: &Blobs) -> Result<Record> {
    let json = |what: &str, source| Error::Json {
        what: what.into(),
        source,
    };
    let config: ImageConfig =
        serde_json::from_slice(&blobs.read(id)?).map_err(|e| json("image configuration", e))?;
    let manifest: Manifest =
        serde_json::from_slice(&blobs.read(&saved.manifest)?).map_err(|e| json("image manifest", e))?;
    Ok(Record {
        manifest: saved.manifest,
        layers: Record::chains(&config),
        config: Arc::new(config),
        blobs: manifest.layers.iter().map(|l| l.digest).collect(),
        size: saved.size,
    })
}
