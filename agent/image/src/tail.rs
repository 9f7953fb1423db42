//! [`Tail`]: a blob of an image that is here or still on its way, for a peer that takes it while it arrives. An [`Ingest`](crate::Ingest)
//! offers its image ([`Ingest::offer`](crate::Ingest::offer)) as soon as its manifest is known: from then on until it has ended, what has arrived
//! of the image's blobs can be read, and what has not can be waited for. Called by the agent, which gives blobs to other nodes.
//!
//! What is read of a blob that is on its way has not been checked yet: the reader does that.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::{Digest, Result, error::At, store::ImageStore, transfer::Progress};

/// Rings whenever something about transfers has changed.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<u64>,
    ringing: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        *self.rung() += 1;
        self.ringing.notify_all();
    }

    fn rung(&self) -> MutexGuard<'_, u64> {
        self.rung.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for the next ringing after the one that was seen.
    fn wait(&self, seen: u64, patience: Duration) {
        let quiet = |rung: &mut u64| *rung == seen;
        drop(self.ringing.wait_timeout_while(self.rung(), patience, quiet));
    }
}

/// An image on its way.
pub(crate) struct Offer {
    /// The manifest or index that nodes know it by.
    pub(crate) pinned: Digest,
    /// Index, manifest, configuration.
    pub(crate) documents: BTreeMap<Digest, Vec<u8>>,
    pub(crate) layers: BTreeSet<Digest>,
}

/// All images on their way.
#[derive(Default)]
pub(crate) struct Offers {
    table: Mutex<Vec<Arc<Offer>>>,
}

impl Offers {
    fn table(&self) -> MutexGuard<'_, Vec<Arc<Offer>>> {
        self.table.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Those that are pinned to this digest.
    fn of(&self, pinned: &Digest) -> Vec<Arc<Offer>> {
        let table = self.table();
        let those = table.iter().filter(|offer| offer.pinned == *pinned);
        those.cloned().collect()
    }
}

/// Ends an offer when dropped.
pub(crate) struct Offered {
    store: Arc<ImageStore>,
    offer: Arc<Offer>,
}

impl Offered {
    pub(crate) fn new(store: &Arc<ImageStore>, offer: Offer) -> Self {
        let offer = Arc::new(offer);
        store.offers.table().push(offer.clone());
        store.transfers.bell.ring();
        Offered {
            store: store.clone(),
            offer,
        }
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        let mut table = self.store.offers.table();
        table.retain(|offer| !Arc::ptr_eq(offer, &self.offer));
        drop(table);
        self.store.transfers.bell.ring();
    }
}

/// What [`Tail::read`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    /// So many bytes are in the buffer.
    Bytes(usize),
    /// Nothing more has come in this time; it is on its way.
    Waiting,
    /// That was all of it.
    End,
    /// In this time the image was neither here nor on its way.
    Absent,
    /// The image is known, and this blob is none of its parts here.
    Foreign,
}

/// Reads a blob of an image from a byte on, and waits for what has not arrived. Blocking.
pub struct Tail {
    store: Arc<ImageStore>,
    pinned: Digest,
    blob: Digest,
    read: u64,
    source: Source,
}

enum Source {
    /// To be looked for, for the first time or because a transfer broke off.
    Sought,
    Document(Vec<u8>),
    File(File, u64),
    Growing(File, Arc<Progress>),
}

enum Found {
    Source(Source),
    Not(More),
}

impl ImageStore {
    /// A blob of the image that is pinned to a manifest or an index, from a byte on. Whether it is to be had shows when it is read.
    pub fn tail(self: &Arc<Self>, pinned: &Digest, blob: &Digest, offset: u64) -> Tail {
        Tail {
            store: self.clone(),
            pinned: *pinned,
            blob: *blob,
            read: offset,
            source: Source::Sought,
        }
    }
}

impl Tail {
    /// Reads what comes next; waits for it at most so long.
    ///
    /// # Errors
    /// The disk's.
    pub fn read(&mut self, buffer: &mut [u8], patience: Duration) -> Result<More> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Seen before looking: what happens in between is not slept through.
            let rung = *self.store.transfers.bell.rung();
            let available = match &self.source {
                Source::Sought => match self.find()? {
                    Found::Source(source) => {
                        self.source = source;
                        continue;
                    }
                    Found::Not(more) if left.is_zero() => return Ok(more),
                    Found::Not(_) => {
                        self.store.transfers.bell.wait(rung, left);
                        continue;
                    }
                },
                Source::Document(text) => text.len() as u64,
                Source::File(_, size) => *size,
                Source::Growing(_, progress) => {
                    let Some(written) = progress.wait_for(self.read, left) else {
                        return Ok(More::Waiting);
                    };
                    if written.broken {
                        self.source = Source::Sought;
                        continue;
                    }
                    written.bytes
                }
            };
            let room = (buffer.len() as u64).min(available.saturating_sub(self.read));
            let count = usize::try_from(room).unwrap_or(buffer.len());
            let count = self
                .fill(&mut buffer[..count])
                .at("cannot read", self.blob.to_string())?;
            self.read += count as u64;
            return Ok(if count == 0 { More::End } else { More::Bytes(count) });
        }
    }

    fn fill(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.source {
            Source::Sought => Ok(0),
            Source::Document(text) => {
                let from = usize::try_from(self.read).unwrap_or(text.len()).min(text.len());
                let count = buffer.len().min(text.len() - from);
                buffer[..count].copy_from_slice(&text[from..from + count]);
                Ok(count)
            }
            Source::File(file, _) | Source::Growing(file, _) => {
                let mut filled = 0;
                while filled < buffer.len() {
                    match file.read_at(&mut buffer[filled..], self.read + filled as u64) {
                        Ok(0) => break,
                        Ok(count) => filled += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(filled)
            }
        }
    }

    fn find(&self) -> Result<Found> {
        // The offers first: one that has just become an image is found as that.
        let offers = self.store.offers.of(&self.pinned);
        for offer in &offers {
            if let Some(text) = offer.documents.get(&self.blob) {
                return Ok(Found::Source(Source::Document(text.clone())));
            }
            if !offer.layers.contains(&self.blob) {
                continue;
            }
            if let Some((file, progress)) = self.store.transfers.follow(&self.blob)? {
                return Ok(Found::Source(Source::Growing(file, progress)));
            }
            if self.store.blob_size(&self.blob).is_some() {
                let (file, size) = self.store.open_blob(&self.blob)?;
                return Ok(Found::Source(Source::File(file, size)));
            }
            return Ok(Found::Not(More::Waiting));
        }
        let parts = self.store.parts(&self.pinned);
        if parts.contains(&self.blob) {
            let (file, size) = self.store.open_blob(&self.blob)?;
            return Ok(Found::Source(Source::File(file, size)));
        }
        let known = !(offers.is_empty() && parts.is_empty());
        Ok(Found::Not(if known { More::Foreign } else { More::Absent }))
    }
}
