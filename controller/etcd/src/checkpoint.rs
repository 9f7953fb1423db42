//! Checkpoints: the whole state in chunks, so that old entries can go. Written by the leader, read by managers that are far
//! behind.
//!
//! A checkpoint counts from the moment when the `state` key names it: its chunks are complete then. Half-written ones are
//! deleted with the next. Half an interval of entries stays, so that a manager that was away for a while need not read it all.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, Txn, TxnOp};
use pontoon_raft::SnapshotWriter;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::client::describe;
use crate::follow::Broken;
use crate::keys::{Checkpoint, Keys, corrupt};
use crate::log::Shared;
use crate::seal::{self, Seal};

/// Size of a chunk; with the rest of its transaction it must stay below etcd's 1.5 MiB.
const CHUNK: usize = 1 << 20;
/// Chunks read at a time.
const PAGE: i64 = 16;
/// zstd's fastest usual level.
const LEVEL: i32 = 1;
/// Pause after a checkpoint that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Writes checkpoints while this manager leads in `term`; ended from outside.
pub(crate) async fn run(shared: Arc<Shared>, term: i64) {
    let every = shared.config.snapshot_every.max(1);
    let mut last = match newest(&shared).await {
        Ok(index) => index,
        Err(error) => {
            debug!(
                error = describe(&error),
                "the newest checkpoint is not known; the next is written in time"
            );
            shared.applier.applied()
        }
    };
    // etcd's history up to the checkpoint before the newest is what nobody needs any more.
    let mut revision = None;
    let mut progress = shared.applier.progress();
    loop {
        if progress
            .wait_for(|applied| *applied >= last + every)
            .await
            .is_err()
        {
            return;
        }
        match write(&shared, term).await {
            Ok(Written { index, chunks, at }) => {
                info!(index, chunks, "checkpoint written");
                last = index;
                if let Some(before) = revision.replace(at).filter(|_| shared.config.compact)
                    && let Err(error) = shared.etcd.kv().compact(before, None).await
                {
                    debug!(error = describe(&error), "etcd did not compact its history");
                }
            }
            Err(reason) => {
                warn!(reason, "no checkpoint was written");
                sleep(RETRY).await;
            }
        }
    }
}

/// Index of the newest checkpoint, 0 if there is none.
async fn newest(shared: &Shared) -> Result<u64, etcd_client::Error> {
    let key = shared.keys.state();
    let found = shared.etcd.kv().get(key.clone(), None).await?;
    let newest = found
        .kvs()
        .first()
        .and_then(|kv| Checkpoint::decode(&key, kv.value()).ok());
    Ok(newest.map_or(0, |newest| newest.index))
}

struct Written {
    index: u64,
    chunks: u64,
    /// The revision that made it count.
    at: i64,
}

/// Writes the state as it is now, makes it count, and deletes what it replaces.
async fn write(shared: &Shared, term: i64) -> Result<Written, String> {
    let (index, state) = shared.applier.pin();
    let mut encoded = Encoded::start(state);
    let mut count = 0;
    while let Some(put) = encoded
        .next(&shared.keys, index, count, shared.seal.as_ref())
        .await
    {
        guarded(shared, term, vec![put]).await?;
        count += 1;
    }
    encoded.finish().await?;
    let done = Checkpoint {
        index,
        chunks: count,
        is_sealed: shared.seal.is_some(),
    };
    let state = TxnOp::put(shared.keys.state(), done.encode(), None);
    let at = guarded(shared, term, vec![state]).await?;
    let keep = shared.config.snapshot_every / 2;
    let delete = |from: String, end: String| TxnOp::delete(from, Some(DeleteOptions::new().with_range(end)));
    let entries = delete(
        shared.keys.entry(0),
        shared.keys.entry((index + 1).saturating_sub(keep)),
    );
    let older = delete(shared.keys.states(), shared.keys.chunks(index));
    guarded(shared, term, vec![entries, older]).await?;
    Ok(Written {
        index,
        chunks: count,
        at,
    })
}

/// A state on its way to etcd, encoded on a thread of its own.
pub(crate) struct Encoded {
    ready: mpsc::Receiver<Vec<u8>>,
    work: tokio::task::JoinHandle<io::Result<()>>,
}

impl Encoded {
    pub(crate) fn start(state: Box<dyn SnapshotWriter + Send>) -> Self {
        let (chunks, ready) = mpsc::channel::<Vec<u8>>(4);
        let work = tokio::task::spawn_blocking(move || {
            let mut encoder = zstd::Encoder::new(Chunker::new(chunks), LEVEL)?;
            {
                let mut buffered = io::BufWriter::new(&mut encoder);
                state.write(&mut buffered)?;
                buffered.flush()?;
            }
            encoder.finish()?.finish()
        });
        Self { ready, work }
    }

    /// What puts chunk `n` into the checkpoint at `index`; `None` behind the last one.
    pub(crate) async fn next(
        &mut self,
        keys: &Keys,
        index: u64,
        n: u64,
        seal: Option<&Seal>,
    ) -> Option<TxnOp> {
        let chunk = self.ready.recv().await?;
        let key = keys.chunk(index, n);
        let chunk = match seal {
            Some(seal) => seal.seal(&key, &chunk),
            None => chunk,
        };
        Some(TxnOp::put(key, chunk, None))
    }

    /// Whether all of it was encoded.
    pub(crate) async fn finish(self) -> Result<(), String> {
        let done = self.work.await.map_err(|error| error.to_string())?;
        done.map_err(|error| error.to_string())
    }
}

