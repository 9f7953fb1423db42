//! An image's layers out of an archive: unpacked several at a time where the storage driver can, put in place bottom first. Called by
//! `load`.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    Digest, LoadEvent, Result,
    decompress::Compression,
    layers::{Pin, Staged},
    oci::{self, Descriptor},
    spool::Spooled,
    stack::{chains, layer_reader},
    store::ImageStore,
    unpack::{self, Apply, Form},
};

/// A layer that is unpacked but for what depends on those below it.
struct Begun {
    staged: Staged,
    apply: Apply,
    compression: Compression,
}

/// Unpacks an image's layers (bottom first) as far as they are not here. Gives their holds and their blobs' descriptors.
pub(super) fn install(
    store: &ImageStore,
    diff_ids: &[Digest],
    blobs: &[Spooled],
    progress: &mut dyn FnMut(LoadEvent),
) -> Result<(Vec<Pin>, Vec<Descriptor>)> {
    let chains = chains(diff_ids.iter());
    for ((chain, diff_id), blob) in chains.iter().zip(diff_ids).zip(blobs) {
        if !store.layers.has(chain) {
            progress(LoadEvent::Unpacking {
                diff_id: *diff_id,
                bytes: blob.size,
            });
        }
    }
    let begun = match store.layers.driver().form() {
        Form::Overlay => begin_all(store, &chains, diff_ids, blobs),
        // Each begins as a copy of the one below it.
        Form::Tree => Vec::new(),
    };
    let mut begun = begun.into_iter();
    let (mut pins, mut descriptors): (Vec<Pin>, _) = (Vec::new(), Vec::new());
    for (diff_id, blob) in diff_ids.iter().zip(blobs) {
        let below = pins.last().map(|pin| pin.chain);
        let begun = begun.next().flatten().transpose()?;
        let (pin, compression) = put_in_place(store, (below, diff_id), blob, begun, progress)?;
        pins.push(pin);
        descriptors.push(Descriptor::new(
            oci::layer_type(compression),
            blob.digest,
            blob.size,
        ));
    }
    Ok((pins, descriptors))
}

/// One outcome for each layer; none for those that are here. After an error the rest is not begun.
fn begin_all(
    store: &ImageStore,
    chains: &[Digest],
    diff_ids: &[Digest],
    blobs: &[Spooled],
) -> Vec<Option<Result<Begun>>> {
    let missing: Vec<usize> = (0..chains.len().min(blobs.len()))
        .filter(|i| !store.layers.has(&chains[*i]))
        .collect();
    let outcomes: Vec<Mutex<Option<Result<Begun>>>> = chains.iter().map(|_| Mutex::default()).collect();
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        while !failed.load(Ordering::Relaxed)
            && let Some(i) = missing.get(next.fetch_add(1, Ordering::Relaxed)).copied()
        {
            let outcome = begin(store, &diff_ids[i], &blobs[i]);
            failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
            *outcomes[i].lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        // This thread works as well; where no other can be had, alone.
        for _ in 1..threads.min(missing.len()) {
            if thread::Builder::new()
                .name("unpack".into())
                .spawn_scoped(scope, work)
                .is_err()
            {
                break;
            }
        }
        work();
    });
    let outcome = |slot: Mutex<_>| slot.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.into_iter().map(outcome).collect()
}

fn begin(store: &ImageStore, diff_id: &Digest, blob: &Spooled) -> Result<Begun> {
    let staged = store.layers.stage(None)?;
    let reader = layer_reader(&blob.path, &store.limits)?;
    let compression = reader.compression();
    let (apply, reader) = unpack::begin(reader, &staged.diff(), Form::Overlay, &store.limits)?;
    unpack::check(reader, diff_id)?;
    Ok(Begun {
        staged,
        apply,
        compression,
    })
}

fn put_in_place(
    store: &ImageStore,
    (below, diff_id): (Option<Digest>, &Digest),
    blob: &Spooled,
    begun: Option<Begun>,
    progress: &mut dyn FnMut(LoadEvent),
) -> Result<(Pin, Compression)> {
    let chain = Digest::chain(below.as_ref(), diff_id);
    let mut compression = begun.as_ref().map(|begun| begun.compression);
    let (pin, shared) = store.layers.acquire(chain, below, *diff_id, |under| {
        if let Some(begun) = begun {
            return Ok((begun.staged, begun.apply.finish(under)?));
        }
        let staged = store.layers.stage(below.as_ref())?;
        let reader = layer_reader(&blob.path, &store.limits)?;
        compression = Some(reader.compression());
        let form = store.layers.driver().form();
        let (size, reader) = unpack::unpack(reader, &staged.diff(), form, under, &store.limits)?;
        unpack::check(reader, diff_id)?;
        Ok((staged, size))
    })?;
    let compression = match compression {
        Some(kind) => kind,
        // The layer was there; that this blob is really that layer must still hold before it is kept under its name.
        None => {
            let reader = layer_reader(&blob.path, &store.limits)?;
            let kind = reader.compression();
            if blob.digest != *diff_id {
                unpack::check(reader, diff_id)?;
            }
            kind
        }
    };
    progress(LoadEvent::Unpacked {
        diff_id: *diff_id,
        shared,
    });
    Ok((pin, compression))
}
