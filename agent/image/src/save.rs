//! `save`: one tar that is an OCI layout and a docker-save archive, as Docker 25 and later write it. Layers go out as
//! they came in, so manifest digests stay; for zstd layers, which Docker 20.10 can't read, `manifest.json` names a plain
//! copy. Times, owners and order are fixed: equal images give equal bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Write},
};

use tar::{EntryType, Header};

use crate::{
    Digest, Error, ImageId, Reference, Result,
    catalog::{Catalog, Record, Target},
    decompress::{Compression, Decoder},
    oci::{self, Descriptor, Document, Index, Manifest, Platform, SavedImage},
    spool::Spool,
    store::ImageStore,
    tar_stream::read_failed,
};

/// Where the archive's blobs come from: name, size and content of each, in order.
pub(crate) type Source<'a> =
    dyn FnMut(&Digest, &mut dyn FnMut(u64, &mut dyn Read) -> Result<()>) -> Result<()> + 'a;

/// One image of an archive.
pub(crate) struct Saving {
    pub(crate) id: ImageId,
    /// Digest, size and media type.
    pub(crate) manifest: (Digest, u64, String),
    /// The index that its names stand for.
    pub(crate) index: Option<Descriptor>,
    /// Blobs of the OCI manifest, and the index.
    pub(crate) blobs: Vec<Digest>,
    /// Layers for docker-save: as above, or the plain copies.
    pub(crate) plain_layers: Vec<Digest>,
    pub(crate) references: Vec<Reference>,
}

pub(crate) fn save(
    store: &ImageStore,
    names: &[String],
    platform: Option<&Platform>,
    w: impl Write,
) -> Result<()> {
    if names.is_empty() {
        return Err(Error::InvalidArgument("save needs at least one image".into()));
    }
    let catalog = store.view();
    let wanted = wanted(&catalog, names, platform)?;
    save_images(store, &catalog, &wanted, w)
}

/// Writes one image under names that it need not have in the store.
pub(crate) fn save_as(store: &ImageStore, image: &str, names: &[String], w: impl Write) -> Result<()> {
    let catalog = store.view();
    let id = catalog.find(image)?;
    let references = names
        .iter()
        .map(|name| Reference::parse(name).map(Reference::with_default_tag));
    let references = references.collect::<Result<BTreeSet<_>>>()?;
    save_images(store, &catalog, &Wanted::from([(id, (references, None))]), w)
}

fn save_images(store: &ImageStore, catalog: &Catalog, wanted: &Wanted, w: impl Write) -> Result<()> {
    let mut spool = Spool::new(&store.staging())?;
    let mut copies = BTreeMap::new();
    let mut images = Vec::new();
    for (id, (references, index)) in wanted {
        let record = catalog
            .images
            .get(id)
            .ok_or_else(|| Error::NotFound(id.to_string()))?;
        let text = store.blobs.read(&record.manifest)?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|source| Error::Json {
            what: "image manifest".into(),
            source,
        })?;
        let media_type = if manifest.media_type.is_empty() {
            oci::MANIFEST
        } else {
            &manifest.media_type
        };
        let mut plain_layers = Vec::new();
        for (blob, diff_id) in record.blobs.iter().zip(&record.config.rootfs.diff_ids) {
            plain_layers.push(match plain_copy(store, &mut spool, blob, diff_id)? {
                Some(copy) => {
                    copies.insert(*diff_id, copy);
                    *diff_id
                }
                None => *blob,
            });
        }
        images.push(Saving {
            id: *id,
            manifest: (record.manifest, text.len() as u64, media_type.into()),
            blobs: blobs_of(id, record).into_iter().chain(*index).collect(),
            index: index.map(|digest| index_descriptor(store, digest)).transpose()?,
            plain_layers,
            references: references.iter().cloned().collect(),
        });
    }
    let mut source =
        |digest: &Digest, sink: &mut dyn FnMut(u64, &mut dyn Read) -> Result<()>| match copies.get(digest) {
            Some(copy) => {
                let mut file = std::fs::File::open(&copy.path).map_err(read_failed)?;
                sink(copy.size, &mut file)
            }
            None => store.blobs.copy(digest, |reader, size| sink(size, reader)),
        };
    write_archive(&images, &mut source, w)
}

type Wanted = BTreeMap<ImageId, (BTreeSet<Reference>, Option<Digest>)>;

/// The images that names stand for, with the references and the index that go into the archive.
fn wanted(catalog: &Catalog, names: &[String], platform: Option<&Platform>) -> Result<Wanted> {
    let mut wanted = Wanted::new();
    let mut add = |reference: Option<&Reference>, target: &Target, name: &str| {
        if let Some(platform) = platform {
            let id = catalog.find_platform(name, platform)?;
            let slot = wanted.entry(id).or_default();
            slot.0.extend(reference.cloned());
            return Ok::<_, Error>(());
        }
        for id in target.images() {
            let slot = wanted.entry(*id).or_default();
            slot.0.extend(reference.cloned());
            slot.1 = slot.1.or(target.index);
        }
        Ok(())
    };
    for name in names {
        let parsed = Reference::parse(name).ok();
        if let Some(bare) = parsed
            .as_ref()
            .filter(|r| r.tag().is_none() && r.digest().is_none())
        {
            let tags = |(r, _): &(&Reference, &Target)| r.digest().is_none() && r.name() == bare.name();
            let mut any = false;
            for (reference, target) in catalog.references.iter().filter(tags) {
                add(Some(reference), target, &reference.to_string())?;
                any = true;
            }
            if any {
                continue;
            }
        }
        let id = catalog.find(name)?;
        let tagged = parsed.filter(|r| r.digest().is_none() && catalog.named(r) == Some(id));
        match tagged.as_ref().and_then(|r| catalog.references.get(r)) {
            Some(target) => add(tagged.as_ref(), target, name)?,
            None => add(None, &Target::new(id), name)?,
        }
    }
    Ok(wanted)
}

