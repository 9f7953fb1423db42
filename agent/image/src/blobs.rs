//! The content-addressed store: `blobs/sha256/<hex>`, as in an OCI layout. A blob comes into being by one rename or link of a
//! complete file, and is checked against its name when it is read.
//!
//! A blob lives as long as the catalog needs it or somebody holds it (a [`BlobPin`]): what is under way (a load, a pull, a
//! build) pins what it is going to name, so a removal at the same time does not take it away.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{Digest, Error, Result, digest::HashReader, error::At, limits::Limits};

/// Files that are synced at once.
const SYNCS: usize = 4;

/// All blobs of a store.
pub(crate) struct Blobs {
    dir: PathBuf,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// What the catalog names.
    needed: BTreeSet<Digest>,
    pins: HashMap<Digest, usize>,
    /// Placed here, and perhaps not on the disk yet.
    loose: BTreeSet<Digest>,
}

/// Holds a blob that is in place. When the last pin goes and the catalog does not need it, the blob is deleted.
pub(crate) struct BlobPin {
    blobs: Arc<Blobs>,
    digest: Digest,
}

impl Drop for BlobPin {
    fn drop(&mut self) {
        let mut table = self.blobs.table();
        let left = table.pins.get(&self.digest).map_or(0, |n| n.saturating_sub(1));
        if left > 0 {
            table.pins.insert(self.digest, left);
            return;
        }
        table.pins.remove(&self.digest);
        // Under the lock, so that nobody pins it in between.
        if !table.needed.contains(&self.digest)
            && let Err(e) = self.blobs.delete(&self.digest)
        {
            tracing::warn!(
                error = &e as &dyn std::error::Error,
                "cannot delete an unused blob"
            );
        }
    }
}

