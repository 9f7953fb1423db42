//! Blobs on their way in: `partial/<hex>` grows while a transfer writes it, and stays when the transfer breaks off, so that
//! the next one goes on where it stopped. A file takes its place among the blobs only when its size and digest are right and
//! an image that names it is committed. Called by `ingest`.
//!
//! Each digest is written by one transfer at a time; a second one waits and then shares what the first has brought.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};

use crate::{Digest, Error, Result, error::At, tail::Bell};

/// Partial blobs that nobody has asked for again in this time go.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// All transfers of a store.
pub(crate) struct Transfers {
    dir: PathBuf,
    table: Mutex<HashMap<Digest, Slot>>,
    changed: Condvar,
    /// Rings when a blob begins to arrive, begins anew, or has ended.
    pub(crate) bell: Bell,
}

struct Slot {
    /// `None` while it is being written.
    holders: Option<usize>,
    /// How far it is.
    progress: Arc<Progress>,
    /// It is a blob now: its name here goes with the last holder.
    committed: bool,
}

/// How far a transfer's file has been written, for those who read it meanwhile.
#[derive(Default)]
pub(crate) struct Progress {
    state: Mutex<Written>,
    changed: Condvar,
}

#[derive(Default, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) bytes: u64,
    ended: bool,
    pub(crate) broken: bool,
}

impl Written {
    /// Whether who has read so much has to wait.
    fn is_nothing_new(&self, read: u64) -> bool {
        self.bytes <= read && !self.ended && !self.broken
    }
}

impl Progress {
    /// Ends those who read it.
    pub(crate) fn abandon(&self) {
        self.tell(|w| w.broken = true);
    }

    fn tell(&self, change: impl FnOnce(&mut Written)) {
        change(&mut self.state.lock().unwrap_or_else(|e| e.into_inner()));
        self.changed.notify_all();
    }

    /// Waits until there is more than `read` bytes, or no more to come.
    fn wait(&self, read: u64) -> Written {
        let state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        *self
            .changed
            .wait_while(state, |written| written.is_nothing_new(read))
            .unwrap_or_else(|e| e.into_inner())
    }

    /// As `wait`, at most so long; `None` when nothing has come.
    pub(crate) fn wait_for(&self, read: u64, patience: Duration) -> Option<Written> {
        let state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let (state, waited) = self
            .changed
            .wait_timeout_while(state, patience, |written| written.is_nothing_new(read))
            .unwrap_or_else(|e| e.into_inner());
        (!waited.timed_out()).then_some(*state)
    }
}

/// Reads a blob while it is being written; waits for what is not there yet.
pub(crate) struct Follow {
    file: File,
    read: u64,
    progress: Arc<Progress>,
}

impl Read for Follow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let written = self.progress.wait(self.read);
        if written.broken {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the transfer broke off",
            ));
        }
        let left = usize::try_from(written.bytes - self.read).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        let count = self.file.read(&mut buffer[..count])?;
        self.read += count as u64;
        Ok(count)
    }
}

impl Transfers {
    /// Finds what earlier transfers left below `root`. `needed` are blobs in place: their partial names go, as do old ones.
    pub(crate) fn open(root: &Path, needed: &BTreeSet<Digest>) -> Result<Arc<Self>> {
        let dir = root.join("partial");
        fs::create_dir_all(&dir).at("cannot make", &dir)?;
        let transfers = Transfers {
            dir,
            table: Mutex::default(),
            changed: Condvar::new(),
            bell: Bell::default(),
        };
        transfers.sweep(KEPT, needed)?;
        Ok(Arc::new(transfers))
    }

