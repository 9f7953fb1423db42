//! `import`: an image of one layer from a flat root filesystem archive, with `--change` instructions.

use std::collections::BTreeMap;
use std::io::Read;

use crate::{
    Error, HistoryEntry, ImageConfig, ImageId, ImportOptions, NewImage, Reference, Result, Stack, changes,
    decompress::Decoder, oci::Platform, spool::Spool, store::ImageStore, tar_stream::read_failed,
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
    let platform = match options.platform.as_deref().filter(|t| !t.is_empty()) {
        Some(text) => Platform::parse(text)?,
        None => Platform::host(),
    };
    if platform.os != Platform::host().os {
        return Err(Error::InvalidArgument(format!(
            "platform {platform}: this node runs {} images only",
            Platform::host().os
        )));
    }
    let mut config = ImageConfig {
        architecture: platform.architecture,
        os: platform.os,
        variant: platform.variant,
        ..ImageConfig::default()
    };
    changes::apply(&mut config.config, &options.changes)?;

    let mut spool = Spool::new(&store.staging())?;
    let mut decoder = Decoder::bounded(stream, store.limits.ratio()).map_err(read_failed)?;
    let layer = spool.store(&mut decoder, store.limits.layer_bytes.saturating_mul(2))?;
    if layer.size == 0 {
        return Err(Error::NotAnArchive("it is empty".into()));
    }
    let stack = store.add_layer(&layer, &Stack::empty())?;

    let message = if options.message.is_empty() {
        "Imported from -"
    } else {
        &options.message
    };
    let now = Some(jiff::Timestamp::now().to_string());
    config.created.clone_from(&now);
    config.comment = Some(message.into());
    config.history = vec![HistoryEntry {
        created: now,
        comment: Some(message.into()),
        ..HistoryEntry::default()
    }];
    store.compose(NewImage {
        config,
        stack,
        references: reference.into_iter().collect(),
        annotations: BTreeMap::new(),
        is_passing: false,
    })
}