fn index_descriptor(store: &ImageStore, digest: Digest) -> Result<Descriptor> {
    let text = store.blobs.read(&digest)?;
    let Document::Index(index) = Document::parse("", &text, &store.limits)? else {
        return Err(Error::corrupt(digest, "it is no index"));
    };
    let media_type = match index.media_type.as_str() {
        "" => oci::INDEX,
        given => given,
    };
    Ok(Descriptor::new(media_type, digest, text.len() as u64))
}

fn blobs_of(id: &ImageId, record: &Record) -> Vec<Digest> {
    [*id, record.manifest]
        .into_iter()
        .chain(record.blobs.clone())
        .collect()
}

/// A plain copy of a zstd layer.
fn plain_copy(
    store: &ImageStore,
    spool: &mut Spool,
    blob: &Digest,
    diff_id: &Digest,
) -> Result<Option<crate::spool::Spooled>> {
    let (file, _) = store.blobs.open_blob(blob)?;
    let mut decoder = Decoder::new(file).map_err(read_failed)?;
    if decoder.compression() != Some(Compression::Zstd) {
        return Ok(None);
    }
    let copy = spool.store(&mut decoder, store.limits.layer_bytes.saturating_mul(2))?;
    if copy.digest != *diff_id {
        return Err(Error::corrupt(*blob, "it was changed on disk"));
    }
    Ok(Some(copy))
}

/// Writes the archive.
pub(crate) fn write_archive(images: &[Saving], source: &mut Source<'_>, w: impl Write) -> Result<()> {
    let mut tar = tar::Builder::new(w);
    let written = |source| Error::Stream {
        op: "cannot write the archive",
        source,
    };
    for dir in ["blobs/", "blobs/sha256/"] {
        tar.append(
            &header(dir, EntryType::Directory, 0).map_err(written)?,
            io::empty(),
        )
        .map_err(written)?;
    }
    let blobs: BTreeSet<Digest> = images
        .iter()
        .flat_map(|i| i.blobs.iter().chain(&i.plain_layers))
        .copied()
        .collect();
    for blob in &blobs {
        source(blob, &mut |size, reader| {
            let header = header(&blob_path(blob), EntryType::Regular, size).map_err(written)?;
            tar.append(&header, reader).map_err(written)
        })?;
    }
    let mut add = |name: &str, document: serde_json::Result<Vec<u8>>| {
        let text = document.map_err(|source| Error::Json {
            what: name.into(),
            source,
        })?;
        let header = header(name, EntryType::Regular, text.len() as u64).map_err(written)?;
        tar.append(&header, &text[..]).map_err(written)
    };
    add("index.json", serde_json::to_vec(&index_of(images)))?;
    add("manifest.json", serde_json::to_vec(&saved_of(images)))?;
    add("oci-layout", Ok(br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()))?;
    add("repositories", serde_json::to_vec(&repositories_of(images)))?;
    tar.into_inner().and_then(|mut w| w.flush()).map_err(written)
}

fn header(name: &str, kind: EntryType, size: u64) -> io::Result<Header> {
    let mut header = Header::new_gnu();
    header.set_path(name)?;
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory {
        0o755
    } else {
        0o644
    });
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn index_of(images: &[Saving]) -> Index {
    let mut manifests = Vec::new();
    for image in images {
        let (digest, size, media_type) = &image.manifest;
        let plain = match &image.index {
            Some(index) => index.clone(),
            None => Descriptor::new(media_type, *digest, *size),
        };
        let named = |r: &Reference| {
            let mut d = plain.clone();
            d.annotations.insert(oci::IMAGE_NAME.into(), r.to_string());
            d.annotations
                .insert(oci::REF_NAME.into(), r.tag().unwrap_or_default().into());
            d
        };
        let described: Vec<Descriptor> = match image.references.is_empty() {
            true => vec![plain],
            false => image.references.iter().map(named).collect(),
        };
        for descriptor in described {
            // Platforms of one index have one entry.
            if !manifests.contains(&descriptor) {
                manifests.push(descriptor);
            }
        }
    }
    Index {
        schema_version: 2,
        media_type: oci::INDEX.into(),
        manifests,
    }
}

fn saved_of(images: &[Saving]) -> Vec<SavedImage> {
    let saved = |image: &Saving| SavedImage {
        config: blob_path(&image.id),
        repo_tags: (!image.references.is_empty())
            .then(|| image.references.iter().map(Reference::familiar).collect()),
        layers: image.plain_layers.iter().map(blob_path).collect(),
    };
    images.iter().map(saved).collect()
}

/// The file of Docker before 1.10: repository, tag, top layer.
fn repositories_of(images: &[Saving]) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for image in images {
        let top = image.plain_layers.last().map(Digest::hex).unwrap_or_default();
        for r in &image.references {
            let tags = repositories.entry(r.familiar_name()).or_default();
            tags.insert(r.tag().unwrap_or_default().into(), top.clone());
        }
    }
    repositories
}
