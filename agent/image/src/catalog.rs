//! Which images there are and what they are called: `images.json`, replaced by one rename, and its parsed form in
//! memory. An image or tag exists exactly when this file says so; blobs and layers that it does not reach are swept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    Digest, Error, Image, ImageConfig, Reference, Result,
    blobs::Blobs,
    error::At,
    oci::{Descriptor, Manifest, Platform},
};

mod passing;

pub(crate) use passing::Passing;

const FILE: &str = "images.json";

/// What is written.
#[derive(Default, Serialize, Deserialize)]
struct Saved {
    version: u32,
    images: BTreeMap<Digest, SavedRecord>,
    /// Canonical `name:tag` or `name@digest`.
    references: BTreeMap<String, SavedTarget>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    kept: BTreeMap<String, Vec<KeptLayer>>,
}

/// Version 1 wrote the image's id alone.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum SavedTarget {
    Image(Digest),
    Index(Target),
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    /// The image that the name means when nobody asks for a platform.
    pub(crate) image: Digest,
    /// The image index that it came with.
    pub(crate) index: Option<Digest>,
    /// Images of that index for other platforms, in the order of their digests.
    pub(crate) others: BTreeSet<Digest>,
}

impl Target {
    pub(crate) fn new(image: Digest) -> Self {
        Target {
            image,
            index: None,
            others: BTreeSet::new(),
        }
    }

    /// All images behind the name, the meant one first.
    pub(crate) fn images(&self) -> impl Iterator<Item = &Digest> {
        std::iter::once(&self.image).chain(&self.others)
    }
}

/// A layer of a stack that is kept without an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptLayer {
    pub(crate) diff_id: Digest,
    pub(crate) blob: Descriptor,
}

#[derive(Serialize, Deserialize)]
struct SavedRecord {
    manifest: Digest,
    size: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    made_here: bool,
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
    /// The manifest did not come with the image, we made it: a push may compress its layers.
    pub(crate) made_here: bool,
}

impl Record {
    /// What it runs on.
    pub(crate) fn platform(&self) -> Platform {
        Platform {
            architecture: self.config.architecture.clone(),
            os: self.config.os.clone(),
            variant: self.config.variant.clone(),
        }
    }

