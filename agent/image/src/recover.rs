//! At open: layers whose unpacked files are lost (a disk that lost them, a folder that was deleted by hand) are unpacked again from
//! their blobs, so that an image is given up only when its content is really gone. Called by the store before images hold their
//! layers.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    Digest, Limits, Result,
    blobs::Blobs,
    catalog::{Catalog, Record},
    layers::{Layers, Pin},
    stack::{chains, unpack_file},
};

/// A layer: digest of its plain archive, and its blob.
type Layer = (Digest, Digest);

/// Unpacks what is lost and can be had from a blob; the layers are held by what this gives. What can't is left to those who find
/// it missing.
pub(crate) fn lost_layers(
    catalog: &Catalog,
    layers: &Arc<Layers>,
    blobs: &Blobs,
    limits: &Limits,
) -> Vec<Pin> {
    let image = |record: &Record| -> Vec<Layer> {
        let diff_ids = record.config.rootfs.diff_ids.iter().copied();
        diff_ids.zip(record.blobs.iter().copied()).collect()
    };
    let images = catalog.images.values().map(|record| (image(record), true));
    let kept = catalog.kept.values().map(|stack| {
        let layers = stack.iter().map(|l| (l.diff_id, l.blob.digest)).collect();
        (layers, false)
    });
    let (mut seen, mut held) = (BTreeSet::new(), Vec::new());
    for (stack, is_image) in images.chain(kept) {
        let chains = chains(stack.iter().map(|(diff_id, _)| diff_id));
        let lost = chains.iter().find(|chain| !layers.has(chain));
        let Some(lost) = lost.filter(|_| seen.insert(chains.last().copied())) else {
            continue;
        };
        let unpacked = unpack_stack(&stack, layers, blobs, limits).and_then(|pins| {
            if is_image {
                layers.make_init(chains.last())?;
            }
            Ok(pins)
        });
        match unpacked {
            Ok(pins) => {
                tracing::warn!(layer = %lost, "an unpacked layer was lost: made again from its blob");
                held.extend(pins);
            }
            Err(e) => tracing::error!(
                layer = %lost,
                error = &e as &dyn std::error::Error,
                "an unpacked layer is lost and can't be made again"
            ),
        }
    }
    held
}

/// Unpacks a stack, bottom first, as far as it is not there.
fn unpack_stack(stack: &[Layer], layers: &Arc<Layers>, blobs: &Blobs, limits: &Limits) -> Result<Vec<Pin>> {
    let mut pins: Vec<Pin> = Vec::new();
    for (diff_id, blob) in stack {
        let below = pins.last().map(|pin| pin.chain);
        let chain = Digest::chain(below.as_ref(), diff_id);
        let (pin, _) = layers.acquire(chain, below, *diff_id, |under| {
            let place = (below.as_ref(), diff_id);
            unpack_file(layers, limits, &blobs.path(blob), place, under)
        })?;
        pins.push(pin);
    }
    Ok(pins)
}