    /// Deletes what nobody writes or holds and was last written longer ago than `kept`; gives the bytes that are free now.
    pub(crate) fn sweep(&self, kept: Duration, needed: &BTreeSet<Digest>) -> Result<u64> {
        let table = self.table();
        let mut bytes = 0;
        for entry in fs::read_dir(&self.dir).at("cannot list", &self.dir)? {
            let entry = entry.at("cannot list", &self.dir)?;
            let digest = entry.file_name().to_str().and_then(Digest::from_hex);
            if digest.is_some_and(|d| table.contains_key(&d)) {
                continue;
            }
            let Ok(meta) = entry.metadata() else { continue };
            let age = SystemTime::now()
                .duration_since(meta.modified().unwrap_or(SystemTime::UNIX_EPOCH))
                .unwrap_or_default();
            if age >= kept || digest.is_none_or(|d| needed.contains(&d)) {
                fs::remove_file(entry.path()).at("cannot delete", entry.path())?;
                bytes += meta.len();
            }
        }
        Ok(bytes)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Digest, Slot>> {
        self.table.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// Bytes that a broken-off transfer has left.
    pub(crate) fn partial(&self, digest: &Digest) -> u64 {
        fs::metadata(self.path(digest)).map_or(0, |m| m.len())
    }

    /// Begins to write a blob, or shares it when another transfer has just brought it. Waits while another one writes it.
    pub(crate) fn begin(self: &Arc<Self>, digest: &Digest, size: u64) -> Result<Begun> {
        let mut table = self.table();
        loop {
            match table.get_mut(digest) {
                None => break,
                Some(Slot {
                    holders: Some(holders),
                    ..
                }) => {
                    *holders += 1;
                    return Ok(Begun::Complete(self.held(digest)));
                }
                Some(_) => table = self.changed.wait(table).unwrap_or_else(|e| e.into_inner()),
            }
        }
        let progress = Arc::<Progress>::default();
        table.insert(
            *digest,
            Slot {
                holders: None,
                progress: progress.clone(),
                committed: false,
            },
        );
        drop(table);
        // From here on, dropping `slot` frees the digest for others.
        let slot = Writing {
            transfers: self.clone(),
            digest: *digest,
        };
        let path = self.path(digest);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .at("cannot write", &path)?;
        let mut writer = BlobWriter {
            slot,
            path,
            file,
            size,
            hash: Sha256::new(),
            written: 0,
            progress,
        };
        writer.take_up()?;
        self.bell.ring();
        Ok(Begun::Writer(Box::new(writer)))
    }

    /// A blob that is arriving or has arrived and waits for its image: its file, and how far it is.
    pub(crate) fn follow(&self, digest: &Digest) -> Result<Option<(File, Arc<Progress>)>> {
        let table = self.table();
        let Some(slot) = table.get(digest) else {
            return Ok(None);
        };
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => Ok(Some((file, slot.progress.clone()))),
            // It begins at this moment, or is given up.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("cannot read", &path),
        }
    }

    fn held(self: &Arc<Self>, digest: &Digest) -> Held {
        Held {
            transfers: self.clone(),
            digest: *digest,
        }
    }
}

/// What [`Transfers::begin`] gives.
pub(crate) enum Begun {
    Complete(Held),
    Writer(Box<BlobWriter>),
}

/// A complete blob that waits for its image.
pub(crate) struct Held {
    transfers: Arc<Transfers>,
    pub(crate) digest: Digest,
}

impl Held {
    pub(crate) fn path(&self) -> PathBuf {
        self.transfers.path(&self.digest)
    }

