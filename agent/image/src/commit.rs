//! `commit`: a container's changes as one more layer on its image. The layer is archived to a spool, and unpacked like
//! one that came by `load`, so that what runs later is what the archive says.

use std::{fs::File, io::BufReader};

use crate::{
    CommitOptions, Digest, Error, HistoryEntry, Image, ImageConfig, ImageId, Reference, Result, archive,
    catalog::Record,
    changes,
    decompress::Compression,
    error::At,
    layers::Pin,
    oci::Manifest,
    spool::{Spool, Spooled},
    store::{Candidate, ImageStore},
    unpack,
};

/// An archive without entries.
const EMPTY_TAR: u64 = 1024;

pub(crate) fn commit(store: &ImageStore, container: &str, options: &CommitOptions) -> Result<ImageId> {
    // All that can be wrong with the arguments is, before anything is read.
    let reference = options
        .reference
        .as_deref()
        .map(Reference::parse)
        .transpose()?
        .map(Reference::with_default_tag);
    if reference.as_ref().is_some_and(|r| r.digest().is_some()) {
        return Err(Error::InvalidArgument(
            "refusing to create a tag with a digest reference".into(),
        ));
    }
    let mut defaults = options.config.clone();
    changes::apply(&mut defaults, &options.changes)?;
    let parent = store.get(&options.parent)?;
    defaults
        .volumes
        .extend(parent.config.config.volumes.iter().cloned());
    let rootfs = store.rootfs(container)?;

    let mut spool = Spool::new(&store.staging())?;
    let layer = spool.write(|out| archive::write_layer(&rootfs, &options.ids, out))?;
    let mut pins = hold(store, &parent)?;
    let new_layer = (layer.size > EMPTY_TAR).then_some(layer);
    if let Some(layer) = &new_layer {
        pins.push(unpack_on(store, &parent, layer)?);
    }
    let config = config_of(&parent, options, defaults, new_layer.as_ref());
    let candidate = candidate(store, &parent, &mut spool, (config, new_layer, pins))?;
    let id = candidate.id;
    store.commit(vec![Candidate {
        references: reference.into_iter().collect(),
        ..candidate
    }])?;
    Ok(id)
}

/// The image needs its parent's layers too.
fn hold<'s>(store: &'s ImageStore, parent: &Image) -> Result<Vec<Pin<'s>>> {
    let mut below = None;
    let mut pins = Vec::new();
    for (chain, diff_id) in parent.layers.iter().zip(&parent.config.rootfs.diff_ids) {
        let gone = |_: &std::path::Path, _: &crate::merged::Merged| {
            Err(Error::corrupt(*chain, "the unpacked layer is missing"))
        };
        pins.push(store.layers.acquire(*chain, below, *diff_id, gone)?.0);
        below = Some(*chain);
    }
    Ok(pins)
}

fn unpack_on<'s>(store: &'s ImageStore, parent: &Image, layer: &Spooled) -> Result<Pin<'s>> {
    let top = parent.layers.last().copied();
    let chain = Digest::chain(top.as_ref(), &layer.digest);
    let unpack = |dest: &std::path::Path, below: &crate::merged::Merged| {
        let file = File::open(&layer.path).at("cannot read", &layer.path)?;
        let file = BufReader::with_capacity(128 << 10, file);
        unpack::unpack(file, dest, below, &store.limits)
    };
    Ok(store.layers.acquire(chain, top, layer.digest, unpack)?.0)
}

fn config_of(
    parent: &Image,
    options: &CommitOptions,
    defaults: crate::ContainerConfig,
    layer: Option<&Spooled>,
) -> ImageConfig {
    let text = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
    let now = Some(jiff::Timestamp::now().to_string());
    let mut config = parent.config.clone();
    config.created.clone_from(&now);
    config.author = text(&options.author);
    config.comment = text(&options.message);
    config.config = defaults;
    config.rootfs.diff_ids.extend(layer.map(|l| l.digest));
    config.history.push(HistoryEntry {
        created: now,
        created_by: text(&options.created_by),
        author: text(&options.author),
        comment: text(&options.message),
        empty_layer: layer.is_none(),
    });
    config
}

fn candidate<'s>(
    store: &ImageStore,
    parent: &Image,
    spool: &mut Spool,
    (config, layer, pins): (ImageConfig, Option<Spooled>, Vec<Pin<'s>>),
) -> Result<Candidate<'s>> {
    let json = |source| Error::Json {
        what: "image".into(),
        source,
    };
    let text = serde_json::to_vec(&config).map_err(json)?;
    let config_file = spool.store(&mut &text[..], u64::MAX)?;
    let id = config_file.digest;
    let text = store.blobs.read(&parent.manifest)?;
    let mut manifest: Manifest = serde_json::from_slice(&text).map_err(json)?;
    let mut blobs: Vec<Digest> = manifest.layers.iter().map(|l| l.digest).collect();
    let own: Vec<_> = layer
        .iter()
        .map(|l| (l.digest, l.size, Compression::Plain))
        .collect();
    let new = Manifest::new((id, config_file.size), &own);
    blobs.extend(own.iter().map(|(digest, ..)| *digest));
    for old in &mut manifest.layers {
        old.media_type = oci_type(&old.media_type);
    }
    manifest.layers.extend(new.layers);
    let manifest = Manifest {
        layers: manifest.layers,
        ..new
    };
    let text = serde_json::to_vec(&manifest).map_err(json)?;
    let manifest = spool.store(&mut &text[..], u64::MAX)?;
    let record = Record {
        manifest: manifest.digest,
        layers: Record::chains(&config),
        config: config.into(),
        blobs,
        size: pins.iter().map(|pin| pin.size).sum(),
    };
    let mut files = vec![config_file, manifest];
    files.extend(layer);
    Ok(Candidate {
        id,
        record,
        files,
        references: Vec::new(),
        parent: Some(parent.id),
        pins,
    })
}

/// Docker's names for layers in OCI's words: a manifest has one kind.
fn oci_type(media_type: &str) -> String {
    media_type
        .replace(
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.oci.image.layer.v1.tar",
        )
        .replace(".tar.gzip", ".tar+gzip")
        .replace(".tar.zstd", ".tar+zstd")
}
