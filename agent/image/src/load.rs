//! `load`: docker-save archives (current, and legacy with `<id>/layer.tar`) and OCI layouts, also both in one.
//!
//! The archive is received into staging, understood, its layers unpacked side by side (and their diff ids checked) and only then
//! committed; any error drops the staging directory and the layers' pins, so that nothing stays behind.

mod layers;

use std::{collections::BTreeMap, io::Read};

use crate::{
    Digest, Error, ImageConfig, LoadEvent, Loaded, Reference, Result,
    catalog::Record,
    limits::Limits,
    oci::{self, Descriptor, Document, Index, Manifest, Platform, SavedImage},
    spool::{Spool, Spooled},
    store::{Candidate, ImageStore},
};

/// An image as an archive describes it.
struct Found {
    config: Spooled,
    /// The manifest, when the archive has one.
    manifest: Option<Spooled>,
    layers: Vec<Spooled>,
    references: Vec<Reference>,
    /// The index within the archive that names it.
    index: Option<Spooled>,
}

pub(crate) fn load(
    store: &ImageStore,
    stream: impl Read,
    platform: Option<&Platform>,
    progress: &mut dyn FnMut(LoadEvent),
) -> Result<Vec<Loaded>> {
    let mut spool = Spool::receive(&store.staging(), stream, &store.limits, progress)?;
    let mut found = images_of(&spool, platform, &store.limits)?;
    if let Some(platform) = platform {
        found = only(&spool, found, platform, &store.limits)?;
    }
    if found.len() > store.limits.images {
        return Err(Error::hostile(
            "manifest.json",
            format!("more than {} images", store.limits.images),
        ));
    }
    let mut candidates = Vec::new();
    for image in found {
        candidates.push(install(store, &mut spool, image, progress)?);
    }
    let loaded = candidates
        .iter()
        .map(|c| Loaded {
            id: c.id,
            references: c.references.clone(),
        })
        .collect();
    store.commit(candidates)?;
    Ok(loaded)
}

fn images_of(spool: &Spool, platform: Option<&Platform>, limits: &Limits) -> Result<Vec<Found>> {
    let saved = match spool.get("manifest.json")? {
        Some(file) => Some(parse::<Vec<SavedImage>>(
            "manifest.json",
            &spool.json("manifest.json", file, limits)?,
        )?),
        None => None,
    };
    let is_layout = spool.get("oci-layout")?.is_some();
    match (spool.get("index.json")?, saved) {
        (Some(index), saved) if is_layout || saved.is_none() => {
            let index: Index = parse("index.json", &spool.json("index.json", index, limits)?)?;
            let saved = saved.as_deref().unwrap_or_default();
            from_index(spool, &index, saved, platform, limits)
        }
        (_, Some(saved)) => saved.iter().map(|s| from_saved(spool, s, limits)).collect(),
        (_, None) => Err(Error::NotAnArchive(
            "it has neither manifest.json nor index.json; use import for a root filesystem".into(),
        )),
    }
}

fn from_saved(spool: &Spool, saved: &SavedImage, limits: &Limits) -> Result<Found> {
    let member = |name: &String| {
        let file = spool
            .get(name)?
            .ok_or_else(|| Error::NotAnArchive(format!("it lacks the file {name}")))?;
        // Files named for their digest must have it: <hex>.json, blobs/sha256/<hex>.
        let stem = name.rsplit('/').next().unwrap_or(name).trim_end_matches(".json");
        match Digest::from_hex(stem) {
            Some(digest) if digest != file.digest => Err(Error::corrupt(
                digest,
                format!("the archive's file is {}", file.digest),
            )),
            _ => Ok(file.clone()),
        }
    };
    if saved.layers.len() > limits.layers {
        return Err(Error::hostile(
            "manifest.json",
            format!("more than {} layers", limits.layers),
        ));
    }
    Ok(Found {
        config: member(&saved.config)?,
        manifest: None,
        layers: saved.layers.iter().map(member).collect::<Result<_>>()?,
        references: tags(saved)?,
        index: None,
    })
}

fn tags(saved: &SavedImage) -> Result<Vec<Reference>> {
    let tags = saved.repo_tags.iter().flatten();
    tags.map(|t| Reference::parse(t).map(Reference::with_default_tag))
        .collect()
}