    fn is_for_host(&self) -> bool {
        Platform::host().is_met_by(&self.platform())
    }

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
    pub(crate) references: BTreeMap<Reference, Target>,
    /// Stacks that are kept under a key, bottom first: a builder's cache.
    pub(crate) kept: BTreeMap<String, Vec<KeptLayer>>,
    /// What is not written.
    pub(crate) passing: Passing,
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
        for (reference, target) in saved.references {
            let target = match target {
                SavedTarget::Image(id) => Target::new(id),
                SavedTarget::Index(target) => target,
            };
            if let Ok(r) = Reference::parse(&reference) {
                catalog.references.insert(r, target);
            }
        }
        catalog.kept = saved.kept;
        catalog.drop_dangling_names();
        Ok(catalog)
    }

    /// Writes the file: after this returns, also a power loss keeps it.
    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        let record = |r: &Record| SavedRecord {
            manifest: r.manifest,
            size: r.size,
            made_here: r.made_here,
        };
        let saved = Saved {
            version: 2,
            images: self
                .images
                .iter()
                .filter(|(id, _)| !self.is_passing(id))
                .map(|(id, r)| (*id, record(r)))
                .collect(),
            references: self
                .references
                .iter()
                .filter_map(|(r, now)| {
                    let target = self.passing.names.get(r).map_or(Some(now), Option::as_ref)?;
                    Some((r.to_string(), saved_target(target)))
                })
                .collect(),
            kept: self.kept.clone(),
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

    /// Takes images that are gone out of what names stand for, and names that stand for nothing any more.
    pub(crate) fn drop_dangling_names(&mut self) {
        let images = &self.images;
        self.references.retain(|_, target| {
            target.others.retain(|id| images.contains_key(id));
            if !images.contains_key(&target.image) {
                match target.others.pop_first() {
                    Some(other) => target.image = other,
                    None => return false,
                }
            }
            true
        });
    }

    /// Points a name at an image. With the index that the name has already, the image joins those of other platforms.
    pub(crate) fn point(&mut self, reference: Reference, image: Digest, index: Option<Digest>) {
        let is_host = self.images.get(&image).is_some_and(Record::is_for_host);
        match self.references.get_mut(&reference) {
            Some(target) if index.is_some() && target.index == index => {
                if target.image == image {
                    return;
                }
                let other = if is_host {
                    std::mem::replace(&mut target.image, image)
                } else {
                    image
                };
                target.others.insert(other);
                target.others.remove(&target.image);
            }
            _ => {
                let target = Target {
                    index,
                    ..Target::new(image)
                };
                self.references.insert(reference, target);
            }
        }
    }

    /// Some name stands for the image, also if only for its platform.
    pub(crate) fn is_named(&self, id: &Digest) -> bool {
        self.references
            .values()
            .any(|target| target.images().any(|image| image == id))
    }

    /// The image is there only as another platform of a name that means another one.
    pub(crate) fn is_other(&self, id: &Digest) -> bool {
        let mut targets = self.references.values();
        !self.references.values().any(|target| target.image == *id)
            && targets.any(|target| target.others.contains(id))
    }

    /// The references of an image, tags first.
    pub(crate) fn references_of(&self, id: &Digest) -> Vec<Reference> {
        let mut refs: Vec<_> = self
            .references
            .iter()
            .filter(|(_, target)| target.image == *id)
            .map(|(r, _)| r.clone())
            .collect();
        refs.sort_by_key(|r| (r.tag().is_none(), r.familiar()));
        refs
    }

    /// Digests of all blobs that some image, name or kept stack needs.
    pub(crate) fn blobs(&self) -> BTreeSet<Digest> {
        let of = |(id, r): (&Digest, &Record)| [*id, r.manifest].into_iter().chain(r.blobs.clone());
        let images = self.images.iter().flat_map(of);
        let indexes = self.references.values().filter_map(|target| target.index);
        let kept = self.kept.values().flatten().map(|layer| layer.blob.digest);
        images.chain(indexes).chain(kept).collect()
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
        let index = self.references.values().find(|t| t.images().any(|i| i == id));
        Ok(Image {
            index: index.and_then(|target| target.index),
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
            return self.references.get(reference).map(|target| target.image);
        };
        let exact = self.references.get(&reference.with_digest(*digest));
        exact.map(|target| target.image).or_else(|| {
            let same_name = |r: &Reference| (r.domain(), r.path()) == (reference.domain(), reference.path());
            let fits = |id: &Digest| self.images.get(id).is_some_and(|r| r.manifest == *digest);
            let images = |(r, target): (&Reference, &Target)| {
                let meant = same_name(r).then_some(target.index == Some(*digest));
                match meant {
                    Some(true) => Some(target.image),
                    Some(false) => target.images().find(|id| fits(id)).copied(),
                    None => None,
                }
            };
            self.references.iter().find_map(images)
        })
    }

    /// As [`Catalog::find`], for one platform: of a name's images the one that fits.
    pub(crate) fn find_platform(&self, name_or_id: &str, platform: &Platform) -> Result<Digest> {
        let id = self.find(name_or_id)?;
        let fits = |id: &&Digest| {
            let record = self.images.get(*id);
            record.is_some_and(|r| platform.is_met_by(&r.platform()))
        };
        if fits(&&id) {
            return Ok(id);
        }
        let parsed = Reference::parse(name_or_id).map(Reference::with_default_tag).ok();
        let target = parsed.and_then(|r| {
            let exact = r.digest().map(|d| self.references.get(&r.with_digest(*d)));
            exact.flatten().or_else(|| self.references.get(&r))
        });
        let other = target.and_then(|t| t.others.iter().find(fits));
        other.copied().ok_or_else(|| {
            let found = self.images.get(&id).map(|r| r.platform().to_string());
            Error::PlatformMissing {
                name: name_or_id.into(),
                found: found.unwrap_or_default(),
                wanted: platform.to_string(),
            }
        })
    }
}

fn saved_target(target: &Target) -> SavedTarget {
    if target.index.is_none() && target.others.is_empty() {
        return SavedTarget::Image(target.image);
    }
    SavedTarget::Index(target.clone())
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
        made_here: saved.made_here,
    })
}
