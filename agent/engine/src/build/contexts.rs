//! Files that the client sends: each context becomes a folder of the build, made when it is first needed. Archives are not trusted:
//! extraction is confined, and devices are left out.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use pontoon_image::Limits;
use pontoon_image::archive::{ExtractOptions, Extractor, Kind, Place, TarReader, plain};
use tokio::sync::mpsc;

use crate::engine::{blocking, make_dir};
use crate::error::IoContext;
use crate::{Error, Result};
use pontoon_image::archive::ChunkReader;

/// Chunks that wait to be written.
const CHUNKS: usize = 8;

/// Streams of contexts by their name.
#[derive(Default)]
pub(super) struct Incoming {
    streams: Mutex<HashMap<String, mpsc::Sender<io::Result<Bytes>>>>,
}

impl Incoming {
    /// Begins to take a context's chunks.
    pub(super) fn expect(&self, name: &str) -> mpsc::Receiver<io::Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        self.lock().insert(name.to_owned(), sender);
        receiver
    }

    /// Passes a chunk on; one that nobody asked for is dropped.
    pub(super) async fn data(&self, name: &str, data: Bytes, end: bool) {
        let sender = self.lock().get(name).cloned();
        if let Some(sender) = sender
            && !data.is_empty()
        {
            sender.send(Ok(data)).await.ok();
        }
        if end {
            self.lock().remove(name);
        }
    }

    /// The client has gone: what is not whole never will be.
    pub(super) async fn broken(&self) {
        let streams: Vec<_> = self.lock().drain().map(|(_, sender)| sender).collect();
        for sender in streams {
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the client has gone");
            sender.send(Err(error)).await.ok();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, mpsc::Sender<io::Result<Bytes>>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Extracts a context into a new folder; gives the bytes that came.
pub(super) async fn extract(chunks: mpsc::Receiver<io::Result<Bytes>>, dir: PathBuf) -> Result<u64> {
    blocking(move || {
        make_dir(&dir)?;
        extract_from(ChunkReader::new(chunks), &dir)
    })
    .await
}

/// Extracts an archive, compressed or not, into a folder that is there. Everything belongs to root.
pub(super) fn extract_from(archive: impl io::Read, dir: &std::path::Path) -> Result<u64> {
    extract_as(archive, dir, Some((0, 0)))
}

/// As [`extract_from`]; without an owner everything keeps its own.
pub(super) fn extract_as(
    archive: impl io::Read,
    dir: &std::path::Path,
    owner: Option<(u32, u32)>,
) -> Result<u64> {
    let root = std::fs::File::open(dir).context(|| format!("open {}", dir.display()))?;
    let options = ExtractOptions {
        chown: true,
        owner,
        ..ExtractOptions::default()
    };
    let mut extractor = Extractor::new(Place::beneath(root.into()), options);
    let archive = plain(archive).context(|| "read the archive")?;
    let limits = Limits::default();
    let mut reader = TarReader::new(archive, &limits);
    let mut bytes = 0;
    while let Some(entry) = reader.next_entry().map_err(Error::Image)? {
        bytes += entry.size;
        if matches!(entry.kind, Kind::Char | Kind::Block) {
            continue;
        }
        extractor.entry(&entry, &mut reader).map_err(Error::Image)?;
    }
    extractor.finish().map_err(Error::Image)?;
    Ok(bytes)
}