fn from_index(
    spool: &Spool,
    index: &Index,
    saved: &[SavedImage],
    platform: Option<&Platform>,
    limits: &Limits,
) -> Result<Vec<Found>> {
    let mut images: BTreeMap<Digest, Found> = BTreeMap::new();
    let mut foreign = None;
    let mut order = Vec::new();
    for descriptor in index.manifests.iter().take(limits.images + 1) {
        let mut chosen = Vec::new();
        choose(
            spool,
            descriptor,
            (platform, limits),
            limits.index_depth,
            &mut chosen,
        )?;
        if chosen.is_empty() {
            foreign = foreign.or(descriptor.platform.as_ref().map(ToString::to_string));
        }
        for (file, manifest, nested) in chosen {
            let digest = file.digest;
            if let Some(image) = images.get_mut(&digest) {
                image.references.extend(name_of(descriptor)?);
                continue;
            }
            let mut image = from_manifest(spool, file, &manifest, limits)?;
            for s in saved {
                if spool
                    .get(&s.config)?
                    .is_some_and(|c| c.digest == image.config.digest)
                {
                    image.references.extend(tags(s)?);
                }
            }
            image.references.extend(name_of(descriptor)?);
            image.index = nested;
            order.push(digest);
            images.insert(digest, image);
        }
    }
    if images.is_empty() {
        let found = foreign.unwrap_or_else(|| "no known platform".into());
        return Err(Error::WrongPlatform {
            found,
            wanted: platform.cloned().unwrap_or_else(Platform::host).to_string(),
        });
    }
    Ok(order.iter().filter_map(|d| images.remove(d)).collect())
}

type Chosen = (Spooled, Manifest, Option<Spooled>);

/// The manifests behind a descriptor: itself, or those of a nested index that the archive has. Of other platforms than the one
/// that is wanted (or this node's) only those beside one that is.
fn choose(
    spool: &Spool,
    descriptor: &Descriptor,
    (platform, limits): (Option<&Platform>, &Limits),
    depth: usize,
    chosen: &mut Vec<Chosen>,
) -> Result<()> {
    let fits = |p: &Platform| platform.map_or_else(|| p.runs_here(), |wanted| wanted.is_met_by(p));
    if descriptor.is_attestation() || descriptor.platform.as_ref().is_some_and(|p| !fits(p)) {
        return Ok(());
    }
    let file = spool.blob(&descriptor.digest)?;
    let name = descriptor.digest.to_string();
    if file.size != descriptor.size {
        return Err(Error::corrupt(
            descriptor.digest,
            format!("{} bytes, not {}", file.size, descriptor.size),
        ));
    }
    let text = spool.json(&name, file, limits)?;
    let index = match Document::parse(&descriptor.media_type, &text, limits)? {
        Document::Manifest(manifest) => {
            chosen.push((file.clone(), manifest, None));
            return Ok(());
        }
        Document::Index(index) => index,
    };
    if depth == 0 {
        return Err(Error::hostile(
            name,
            format!("image indexes nest deeper than {}", limits.index_depth),
        ));
    }
    let before = chosen.len();
    for nested in &index.manifests {
        // Archives of a few platforms keep the whole index, for its digest.
        if spool.has_blob(&nested.digest)? {
            choose(spool, nested, (platform, limits), depth - 1, chosen)?;
        }
    }
    if chosen.len() > before && platform.is_none() {
        for nested in index
            .manifests
            .iter()
            .filter(|d| d.platform.as_ref().is_some_and(|p| !fits(p)))
        {
            if spool.has_blob(&nested.digest)? {
                let plain = Descriptor {
                    platform: None,
                    ..nested.clone()
                };
                choose(spool, &plain, (platform, limits), 0, chosen)?;
            }
        }
    }
    for (_, _, of) in &mut chosen[before..] {
        *of = Some(file.clone());
    }
    Ok(())
}

