//! Snapshot files: written from the state machine, sent to and received from other members, restored at start.
//!
//! A file is made under a temporary name, synced and renamed; then a marker in the log says that it counts. Files whose
//! index is lower than the marker's are removed later. On the disk they are sealed when the folder has keys; what is sent is
//! in clear, since every member has keys of its own (and the connection is encrypted).

use std::collections::BTreeSet;
use std::io::{BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::error::Error;
use crate::vfs::{Dir, Reader, VfsFile};

mod file;
mod sealed;
#[cfg(test)]
mod tests;

pub(crate) use file::SnapshotMeta;

use file::Verified;
use sealed::{Output, Refusal};

/// Bytes of a snapshot that go into one message.
pub(crate) const CHUNK: usize = 1 << 20;

/// The snapshot files of one member.
#[derive(Clone)]
pub(crate) struct SnapshotStore {
    dir: Dir,
    cluster_id: String,
    wishes: Arc<Wishes>,
}

/// What the owner wants of snapshots while the member runs.
#[derive(Default)]
struct Wishes {
    /// Entries after which one is taken; 0: as configured.
    every: AtomicU64,
    /// Older ones that are kept.
    old: AtomicUsize,
}

/// A verified snapshot file.
pub(crate) struct SnapshotFile {
    file: Box<dyn VfsFile>,
    path: std::path::PathBuf,
    verified: Verified,
}

/// Tells a snapshot file from others of the same entry: another member's, or another program's, may have other bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    /// Bytes of the file in clear.
    pub(crate) total: u64,
    /// Checksum of the compressed state.
    pub(crate) crc: u32,
}

/// A snapshot that is being received.
pub(crate) struct Incoming {
    store: SnapshotStore,
    /// Taken by `finish`.
    output: Option<Output>,
    temporary: String,
    offset: u64,
}

fn name(index: u64, term: u64) -> String {
    format!("snap-{index:016x}-{term:016x}.snap")
}

fn parse_name(name: &str) -> Option<u64> {
    let (index, term) = name
        .strip_prefix("snap-")?
        .strip_suffix(".snap")?
        .split_once('-')?;
    u64::from_str_radix(term, 16).ok()?;
    u64::from_str_radix(index, 16).ok()
}

impl SnapshotStore {
    pub(crate) fn new(dir: Dir, cluster_id: &str) -> Self {
        Self {
            dir,
            cluster_id: cluster_id.to_owned(),
            wishes: Arc::default(),
        }
    }

    /// From now on a snapshot is taken after `every` entries (0: as configured), and `old` ones are kept besides the newest.
    pub(crate) fn set_wishes(&self, every: u64, old: usize) {
        self.wishes.every.store(every, Ordering::Relaxed);
        self.wishes.old.store(old, Ordering::Relaxed);
    }

    /// Entries after which a snapshot is taken, if not as configured.
    pub(crate) fn every(&self) -> Option<u64> {
        Some(self.wishes.every.load(Ordering::Relaxed)).filter(|every| *every > 0)
    }

    /// Writes a snapshot and makes it durable.
    pub(crate) fn write(
        &self,
        meta: &SnapshotMeta,
        fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let temporary = self.temporary();
        let path = self.dir.file(&temporary);
        let file = self.dir.create(&temporary)?;
        let written = Output::new(file, self.dir.keys())
            .and_then(|mut output| {
                file::write(&mut output, &self.cluster_id, meta, fill)?;
                output.finish()?.sync()
            })
            .map_err(|source| Error::Io {
                op: "write",
                path,
                source,
            });
        let result = written.and_then(|()| self.dir.rename(&temporary, &name(meta.index, meta.term)));
        if result.is_err() {
            self.discard(&temporary);
        }
        self.report_keys();
        result
    }

