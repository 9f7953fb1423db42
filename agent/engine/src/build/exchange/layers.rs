//! Results of steps as the layers of one image, and back.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use pontoon_image::{CachedStep, Digest, ImageStore, Stack};

use crate::build::cache::Made;
use crate::{Error, Result};

/// Steps that one image may name.
const STEPS: usize = 4096;

/// A stack with the layers of results: those of the built image, and if `is_whole` those of the others on top, in whatever order. It
/// is no file system that makes sense, but each layer is there once.
pub(super) fn gather(
    images: &ImageStore,
    built: &Stack,
    results: &BTreeMap<String, (Stack, Made)>,
    is_whole: bool,
) -> Result<(Stack, Vec<CachedStep>)> {
    let mut whole = built.clone();
    let mut places: HashMap<Digest, usize> = HashMap::new();
    for (place, layer) in built.layers().enumerate() {
        places.entry(layer.diff_id).or_insert(place);
    }
    let mut steps = Vec::new();
    for (key, (stack, made)) in results {
        let count = stack.layers().len();
        let layers = if built.lowest(count).chain() == stack.chain() {
            (0..count).collect()
        } else if is_whole {
            let mut layers = Vec::new();
            for layer in stack.layers() {
                let place = match places.entry(layer.diff_id) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(vacant) => {
                        let (blob, _) = images.open_blob(&layer.blob.digest).map_err(Error::Image)?;
                        whole = images.layer_of_archive(blob, &whole).map_err(Error::Image)?;
                        *vacant.insert(whole.layers().len() - 1)
                    }
                };
                layers.push(place);
            }
            layers
        } else {
            continue;
        };
        steps.push(CachedStep {
            key: key.clone(),
            description: made.description.clone(),
            created_at: made.created_at,
            layers,
            below: made.below,
        });
    }
    Ok((whole, steps))
}

/// Keeps the results that an image holds.
pub(super) fn take(engine: &crate::Engine, image: &str) -> Result<()> {
    let images = &engine.images;
    let found = images.get(image).map_err(|error| Error::image(image, error))?;
    if found.config.cache.is_empty() {
        return Err(Error::Invalid(format!(
            "{image} holds no build cache of this builder"
        )));
    }
    let all = images.stack(&found.id).map_err(Error::Image)?;
    let blobs: Vec<Digest> = all.layers().map(|layer| layer.blob.digest).collect();
    for step in found.config.cache.iter().take(STEPS) {
        // The key becomes a file's name.
        let is_key = Digest::from_hex(&step.key).is_some();
        if !is_key || step.layers.iter().any(|place| *place >= blobs.len()) {
            return Err(Error::Invalid(format!("the build cache of {image} is damaged")));
        }
        if engine.build_cache.has(&step.key) {
            continue;
        }
        let stack = if step.layers.iter().copied().eq(0..step.layers.len()) {
            all.lowest(step.layers.len())
        } else {
            let mut stack = Stack::empty();
            for place in &step.layers {
                let (blob, _) = images.open_blob(&blobs[*place]).map_err(Error::Image)?;
                stack = images.layer_of_archive(blob, &stack).map_err(Error::Image)?;
            }
            stack
        };
        let made = Made {
            description: step.description.clone(),
            created_at: step.created_at,
            below: step.below,
        };
        engine.build_cache.keep(images, &step.key, &stack, &made)?;
    }
    Ok(())
}
