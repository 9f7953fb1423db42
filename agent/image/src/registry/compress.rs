//! Layers that were made here are plain archives; on their way to a registry they are compressed, once and always to the same bytes:
//! gzip without name and time. What a layer became is remembered in `registry.json` beside the image store, so that a later push
//! finds it in the registry without compressing again. Losing that file loses nothing but time.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    Digest, ImageStore, Result,
    digest::HashReader,
    error::At,
    spool::{Spool, Spooled},
};

/// gzip's usual level: what Docker's layers have.
const LEVEL: u32 = 6;
/// Layers that are remembered; beyond that those that no image has any more are forgotten.
const MANY: usize = 1000;

/// One writer of the file at a time.
static WRITING: Mutex<()> = Mutex::new(());

#[derive(Debug, Default, Serialize, Deserialize)]
struct Memory {
    version: u32,
    /// By diff id.
    compressed: BTreeMap<Digest, Compressed>,
}

/// What a layer became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Compressed {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

fn path(store: &ImageStore) -> PathBuf {
    store.root().join("registry.json")
}

fn read(store: &ImageStore) -> Memory {
    let text = fs::read(path(store)).unwrap_or_default();
    // A damaged file is as good as none.
    serde_json::from_slice(&text).unwrap_or_default()
}

/// What a layer became when it was pushed before.
pub(super) fn remembered(store: &ImageStore, diff_id: &Digest) -> Option<Compressed> {
    read(store).compressed.get(diff_id).copied()
}

/// Remembers what a layer became.
pub(super) fn remember(store: &ImageStore, diff_id: Digest, compressed: Compressed) -> Result<()> {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut memory = read(store);
    if memory.compressed.insert(diff_id, compressed) == Some(compressed) {
        return Ok(());
    }
    memory.version = 1;
    if memory.compressed.len() > MANY {
        let catalog = store.view();
        let images = catalog.images.values();
        let used: Vec<Digest> = images.flat_map(|r| r.config.rootfs.diff_ids.clone()).collect();
        memory.compressed.retain(|diff_id, _| used.contains(diff_id));
    }
    let path = path(store);
    let text = serde_json::to_vec(&memory).map_err(|source| crate::Error::Json {
        what: "registry.json".into(),
        source,
    })?;
    let mut file = tempfile::NamedTempFile::new_in(store.staging()).at("cannot write", &path)?;
    file.write_all(&text).at("cannot write", &path)?;
    file.persist(&path)
        .map_err(|e| e.error)
        .at("cannot put in place", &path)?;
    Ok(())
}

/// Compresses a plain layer into staging; the file goes with the spool.
pub(super) fn compress(store: &ImageStore, blob: File, diff_id: &Digest) -> Result<(Spool, Spooled)> {
    let mut spool = Spool::new(&store.staging())?;
    let mut layer = HashReader::new(blob);
    let compressed =
        spool.write(|out| gzip(&mut layer, out).at("cannot compress a layer below", store.staging()))?;
    if layer.finish().0 != *diff_id {
        return Err(crate::Error::corrupt(*diff_id, "it was changed on disk"));
    }
    Ok((spool, compressed))
}

fn gzip(from: &mut impl Read, to: &mut dyn Write) -> io::Result<()> {
    let mut out = flate2::GzBuilder::new()
        .mtime(0)
        .write(to, flate2::Compression::new(LEVEL));
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => out.write_all(&buffer[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    out.finish().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_layers_become_equal_bytes() {
        let data: Vec<u8> = (0..100_000u32).flat_map(|n| (n % 251).to_le_bytes()).collect();
        let pack = || {
            let mut out = Vec::new();
            gzip(&mut &data[..], &mut out).unwrap();
            out
        };
        assert_eq!(pack(), pack());
        // No time, no name (RFC 1952, section 2.3).
        assert_eq!(pack()[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_a_layer_became_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        let diff_id = Digest::of(b"x");
        assert_eq!(remembered(&store, &diff_id), None);
        let compressed = Compressed {
            digest: Digest::of(b"y"),
            size: 7,
        };
        remember(&store, diff_id, compressed).unwrap();
        assert_eq!(remembered(&store, &diff_id), Some(compressed));
        fs::write(path(&store), "{damaged").unwrap();
        assert_eq!(remembered(&store, &diff_id), None);
        remember(&store, diff_id, compressed).unwrap();
        assert_eq!(remembered(&store, &diff_id), Some(compressed));
    }
}
