//! `commit`: a container's changes as one more layer on its image, with its settings as the image's defaults.

use std::collections::BTreeMap;

use crate::{
    CommitOptions, Error, HistoryEntry, Image, ImageConfig, ImageId, LayerOptions, NewImage, Reference,
    Result, changes, store::ImageStore,
};

pub(crate) fn commit(store: &ImageStore, container: &str, options: &CommitOptions) -> Result<ImageId> {
    // All that can be wrong with the arguments is, before anything is read.
    let reference = options.reference.as_deref().map(Reference::parse).transpose()?;
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
    let below = store.stack(&parent.id)?;
    let layer = LayerOptions {
        ids: options.ids.clone(),
        ..LayerOptions::default()
    };
    let stack = store.layer_of_snapshot(container, &below, &layer)?;
    let is_empty = stack.chain() == below.chain();
    store.compose(NewImage {
        config: config_of(&parent, options, defaults, is_empty),
        stack,
        references: reference.into_iter().collect(),
        annotations: BTreeMap::new(),
        is_passing: false,
    })
}

fn config_of(
    parent: &Image,
    options: &CommitOptions,
    defaults: crate::ContainerConfig,
    empty_layer: bool,
) -> ImageConfig {
    let text = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
    let now = Some(jiff::Timestamp::now().to_string());
    let mut config = parent.config.clone();
    config.created.clone_from(&now);
    config.author = text(&options.author);
    config.comment = text(&options.message);
    config.config = defaults;
    complete_history(&mut config);
    config.history.push(HistoryEntry {
        created: now,
        created_by: text(&options.created_by),
        author: text(&options.author),
        comment: text(&options.message),
        empty_layer,
    });
    config
}

/// Images without a history, or with one that is too short, get an entry for each layer, so that a new one counts right.
fn complete_history(config: &mut ImageConfig) {
    let steps = config.history.iter().filter(|step| !step.empty_layer).count();
    let missing = config.rootfs.diff_ids.len().saturating_sub(steps);
    config
        .history
        .extend(std::iter::repeat_n(HistoryEntry::default(), missing));
}
