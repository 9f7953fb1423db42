//! What must hold at every moment, whatever breaks: fed by every entry that any manager applies.
//!
//! Keeps a replica of its own, which applies each entry of the log once, in order. All managers must apply the same
//! entries in the same order; each state that follows from one is checked against plain invariants.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_proto::planted;
use pontoon_proto::v1::Changeset;
use pontoon_store::{ApplyOutcome, Snapshot, Store};
use prost::Message;

use crate::invariants;
use crate::trace::Trace;

/// The oracle; clones are the same.
#[derive(Clone)]
pub struct Oracle {
    inner: Arc<Mutex<Inner>>,
    trace: Trace,
}

struct Inner {
    store: Store,
    /// Hash of the entry at each index.
    entries: BTreeMap<u64, u64>,
    /// What each manager applied last in this life.
    last: BTreeMap<String, u64>,
    /// Versions that each manager has shown in this life.
    versions: BTreeMap<String, u64>,
    /// Where each task was sent first.
    placed: BTreeMap<String, String>,
    complaint: Option<String>,
}

fn hash(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Oracle {
    /// One that has seen nothing.
    pub fn new(trace: &Trace) -> Self {
        let inner = Inner {
            store: Store::new(),
            entries: BTreeMap::new(),
            last: BTreeMap::new(),
            versions: BTreeMap::new(),
            placed: BTreeMap::new(),
            complaint: None,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            trace: trace.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is wrong; the first complaint counts.
    pub fn complain(&self, what: String) {
        self.trace.event(format_args!("COMPLAINT {what}"));
        self.lock().complaint.get_or_insert(what);
    }

    /// The first complaint.
    pub fn complaint(&self) -> Option<String> {
        self.lock().complaint.clone()
    }

    /// The state after all entries that anybody has applied.
    pub fn state(&self) -> Arc<Snapshot> {
        self.lock().store.snapshot()
    }

    /// A manager starts: its state machine begins with its newest snapshot.
    pub fn begin_life(&self, manager: &str) {
        let mut inner = self.lock();
        inner.last.remove(manager);
        inner.versions.remove(manager);
    }

    /// A manager has applied an entry.
    pub fn applied(&self, manager: &str, index: u64, data: &[u8]) {
        if let Err(what) = self.take(manager, index, data) {
            self.complain(what);
        }
    }

    fn take(&self, manager: &str, index: u64, data: &[u8]) -> Result<(), String> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if let Some(last) = inner.last.insert(manager.to_owned(), index)
            && last >= index
        {
            return Err(format!("{manager} applied entry {index} after entry {last}"));
        }
        let newest = inner.entries.last_key_value().map_or(0, |(index, _)| *index);
        match inner.entries.get(&index) {
            Some(known) if *known == hash(data) => return Ok(()),
            Some(_) => return Err(format!("{manager} applied another entry {index} than the others")),
            None if index < newest => {
                return Err(format!(
                    "{manager} applied entry {index}, which no other manager has"
                ));
            }
            None => drop(inner.entries.insert(index, hash(data))),
        }
        let changeset = Changeset::decode(data).map_err(|error| format!("entry {index}: {error}"))?;
        self.trace.event(format_args!(
            "entry {index} by {manager}: {} changes on version {}",
            changeset.changes.len(),
            changeset.base_version,
        ));
        let before = inner.store.snapshot();
        if let ApplyOutcome::Stale { .. } = planted::without(|| inner.store.apply(changeset)) {
            self.trace
                .event(format_args!("entry {index} is made on another version"));
            return Ok(());
        }
        let after = inner.store.snapshot();
        if after.version() <= before.version() {
            return Err(format!(
                "the version went from {} to {}",
                before.version(),
                after.version()
            ));
        }
        invariants::transition(&before, &after).map_err(|what| format!("entry {index}: {what}"))
    }

    /// What a manager shows: its version must not go back while it lives.
    pub fn shown(&self, manager: &str, version: u64) {
        let before = self.lock().versions.insert(manager.to_owned(), version);
        if before.is_some_and(|before| before > version) {
            self.complain(format!(
                "{manager} went back to version {version} from {before:?}"
            ));
        }
    }

    /// A node was told to run a task: no other may ever be.
    pub fn assigned(&self, task: &str, node: &str) {
        let other = self
            .lock()
            .placed
            .entry(task.to_owned())
            .or_insert_with(|| node.to_owned())
            .clone();
        if other != node {
            self.complain(format!("task {task} was given to {other} and to {node}"));
        }
    }
}