impl Blobs {
    pub(crate) fn open(root: &Path) -> Result<Arc<Self>> {
        let dir = root.join("blobs/sha256");
        fs::create_dir_all(&dir).at("cannot make", &dir)?;
        Ok(Arc::new(Blobs {
            dir,
            table: Mutex::default(),
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic under the lock leaves at worst a pin too many: a blob that stays until the next open.
        self.table.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// A small blob (manifest, configuration), checked.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let limit = Limits::default().json_bytes;
        let (file, size) = self.open_blob(digest)?;
        if size > limit {
            return Err(Error::corrupt(
                *digest,
                format!("{size} bytes where a JSON document should be"),
            ));
        }
        let mut data = Vec::new();
        file.take(limit)
            .read_to_end(&mut data)
            .at("cannot read", self.path(digest))?;
        if Digest::of(&data) != *digest {
            return Err(Error::corrupt(*digest, "it was changed on disk"));
        }
        Ok(data)
    }

    /// A blob of any size and its length, not checked.
    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<(File, u64)> {
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => {
                let size = file.metadata().at("cannot read", &path)?.len();
                Ok((file, size))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::corrupt(*digest, "the blob is missing"))
            }
            Err(e) => Err(e).at("cannot open", path),
        }
    }

    /// Bytes of a blob; `None` when it is not there.
    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|m| m.len())
    }

    /// Copies a blob out, checking it on the way.
    pub(crate) fn copy<E>(
        &self,
        digest: &Digest,
        sink: impl FnOnce(&mut dyn Read, u64) -> Result<(), E>,
    ) -> Result<(), E>
    where
        E: From<Error>,
    {
        let (file, size) = self.open_blob(digest)?;
        let mut reader = HashReader::new(file);
        sink(&mut reader, size)?;
        if reader.finish().0 != *digest {
            return Err(Error::corrupt(*digest, "it was changed on disk").into());
        }
        Ok(())
    }

    /// Holds a blob that is there.
    pub(crate) fn pin(self: &Arc<Self>, digest: &Digest) -> Option<BlobPin> {
        let mut table = self.table();
        self.path(digest)
            .exists()
            .then(|| self.pin_locked(&mut table, digest))
    }

    fn pin_locked(self: &Arc<Self>, table: &mut Table, digest: &Digest) -> BlobPin {
        *table.pins.entry(*digest).or_default() += 1;
        BlobPin {
            blobs: self.clone(),
            digest: *digest,
        }
    }

    /// Takes a complete file over (it is gone from where it was), or holds the blob that is there already.
    pub(crate) fn adopt(self: &Arc<Self>, digest: &Digest, staged: &Path) -> Result<BlobPin> {
        let mut table = self.table();
        let path = self.path(digest);
        if !path.exists() {
            fs::rename(staged, &path).at("cannot put in place", path)?;
            table.loose.insert(*digest);
        }
        Ok(self.pin_locked(&mut table, digest))
    }

    /// As [`Blobs::adopt`], and leaves the file where it was, too: one inode with two names.
    pub(crate) fn link(self: &Arc<Self>, digest: &Digest, staged: &Path) -> Result<BlobPin> {
        let mut table = self.table();
        let path = self.path(digest);
        if !path.exists() {
            fs::hard_link(staged, &path).at("cannot put in place", path)?;
            table.loose.insert(*digest);
        }
        Ok(self.pin_locked(&mut table, digest))
    }

    /// Deletes a damaged blob although it is needed: what is fetched next takes its place.
    pub(crate) fn discard(&self, digest: &Digest) -> Result<()> {
        let _table = self.table();
        self.delete(digest)
    }

    /// Says what the catalog needs from now on; what it needed before and nobody holds is deleted.
    pub(crate) fn need(&self, needed: BTreeSet<Digest>) -> Result<()> {
        let mut table = self.table();
        let before = std::mem::replace(&mut table.needed, needed);
        let dead = before
            .iter()
            .filter(|b| !table.needed.contains(b) && !table.pins.contains_key(b));
        dead.map(|b| self.delete(b)).fold(Ok(()), Result::and)
    }

    /// Makes blobs and their names survive a power loss: to be done before the catalog names them. Those that are on the disk already cost
    /// nothing.
    pub(crate) fn settle(&self, digests: impl Iterator<Item = Digest>) -> Result<()> {
        let loose: BTreeSet<Digest> = {
            let table = self.table();
            digests.filter(|d| table.loose.contains(d)).collect()
        };
        if loose.is_empty() {
            return Ok(());
        }
        let mut paths: Vec<PathBuf> = loose.iter().map(|digest| self.path(digest)).collect();
        paths.push(self.dir.clone());
        sync_all(&paths)?;
        let mut table = self.table();
        table.loose.retain(|digest| !loose.contains(digest));
        Ok(())
    }

    /// Whether a power loss could still take the blob.
    #[cfg(test)]
    pub(crate) fn is_loose(&self, digest: &Digest) -> bool {
        self.table().loose.contains(digest)
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        match fs::remove_file(self.path(digest)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).at("cannot delete", self.path(digest)),
            _ => Ok(()),
        }
    }

    /// Names of files that are neither needed nor held.
    pub(crate) fn strays(&self) -> Result<Vec<String>> {
        let table = self.table();
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).at("cannot list", &self.dir)? {
            let entry = entry.at("cannot list", &self.dir)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let digest = Digest::from_hex(&name);
            if !digest.is_some_and(|d| table.needed.contains(&d) || table.pins.contains_key(&d)) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Bytes of all blobs that the catalog needs.
    pub(crate) fn total(&self) -> u64 {
        let needed = self.table().needed.clone();
        needed.iter().filter_map(|digest| self.size(digest)).sum()
    }

    /// Deletes all that is neither needed nor held; gives how many files and bytes went.
    pub(crate) fn sweep(&self) -> Result<(usize, u64)> {
        let table = self.table();
        let mut gone = (0, 0);
        for entry in fs::read_dir(&self.dir).at("cannot list", &self.dir)? {
            let entry = entry.at("cannot list", &self.dir)?;
            let digest = entry.file_name().to_str().and_then(Digest::from_hex);
            if !digest.is_some_and(|d| table.needed.contains(&d) || table.pins.contains_key(&d)) {
                gone.1 += entry.metadata().map_or(0, |m| m.len());
                gone.0 += 1;
                fs::remove_file(entry.path()).at("cannot delete", entry.path())?;
            }
        }
        Ok(gone)
    }
}

/// Syncs files and folders at once: the file system's journal then writes them in one go.
fn sync_all(paths: &[PathBuf]) -> Result<()> {
    let sync = |path: &PathBuf| {
        let synced = File::open(path).and_then(|file| file.sync_all());
        synced.at("cannot sync", path)
    };
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            sync(path)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let spawn = |_| {
            thread::Builder::new()
                .name("sync".into())
                .spawn_scoped(scope, work)
        };
        // This thread works as well; where no other can be had, alone.
        let others: Vec<_> = (1..paths.len().min(SYNCS)).map_while(|i| spawn(i).ok()).collect();
        let own = work();
        others.into_iter().fold(own, |all, other| {
            let died = |_| {
                let source = io::Error::other("the thread that does it has died");
                Err(source).at("cannot sync", &paths[0])
            };
            all.and(other.join().unwrap_or_else(died))
        })
    })
}
