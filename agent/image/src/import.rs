//! `import`: an image of one layer from a flat root filesystem archive, with `--change` instructions.

use std::io::{BufReader, Read};

use crate::{
    Digest, Error, HistoryEntry, ImageConfig, ImageId, ImportOptions, Reference, Result, RootFs,
    catalog::Record,
    changes,
    decompress::{Compression, Decoder},
    error::At,
    oci::{Manifest, Platform},
    spool::Spool,
    store::{Candidate, ImageStore},
    tar_stream::read_failed,
    unpack,
};

pub(crate) fn import(store: &ImageStore, stream: impl Read, options: &ImportOptions) -> Result<ImageId> {
    // All that can be wrong with the arguments is, before the stream is read.
    let reference = options
        .reference
        .as_deref()
        .map(Reference::parse)
        .transpose()?
        .map(Reference::with_default_tag);
    if reference.as_ref().is_some_and(|r| r.digest().is_some()) {
        return Err(Error::InvalidArgument("cannot import digest reference".into()));
    }
    let platform = platform(options.platform.as_deref())?;
    let mut config = ImageConfig {
        architecture: platform.architecture,
        os: platform.os,
        variant: platform.variant,
        ..ImageConfig::default()
    };
    changes::apply(&mut config.config, &options.changes)?;

    let mut spool = Spool::new(&store.staging())?;
    let mut decoder = Decoder::new(stream).map_err(read_failed)?;
    let layer = spool.store(&mut decoder, store.limits.layer_bytes.saturating_mul(2))?;
    if layer.size == 0 {
        return Err(Error::NotAnArchive("it is empty".into()));
    }
    let diff_id = layer.digest;
    let (pin, _) = store.layers.acquire(diff_id, None, diff_id, |dest, below| {
        let file = std::fs::File::open(&layer.path).at("cannot read", &layer.path)?;
        unpack::unpack(
            BufReader::with_capacity(128 << 10, file),
            dest,
            below,
            &store.limits,
        )
    })?;

    let message = if options.message.is_empty() {
        "Imported from -"
    } else {
        &options.message
    };
    let now = Some(jiff::Timestamp::now().to_string());
    config.created.clone_from(&now);
    config.comment = Some(message.into());
    config.rootfs = RootFs {
        diff_ids: vec![diff_id],
        ..RootFs::default()
    };
    config.history = vec![HistoryEntry {
        created: now,
        comment: Some(message.into()),
        ..HistoryEntry::default()
    }];
    let json = |source| Error::Json {
        what: "image".into(),
        source,
    };
    let text = serde_json::to_vec(&config).map_err(json)?;
    let config_file = spool.store(&mut &text[..], u64::MAX)?;
    let manifest = Manifest::new(
        (config_file.digest, config_file.size),
        &[(layer.digest, layer.size, Compression::Plain)],
    );
    let text = serde_json::to_vec(&manifest).map_err(json)?;
    let manifest = spool.store(&mut &text[..], u64::MAX)?;
    let id = config_file.digest;
    store.commit(vec![Candidate {
        id,
        record: Record {
            manifest: manifest.digest,
            layers: vec![Digest::chain(None, &diff_id)],
            config: config.into(),
            blobs: vec![layer.digest],
            size: pin.size,
        },
        files: vec![config_file, manifest, layer],
        references: reference.into_iter().collect(),
        parent: None,
        pins: vec![pin],
    }])?;
    Ok(id)
}

/// `os[/arch[/variant]]`, in Go's names.
fn platform(text: Option<&str>) -> Result<Platform> {
    let host = Platform::host();
    let Some(text) = text.filter(|t| !t.is_empty()) else {
        return Ok(host);
    };
    let parts: Vec<&str> = text.split('/').collect();
    let plain = |p: &str| {
        !p.is_empty()
            && p.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
    };
    let (os, architecture, variant) = match parts[..] {
        [os] => (os, host.architecture.as_str(), None),
        [os, arch] => (os, arch, None),
        [os, arch, variant] => (os, arch, Some(variant.to_owned())),
        _ => ("", "", None),
    };
    if !parts.iter().all(|p| plain(p)) || os != host.os {
        return Err(Error::InvalidArgument(format!(
            "platform {text:?}, expected linux/<arch>[/<variant>]"
        )));
    }
    let architecture = match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Ok(Platform {
        os: os.into(),
        architecture: architecture.into(),
        variant,
    })
}
