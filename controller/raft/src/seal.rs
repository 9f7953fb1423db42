//! Encryption at rest: the data keys of a member, and the sealing of records and snapshot frames with keys made from them.
//!
//! AES-256-GCM. A data key never seals anything itself: each segment and each snapshot file has a random salt, and
//! HKDF-SHA256 makes a key of its own from data key, salt and the file's header. Within a file the position is the nonce
//! (a record's offset, a frame's number). No position is ever written twice with other content: a start goes on in a new
//! segment, and a failed log writes no more. Called by `wal` and `snapshot`; the owner of the log keeps the keys on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Bytes that sealing adds.
pub(crate) const TAG: usize = 16;
/// Bytes of a file's salt.
pub(crate) const SALT: usize = 32;

/// Names a data key in the files that it sealed. Random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 16]);

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// A data key. Its bytes are wiped when the last copy is dropped.
#[derive(Clone)]
pub struct DataKey {
    id: KeyId,
    secret: Zeroizing<[u8; 32]>,
}

impl DataKey {
    /// A new key.
    pub fn random() -> Self {
        Self {
            id: KeyId(rand::random()),
            secret: Zeroizing::new(rand::random()),
        }
    }

    /// A key that was kept.
    pub fn new(id: KeyId, secret: Zeroizing<[u8; 32]>) -> Self {
        Self { id, secret }
    }

    /// Its name.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Its bytes, for whoever keeps it on disk.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

struct Keys {
    current: KeyId,
    all: BTreeMap<KeyId, DataKey>,
    segments: BTreeSet<KeyId>,
    snapshots: BTreeSet<KeyId>,
}

/// The data keys of one member: the current one seals what is new, older ones open what is still there. Clones are the
/// same ring.
#[derive(Clone)]
pub struct Keyring {
    keys: Arc<Mutex<Keys>>,
    used: watch::Sender<BTreeSet<KeyId>>,
}

impl Keyring {
    /// A ring whose `current` key seals new files.
    pub fn new(current: DataKey, older: impl IntoIterator<Item = DataKey>) -> Self {
        let id = current.id;
        let all = older.into_iter().chain([current]).map(|key| (key.id, key));
        let keys = Keys {
            current: id,
            all: all.collect(),
            segments: BTreeSet::new(),
            snapshots: BTreeSet::new(),
        };
        Self {
            keys: Arc::new(Mutex::new(keys)),
            used: watch::channel(BTreeSet::new()).0,
        }
    }

    /// The key that seals new files.
    pub fn current(&self) -> DataKey {
        let keys = self.lock();
        keys.all[&keys.current].clone()
    }

    /// All keys, the current one last.
    pub fn all(&self) -> Vec<DataKey> {
        let keys = self.lock();
        let older = keys.all.values().filter(|key| key.id != keys.current);
        older.chain([&keys.all[&keys.current]]).cloned().collect()
    }

    /// Makes a new key the current one. It must be on disk by then; [`crate::RaftHandle::key_changed`] puts it to use.
    pub fn rotate(&self, key: DataKey) {
        let mut keys = self.lock();
        keys.current = key.id;
        keys.all.insert(key.id, key);
    }

    /// Drops a key that no file uses; the current one stays.
    pub fn forget(&self, id: KeyId) {
        let mut keys = self.lock();
        if keys.current != id {
            keys.all.remove(&id);
        }
    }

    /// The keys that log and snapshots on disk are sealed with; others may be forgotten. Empty until the log is open.
    pub fn used(&self) -> watch::Receiver<BTreeSet<KeyId>> {
        self.used.subscribe()
    }

    pub(crate) fn current_id(&self) -> KeyId {
        self.lock().current
    }

    pub(crate) fn get(&self, id: KeyId) -> Option<DataKey> {
        self.lock().all.get(&id).cloned()
    }

    pub(crate) fn segments_use(&self, ids: BTreeSet<KeyId>) {
        self.lock().segments = ids;
        self.publish();
    }

    pub(crate) fn snapshots_use(&self, ids: BTreeSet<KeyId>) {
        self.lock().snapshots = ids;
        self.publish();
    }

    fn publish(&self) {
        let keys = self.lock();
        let used: BTreeSet<KeyId> = keys.segments.union(&keys.snapshots).copied().collect();
        self.used.send_if_modified(|now| {
            let changed = *now != used;
            *now = used;
            changed
        });
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring")
            .field("current", &self.current_id())
            .finish_non_exhaustive()
    }
}

/// What a file's header says about its sealing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) key: KeyId,
    pub(crate) salt: [u8; SALT],
}

impl Seal {
    /// For a new file.
    pub(crate) fn new(key: KeyId) -> Self {
        Self {
            key,
            salt: rand::random(),
        }
    }
}

/// The key of one file.
pub(crate) struct Sealer(LessSafeKey);

impl Sealer {
    /// The key of the file with this salt and header.
    pub(crate) fn new(key: &DataKey, salt: &[u8; SALT], header: &[u8]) -> Self {
        const FITS: &str = "a 32-byte key is within HKDF's and AES-256's lengths";
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(key.secret.as_slice());
        let info = [b"pontoon raft at rest 1".as_slice(), header];
        let expanded = extracted.expand(&info, &AES_256_GCM).expect(FITS);
        Self(LessSafeKey::new(UnboundKey::from(expanded)))
    }

    /// Seals what lies in `buffer` behind `start`, in place, and appends the tag.
    pub(crate) fn seal(&self, position: Position, about: &[u8], buffer: &mut Vec<u8>, start: usize) {
        const FITS: &str = "records and frames are far below AES-GCM's 64 GiB";
        let nonce = position.nonce();
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(about), &mut buffer[start..]);
        buffer.extend_from_slice(tag.expect(FITS).as_ref());
    }

    /// Opens what [`Sealer::seal`] made; `None` when key, place or content are others.
    pub(crate) fn open(&self, position: Position, about: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = sealed.to_vec();
        let opened = self
            .0
            .open_in_place(position.nonce(), Aad::from(about), &mut buffer)
            .ok()?
            .len();
        buffer.truncate(opened);
        Some(buffer)
    }
}

/// A place in a file: written once, so it is a nonce.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Position {
    /// Offset or number.
    pub(crate) at: u64,
    /// It is the last of its kind in the file.
    pub(crate) last: bool,
}

impl Position {
    fn nonce(self) -> Nonce {
        let mut bytes = [0; 12];
        bytes[0] = u8::from(self.last);
        bytes[4..].copy_from_slice(&self.at.to_be_bytes());
        Nonce::assume_unique_for_key(bytes)
    }
}
