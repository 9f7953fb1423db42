//! A simulated disk: what was not synced is lost at a crash, in sectors and in any order; any operation can be made to
//! crash the machine, run out of space, or fail to sync. Deterministic from its seed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::{Vfs, VfsFile};

const SECTOR: usize = 512;

/// What happens at the chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The machine stops before the operation has completed; all later ones fail until [`SimDisk::restart`].
    Crash,
    /// No space left; later operations work again.
    NoSpace,
    /// The sync fails and what it should have made durable may be lost; later operations work again.
    SyncError,
}

#[derive(Default, Clone)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// Unsynced writes and cuts, in order.
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    /// Name changes since the last sync of the folder: a crash keeps a prefix of them.
    durable_names: Vec<BTreeMap<PathBuf, usize>>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    /// Nothing may grow.
    full: bool,
    crashed: bool,
    rng: Chance,
}

/// splitmix64: enough for choosing sectors.
#[derive(Default)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl State {
    fn random(&mut self) -> u64 {
        self.rng.next()
    }

    /// Counts an operation; an error when it is the one to fail.
    fn operation(&mut self) -> io::Result<Option<Fault>> {
        if self.crashed {
            return Err(io::Error::other("the machine has crashed"));
        }
        self.operations += 1;
        if let Some((at, fault)) = self.fault
            && at == self.operations
        {
            self.fault = None;
            self.crashed = fault == Fault::Crash;
            return Ok(Some(fault));
        }
        Ok(None)
    }

    /// The same for one that takes room when `grows`.
    fn growth(&mut self, grows: bool) -> io::Result<Option<Fault>> {
        let fault = self.operation()?;
        Ok(fault.or((self.full && grows).then_some(Fault::NoSpace)))
    }

    fn name_change(&mut self) {
        let names = self.names.clone();
        self.durable_names.push(names);
    }
}

fn crash_error() -> io::Error {
    io::Error::other("the machine has crashed")
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, data) => {
            let (start, end) = (*offset as usize, *offset as usize + data.len());
            if content.len() < end {
                content.resize(end, 0);
            }
            content[start..end].copy_from_slice(data);
        }
        Change::SetLen(len) => content.resize(*len as usize, 0),
    }
}