/// Does something as long as this manager leads; the revision of it.
pub(crate) async fn guarded(shared: &Shared, term: i64, operations: Vec<TxnOp>) -> Result<i64, String> {
    let fence = Compare::create_revision(shared.keys.leader(), CompareOp::Equal, term);
    let txn = Txn::new().when([fence]).and_then(operations);
    let answer = shared
        .etcd
        .kv()
        .txn(txn)
        .await
        .map_err(|error| describe(&error))?;
    if !answer.succeeded() {
        return Err("this manager no longer leads".to_owned());
    }
    Ok(answer.header().map_or(0, etcd_client::ResponseHeader::revision))
}

/// Replaces the state by a checkpoint.
pub(crate) async fn restore(shared: &Arc<Shared>, from: Checkpoint) -> Result<(), Broken> {
    // Two pages wait at most: memory stays flat.
    let (feed, source) = blocking::sync_channel::<Vec<u8>>(32);
    let restoring = {
        let shared = shared.clone();
        tokio::task::spawn_blocking(move || {
            let mut decoder = zstd::Decoder::new(Fed::new(source, from.chunks))?;
            shared.applier.restore(from.index, &mut decoder)
        })
    };
    let fetched = fetch(shared, from, feed).await;
    let restored = restoring
        .await
        .map_err(|error| Broken::Again(error.to_string()))?;
    fetched?;
    restored.map_err(|error| {
        // All of it was there, and yet: reading it once more would not help.
        corrupt(&shared.keys.chunks(from.index), &error.to_string()).into()
    })
}

async fn fetch(shared: &Shared, from: Checkpoint, feed: blocking::SyncSender<Vec<u8>>) -> Result<(), Broken> {
    let index = from.index;
    let replaced = || {
        Broken::Again(format!(
            "the checkpoint at {index} was replaced while it was read"
        ))
    };
    let end = shared.keys.chunk(index, from.chunks);
    let mut next = 0;
    while next < from.chunks {
        let range = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
        let first = shared.keys.chunk(index, next);
        let mut page = shared.etcd.kv().get(first, Some(range)).await?;
        for kv in page.take_kvs() {
            let (key, value) = kv.into_key_value();
            let name = shared.keys.chunk(index, next);
            if key != name.as_bytes() {
                return Err(replaced());
            }
            let value = match from.is_sealed {
                true => seal::open(shared.seal.as_ref(), &name, &value)?,
                false => value,
            };
            next += 1;
            if send(&feed, value).await.is_err() {
                // The reader's own error is told instead.
                return Ok(());
            }
        }
        if page.count() == 0 {
            return Err(replaced());
        }
    }
    Ok(())
}

/// Hands a chunk to the blocking side, waiting for room without blocking.
async fn send(feed: &blocking::SyncSender<Vec<u8>>, mut chunk: Vec<u8>) -> Result<(), ()> {
    loop {
        match feed.try_send(chunk) {
            Ok(()) => return Ok(()),
            Err(blocking::TrySendError::Disconnected(_)) => return Err(()),
            Err(blocking::TrySendError::Full(back)) => {
                chunk = back;
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Cuts a stream into chunks.
struct Chunker {
    chunks: mpsc::Sender<Vec<u8>>,
    current: Vec<u8>,
}

impl Chunker {
    fn new(chunks: mpsc::Sender<Vec<u8>>) -> Self {
        Self {
            chunks,
            current: Vec::with_capacity(CHUNK),
        }
    }

    fn finish(mut self) -> io::Result<()> {
        if self.current.is_empty() {
            return Ok(());
        }
        self.pass_on()
    }

    fn pass_on(&mut self) -> io::Result<()> {
        let full = std::mem::replace(&mut self.current, Vec::with_capacity(CHUNK));
        self.chunks.blocking_send(full).map_err(io::Error::other)
    }
}

impl Write for Chunker {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.current.len());
        self.current.extend_from_slice(&bytes[..taken]);
        if self.current.len() == CHUNK {
            self.pass_on()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream of the chunks that arrive; it ends well only after the last of them.
struct Fed {
    source: blocking::Receiver<Vec<u8>>,
    missing: u64,
    current: io::Cursor<Vec<u8>>,
}

impl Fed {
    fn new(source: blocking::Receiver<Vec<u8>>, chunks: u64) -> Self {
        Self {
            source,
            missing: chunks,
            current: io::Cursor::default(),
        }
    }
}

impl Read for Fed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.current.read(into)?;
            if read > 0 || into.is_empty() || self.missing == 0 {
                return Ok(read);
            }
            let next = self
                .source
                .recv()
                .map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            self.missing -= 1;
            self.current = io::Cursor::new(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_put_together_are_the_stream() {
        let (chunks, mut ready) = mpsc::channel(8);
        let bytes: Vec<u8> = (0..CHUNK * 2 + 77)
            .map(|n| u8::try_from(n % 251).unwrap())
            .collect();
        let mut chunker = Chunker::new(chunks);
        chunker.write_all(&bytes).unwrap();
        chunker.finish().unwrap();
        let (feed, source) = blocking::channel();
        let mut count = 0;
        while let Ok(chunk) = ready.try_recv() {
            feed.send(chunk).unwrap();
            count += 1;
        }
        assert_eq!(count, 3);
        let mut read = Vec::new();
        Fed::new(source, count).read_to_end(&mut read).unwrap();
        assert!(read == bytes);
    }

    #[test]
    fn a_stream_that_lacks_a_chunk_is_cut() {
        let (feed, source) = blocking::channel();
        feed.send(vec![1, 2, 3]).unwrap();
        drop(feed);
        let error = Fed::new(source, 2).read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