    /// It has its place among the blobs.
    pub(crate) fn committed(&self) {
        if let Some(slot) = self.transfers.table().get_mut(&self.digest) {
            slot.committed = true;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = self.transfers.table();
        let Some(slot) = table.get_mut(&self.digest) else {
            return;
        };
        let left = slot.holders.map_or(0, |n| n.saturating_sub(1));
        slot.holders = Some(left);
        if left == 0 {
            // What no image took stays for the next attempt.
            if slot.committed {
                let _ = fs::remove_file(self.transfers.path(&self.digest));
            }
            table.remove(&self.digest);
        }
    }
}

/// The mark "being written"; it goes when the transfer breaks off.
struct Writing {
    transfers: Arc<Transfers>,
    digest: Digest,
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut table = self.transfers.table();
        if table.get(&self.digest).is_some_and(|slot| slot.holders.is_none()) {
            table.remove(&self.digest);
        }
        drop(table);
        self.transfers.changed.notify_all();
        self.transfers.bell.ring();
    }
}

/// Writes one blob, in order. Dropping it keeps what has arrived for a later attempt. Blocking.
pub struct BlobWriter {
    slot: Writing,
    path: PathBuf,
    file: File,
    size: u64,
    hash: Sha256,
    written: u64,
    progress: Arc<Progress>,
}

impl BlobWriter {
    /// Reads what is there already into the hash.
    fn take_up(&mut self) -> Result<()> {
        if self.file.metadata().at("cannot read", &self.path)?.len() > self.size {
            return self.restart();
        }
        let mut buffer = vec![0; 128 << 10];
        loop {
            let n = self.file.read(&mut buffer).at("cannot read", &self.path)?;
            if n == 0 {
                break;
            }
            self.hash.update(&buffer[..n]);
            self.written += n as u64;
        }
        let written = self.written;
        self.progress.tell(|w| w.bytes = written);
        Ok(())
    }

    /// Which blob it is.
    pub fn digest(&self) -> &Digest {
        &self.slot.digest
    }

    /// Bytes that are there: the next that is written is this one (for HTTP: `Range: bytes=<offset>-`).
    pub fn offset(&self) -> u64 {
        self.written
    }

    /// Bytes that the blob has in the end.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Forgets what is there, for a sender that can only begin at the beginning.
    ///
    /// # Errors
    /// The file can't be cut.
    pub fn restart(&mut self) -> Result<()> {
        // A reader that has seen the old bytes must not go on with new ones.
        self.progress.tell(|w| w.broken = true);
        self.progress = Arc::default();
        if let Some(slot) = self.slot.transfers.table().get_mut(&self.slot.digest) {
            slot.progress = self.progress.clone();
        }
        self.slot.transfers.bell.ring();
        self.file.set_len(0).at("cannot write", &self.path)?;
        self.hash = Sha256::new();
        self.written = 0;
        Ok(())
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when there are more than the blob has; the disk's, which say so when it is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.written + bytes.len() as u64 > self.size {
            let digest = *self.digest();
            self.forget();
            return Err(Error::corrupt(
                digest,
                format!(
                    "more than the {} bytes that its descriptor says arrived",
                    self.size
                ),
            ));
        }
        self.file.write_all(bytes).at("cannot write", &self.path)?;
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        let written = self.written;
        self.progress.tell(|w| w.bytes = written);
        Ok(())
    }

    /// The content so far and what is still to come.
    pub(crate) fn follow(&self) -> Result<(Follow, Arc<Progress>)> {
        let file = File::open(&self.path).at("cannot read", &self.path)?;
        let follow = Follow {
            file,
            read: 0,
            progress: self.progress.clone(),
        };
        Ok((follow, self.progress.clone()))
    }

    /// Checks size and digest.
    pub(crate) fn finish(mut self) -> Result<Held> {
        let digest = *self.digest();
        if self.written < self.size {
            return Err(Error::Incomplete {
                digest,
                received: self.written,
                expected: self.size,
            });
        }
        let actual = Digest::from_hash(std::mem::take(&mut self.hash));
        if actual != digest {
            self.forget();
            return Err(Error::corrupt(digest, format!("what arrived is {actual}")));
        }
        // Who unpacks it goes on meanwhile; a disk that can't keep it is found here.
        self.progress.tell(|w| w.ended = true);
        self.file.sync_data().at("cannot sync", &self.path)?;
        let transfers = self.slot.transfers.clone();
        transfers.table().insert(
            digest,
            Slot {
                holders: Some(1),
                progress: self.progress.clone(),
                committed: false,
            },
        );
        transfers.changed.notify_all();
        transfers.bell.ring();
        Ok(transfers.held(&digest))
    }

    /// What has arrived is wrong: nobody shall go on with it.
    fn forget(&mut self) {
        let _ = self.file.set_len(0);
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        self.progress.tell(|w| w.broken |= !w.ended);
    }
}