/// A disk that can be crashed. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: Chance(seed),
            durable_names: vec![BTreeMap::new()],
            ..State::default()
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0
            .lock()
            .expect("a simulated disk is used by one test at a time")
    }

    /// Operations so far: writes, syncs, creates, renames, removals, cuts.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Makes the operation with this number fail.
    pub fn fail_at(&self, operation: u64, fault: Fault) {
        self.lock().fault = Some((operation, fault));
    }

    /// Fills it, or makes room: while it is full, files can be written where they are, and removed, but not grow.
    pub fn fill(&self, full: bool) {
        self.lock().full = full;
    }

    /// True from a crash to the restart.
    pub fn is_crashed(&self) -> bool {
        self.lock().crashed
    }

    /// The power comes back: what was synced is there, of the rest each sector may be.
    pub fn restart(&self) {
        let mut state = self.lock();
        let keep = state.random() as usize % state.durable_names.len();
        let names = state.durable_names[keep].clone();
        state.durable_names = vec![names.clone()];
        state.names = names;
        state.crashed = false;
        state.fault = None;
        for i in 0..state.inodes.len() {
            let mut inode = std::mem::take(&mut state.inodes[i]);
            // A sequence of its own, so that the length of one file decides nothing about another.
            let mut chance = Chance(state.random());
            let mode = chance.next() % 4;
            for change in &inode.pending {
                match (mode, change) {
                    (0, _) => {}
                    (1, _) => apply(&mut inode.durable, change),
                    (_, Change::SetLen(_)) => {
                        if chance.next().is_multiple_of(2) {
                            apply(&mut inode.durable, change);
                        }
                    }
                    (_, Change::Write(offset, data)) => {
                        // Sectors reach the disk one by one and in any order; the length may grow without them.
                        let mut at = 0;
                        while at < data.len() {
                            let room = SECTOR - ((*offset as usize + at) % SECTOR);
                            let end = data.len().min(at + room);
                            if chance.next().is_multiple_of(2) {
                                let piece = Change::Write(offset + at as u64, data[at..end].to_vec());
                                apply(&mut inode.durable, &piece);
                            }
                            at = end;
                        }
                    }
                }
            }
            inode.pending.clear();
            inode.current = inode.durable.clone();
            state.inodes[i] = inode;
        }
    }

    /// The process ends and starts again, the machine stays up: the page cache is still there.
    pub fn restart_process(&self) {
        let mut state = self.lock();
        state.crashed = false;
        state.fault = None;
    }

    /// Flips one bit of a file's durable content; false when there is no such byte.
    pub fn flip(&self, path: &Path, byte: u64, bit: u8) -> bool {
        let mut state = self.lock();
        let Some(&inode) = state.names.get(path) else {
            return false;
        };
        let inode = &mut state.inodes[inode];
        let Some(slot) = inode.current.get_mut(byte as usize) else {
            return false;
        };
        *slot ^= 1 << (bit % 8);
        inode.durable = inode.current.clone();
        inode.pending.clear();
        true
    }

    /// Content of a file as a reader sees it.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.lock();
        state
            .names
            .get(path)
            .map(|&inode| state.inodes[inode].current.clone())
    }
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl VfsFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.lock();
        if state.crashed {
            return Err(crash_error());
        }
        let content = &state.inodes[self.inode].current;
        let start = content.len().min(offset as usize);
        let count = buf.len().min(content.len() - start);
        buf[..count].copy_from_slice(&content[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let grows = state.inodes[self.inode].current.len() < offset as usize + buf.len();
        let fault = state.growth(grows)?;
        let mut data = buf.to_vec();
        if fault.is_some() && !data.is_empty() {
            let keep = state.random() as usize % data.len();
            data.truncate(keep);
        }
        let change = Change::Write(offset, data);
        let inode = &mut state.inodes[self.inode];
        apply(&mut inode.current, &change);
        inode.pending.push(change);
        match fault {
            None => Ok(()),
            Some(Fault::Crash) => Err(crash_error()),
            Some(_) => Err(io::Error::from(io::ErrorKind::StorageFull)),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        match state.operation()? {
            None => {
                let inode = &mut state.inodes[self.inode];
                for change in inode.pending.drain(..) {
                    apply(&mut inode.durable, &change);
                }
                Ok(())
            }
            Some(Fault::Crash) => Err(crash_error()),
            Some(_) => {
                // As on Linux: the pages are marked clean and dropped, a second sync would succeed without them.
                let inode = &mut state.inodes[self.inode];
                inode.pending.clear();
                Err(io::Error::other("input/output error"))
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let grows = (state.inodes[self.inode].current.len() as u64) < len;
        if let Some(fault) = state.growth(grows)? {
            return Err(if fault == Fault::Crash {
                crash_error()
            } else {
                io::Error::from(io::ErrorKind::StorageFull)
            });
        }
        let inode = &mut state.inodes[self.inode];
        let change = Change::SetLen(len);
        apply(&mut inode.current, &change);
        inode.pending.push(change);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.lock();
        if state.crashed {
            Err(crash_error())
        } else {
            Ok(state.inodes[self.inode].current.len() as u64)
        }
    }
}

impl Vfs for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        let mut state = self.lock();
        if let Some(fault) = state.growth(true)? {
            return Err(if fault == Fault::Crash {
                crash_error()
            } else {
                io::Error::from(io::ErrorKind::StorageFull)
            });
        }
        if state.names.contains_key(path) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.names.insert(path.to_owned(), inode);
        state.name_change();
        Ok(Box::new(SimFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        let state = self.lock();
        if state.crashed {
            return Err(crash_error());
        }
        let inode = *state
            .names
            .get(path)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.lock();
        if state.crashed {
            return Err(crash_error());
        }
        let names = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if let Some(fault) = state.operation()? {
            return Err(if fault == Fault::Crash {
                crash_error()
            } else {
                io::Error::from(io::ErrorKind::StorageFull)
            });
        }
        let inode = state
            .names
            .remove(from)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        state.names.insert(to.to_owned(), inode);
        state.name_change();
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        if let Some(fault) = state.operation()? {
            return Err(if fault == Fault::Crash {
                crash_error()
            } else {
                io::Error::other("input/output error")
            });
        }
        state
            .names
            .remove(path)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        state.name_change();
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        match state.operation()? {
            None => {
                let names = state.names.clone();
                state.durable_names = vec![names];
                Ok(())
            }
            Some(Fault::Crash) => Err(crash_error()),
            Some(_) => Err(io::Error::other("input/output error")),
        }
    }
}