/// The images for one platform.
fn only(spool: &Spool, found: Vec<Found>, platform: &Platform, limits: &Limits) -> Result<Vec<Found>> {
    let mut kept = Vec::new();
    let mut others = Vec::new();
    for image in found {
        let config: ImageConfig = parse(
            "image configuration",
            &spool.json("config", &image.config, limits)?,
        )?;
        let of = Platform {
            os: config.os,
            architecture: config.architecture,
            variant: config.variant,
        };
        match platform.is_met_by(&of) {
            true => kept.push(image),
            false => others.push(of.to_string()),
        }
    }
    if kept.is_empty() {
        return Err(Error::WrongPlatform {
            found: others.join(", "),
            wanted: platform.to_string(),
        });
    }
    Ok(kept)
}

fn from_manifest(spool: &Spool, file: Spooled, manifest: &Manifest, limits: &Limits) -> Result<Found> {
    if manifest.layers.len() > limits.layers {
        return Err(Error::hostile(
            file.digest.to_string(),
            format!("more than {} layers", limits.layers),
        ));
    }
    let blob = |d: &Descriptor| {
        let blob = spool.blob(&d.digest)?;
        if blob.size != d.size {
            return Err(Error::corrupt(
                d.digest,
                format!("{} bytes, not {}", blob.size, d.size),
            ));
        }
        Ok(blob.clone())
    };
    Ok(Found {
        config: blob(&manifest.config)?,
        layers: manifest.layers.iter().map(blob).collect::<Result<_>>()?,
        manifest: Some(file),
        references: Vec::new(),
        index: None,
    })
}

/// The name that an index gives an image: containerd's annotation, or a ref.name that is more than a tag.
fn name_of(descriptor: &Descriptor) -> Result<Option<Reference>> {
    let full = descriptor.annotations.get(oci::IMAGE_NAME);
    let name = full.or_else(|| {
        descriptor
            .annotations
            .get(oci::REF_NAME)
            .filter(|n| n.contains(['/', ':']))
    });
    name.map(|n| Reference::parse(n).map(Reference::with_default_tag))
        .transpose()
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|source| Error::Json {
        what: name.into(),
        source,
    })
}

/// Unpacks an image's layers and makes it ready to commit.
fn install(
    store: &ImageStore,
    spool: &mut Spool,
    image: Found,
    progress: &mut dyn FnMut(LoadEvent),
) -> Result<Candidate> {
    let config: ImageConfig = parse(
        "image configuration",
        &spool.json("config", &image.config, &store.limits)?,
    )?;
    if !config.os.is_empty() && config.os != Platform::host().os {
        let found = Platform {
            os: config.os,
            architecture: config.architecture,
            variant: config.variant,
        };
        return Err(Error::WrongPlatform {
            found: found.to_string(),
            wanted: Platform::host().to_string(),
        });
    }
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != image.layers.len() {
        let reason = format!(
            "it names {} layers, the archive has {}",
            diff_ids.len(),
            image.layers.len()
        );
        return Err(Error::corrupt(image.config.digest, reason));
    }
    let (pins, layers) = layers::install(store, diff_ids, &image.layers, progress)?;
    let made_here = image.manifest.is_none();
    let manifest = match image.manifest {
        Some(manifest) => manifest,
        None => {
            let manifest = Manifest::new((image.config.digest, image.config.size), layers);
            let text = serde_json::to_vec(&manifest).map_err(|source| Error::Json {
                what: "image manifest".into(),
                source,
            })?;
            spool.store(&mut &text[..], u64::MAX)?
        }
    };
    // Digest references count only where they name this very manifest.
    let honest = |r: &Reference| r.digest().is_none_or(|d| *d == manifest.digest);
    let mut references: Vec<Reference> = image.references.into_iter().filter(honest).collect();
    references.sort();
    references.dedup();
    Ok(Candidate {
        id: image.config.digest,
        record: Record {
            manifest: manifest.digest,
            layers: Record::chains(&config),
            config: config.into(),
            blobs: image.layers.iter().map(|l| l.digest).collect(),
            size: pins.iter().map(|p| p.size).sum(),
            made_here,
        },
        index: image.index.as_ref().map(|i| i.digest),
        files: [image.config, manifest]
            .into_iter()
            .chain(image.layers)
            .chain(image.index)
            .collect(),
        references,
        _held: Vec::new(),
        pins,
        is_passing: false,
        is_annotated: false,
    })
}