    /// Opens a snapshot and checks all of it.
    pub(crate) fn open(&self, index: u64, term: u64) -> Result<SnapshotFile, Error> {
        let name = &name(index, term);
        let path = self.dir.file(name);
        let corrupt = |reason: String| Error::CorruptSnapshot {
            path: path.clone(),
            reason,
        };
        let file = match self.dir.open(name) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(corrupt("the log names it, but it is missing".into()));
            }
            other => other?,
        };
        let (file, verified) = self.verify(file, name)?;
        let meta = &verified.meta;
        if (meta.index, meta.term) != (index, term) {
            return Err(corrupt(format!(
                "it is at {} of term {}, other than its name says",
                meta.index, meta.term
            )));
        }
        self.report_keys();
        Ok(SnapshotFile { file, path, verified })
    }

    /// The file in clear, all of it checked.
    fn verify(&self, file: Box<dyn VfsFile>, name: &str) -> Result<(Box<dyn VfsFile>, Verified), Error> {
        let path = self.dir.file(name);
        let file = sealed::open(file, self.dir.keys()).map_err(|refusal| match refusal {
            Refusal::NoKey(key) => Error::NoKey {
                path: path.clone(),
                key,
            },
            Refusal::Unusable(reason) => Error::CorruptSnapshot {
                path: path.clone(),
                reason,
            },
        })?;
        let verified = file::verify(file.as_ref(), &self.cluster_id)
            .map_err(|reason| Error::CorruptSnapshot { path, reason })?;
        Ok((file, verified))
    }

    /// Tells the keyring which keys the snapshots need.
    fn report_keys(&self) {
        let Some(keys) = self.dir.keys() else {
            return;
        };
        let names = self.dir.list().unwrap_or_default();
        // Also those that are being written: they come to their name with the key that they have.
        let files = names.iter().filter(|name| name.starts_with("snap-"));
        let used = files.filter_map(|name| sealed::key_of(self.dir.open(name).ok()?.as_ref()));
        keys.snapshots_use(used.collect::<BTreeSet<_>>());
    }

    /// Begins to receive a snapshot file from another member.
    pub(crate) fn receive(&self) -> Result<Incoming, Error> {
        let temporary = self.temporary();
        let file = self.dir.create(&temporary)?;
        let output = Output::new(file, self.dir.keys()).map_err(|source| Error::Io {
            op: "write",
            path: self.dir.file(&temporary),
            source,
        })?;
        Ok(Incoming {
            store: self.clone(),
            output: Some(output),
            temporary,
            offset: 0,
        })
    }

    /// Removes the files below `index`, which the log does not name any more, but for the old ones that are to be kept. None is kept that
    /// another data key than the present one opens: that key is to be forgotten.
    pub(crate) fn remove_below(&self, index: u64) {
        let names = self.dir.list().unwrap_or_default().into_iter();
        let mut old: Vec<(u64, String)> = names
            .filter_map(|name| Some((parse_name(&name)?, name)))
            .filter(|(at, _)| *at < index)
            .collect();
        old.sort_unstable();
        let is_kept = |name: &String| {
            self.dir.keys().is_none_or(|keys| {
                let key = self
                    .dir
                    .open(name)
                    .ok()
                    .and_then(|file| sealed::key_of(file.as_ref()));
                key == Some(keys.current_id())
            })
        };
        let mut room = self.wishes.old.load(Ordering::Relaxed);
        for (_, name) in old.iter().rev() {
            if room > 0 && is_kept(name) {
                room -= 1;
            } else {
                self.discard(name);
            }
        }
        self.report_keys();
    }

    /// Removes all of them.
    pub(crate) fn clear(&self) {
        for name in self.dir.list().unwrap_or_default() {
            if parse_name(&name).is_some() {
                self.discard(&name);
            }
        }
        self.report_keys();
    }

    /// Removes what a crash left half written. Only before anything is received or written.
    pub(crate) fn remove_leftovers(&self) {
        for name in self.dir.list().unwrap_or_default() {
            if name.ends_with(".snap.tmp") {
                self.discard(&name);
            }
        }
    }

    fn temporary(&self) -> String {
        format!("snap-{:016x}.snap.tmp", rand::random::<u64>())
    }

    fn discard(&self, name: &str) {
        if let Err(error) = self.dir.remove(name) {
            tracing::warn!(%error, "could not remove an old snapshot file");
        }
    }
}

impl SnapshotFile {
    /// The decompressed state.
    pub(crate) fn reader(&self) -> std::io::Result<impl Read + '_> {
        let data = &self.verified.data;
        let compressed = Reader::new(self.file.as_ref(), data.start).take(data.end - data.start);
        zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(256 << 10, compressed))
    }

    /// Which file it is.
    pub(crate) fn id(&self) -> FileId {
        FileId {
            total: self.verified.total,
            crc: self.verified.crc,
        }
    }

    /// The next bytes of the file in clear, for sending; empty at its end.
    pub(crate) fn chunk(&self, offset: u64) -> Result<Vec<u8>, Error> {
        let io = |source| Error::Io {
            op: "read",
            path: self.path.clone(),
            source,
        };
        let mut chunk = Vec::new();
        let mut reader = Reader::new(self.file.as_ref(), offset).take(CHUNK as u64);
        reader.read_to_end(&mut chunk).map_err(io)?;
        Ok(chunk)
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }
}

impl Incoming {
    /// Appends received bytes.
    pub(crate) fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        let path = self.store.dir.file(&self.temporary);
        let output = self
            .output
            .as_mut()
            .ok_or(std::io::ErrorKind::NotConnected.into());
        output
            .and_then(|output: &mut Output| output.write_all(data))
            .map_err(|source| Error::Io {
                op: "write",
                path,
                source,
            })?;
        self.offset += data.len() as u64;
        Ok(())
    }

    /// Bytes received so far.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Checks the whole, makes it durable and gives it its name.
    pub(crate) fn finish(mut self, index: u64, term: u64) -> Result<(), Error> {
        let path = self.store.dir.file(&self.temporary);
        let corrupt = |reason| Error::CorruptSnapshot {
            path: path.clone(),
            reason,
        };
        let io = |op| {
            let path = path.clone();
            move |source| Error::Io { op, path, source }
        };
        let output = self.output.take().ok_or(std::io::ErrorKind::NotConnected.into());
        let file = output.and_then(Output::finish).map_err(io("write"))?;
        let (file, verified) = self.store.verify(file, &self.temporary)?;
        let meta = &verified.meta;
        if (meta.index, meta.term) != (index, term) {
            return Err(corrupt(format!(
                "it is at {} of term {}, not at {index} of term {term}",
                meta.index, meta.term
            )));
        }
        file.sync().map_err(io("sync"))?;
        let renamed = self.store.dir.rename(&self.temporary, &name(index, term));
        self.store.report_keys();
        renamed
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // After `finish` the name is gone already; a transfer that broke off leaves it.
        let names = self.store.dir.list().unwrap_or_default();
        if names.contains(&self.temporary) {
            self.store.discard(&self.temporary);
        }
    }
}
