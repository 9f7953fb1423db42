//! The published snapshot and the ring of what was applied last. One writer (the log's apply loop) calls `apply`;
//! everybody else takes snapshots, or follows the changes from the version that they know.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use pontoon_proto::v1::Changeset;

use crate::{Error, Event, Made, Result, Snapshot, codec};

/// Changesets that the ring keeps at most.
const RING_CHANGESETS: usize = 8192;
/// Events that the ring keeps at most, over all changesets (the newest changeset always stays).
const RING_EVENTS: usize = 100_000;

/// One applied changeset, as a watch sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The version it led to.
    pub version: u64,
    /// The writer's clock when it was made.
    pub at: i64,
    /// What happened, with the objects' `Meta` filled.
    pub events: Vec<Event>,
}

/// What became of a changeset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyOutcome {
    /// It was applied and led to this version.
    Applied {
        /// The new version.
        version: u64,
    },
    /// It was made on another version and is void.
    Stale {
        /// The version it was made on.
        base: u64,
        /// The store's version, unchanged.
        current: u64,
    },
}

/// The asked version is too old (or from another history): take a snapshot and follow from its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Resync {
    /// The ring goes not so far back.
    #[error(
        "the changes since version {asked} are compacted: only those since version {oldest} are known; read all objects again"
    )]
    Compacted {
        /// The version asked for.
        asked: u64,
        /// The oldest that could be resumed from.
        oldest: u64,
    },
    /// The store never got so far.
    #[error(
        "version {asked} is not known here, the newest is {newest}: it is from before the cluster was restored; read all objects \
         again"
    )]
    Future {
        /// The version asked for.
        asked: u64,
        /// The store's version.
        newest: u64,
    },
}

#[derive(Debug, Default)]
struct Ring {
    applied: VecDeque<Arc<Applied>>,
    events: usize,
}

impl Ring {
    fn push(&mut self, applied: Arc<Applied>) {
        self.events += applied.events.len();
        self.applied.push_back(applied);
        while self.applied.len() > 1 && (self.applied.len() > RING_CHANGESETS || self.events > RING_EVENTS) {
            let gone = self.applied.pop_front();
            self.events -= gone.map_or(0, |gone| gone.events.len());
        }
    }
}

impl From<Snapshot> for Store {
    /// A store that begins with these objects, at their version.
    fn from(snapshot: Snapshot) -> Self {
        Self {
            current: ArcSwap::from_pointee(snapshot),
            ring: Mutex::default(),
        }
    }
}

/// All objects, and what happened to them last.
#[derive(Debug, Default)]
pub struct Store {
    current: ArcSwap<Snapshot>,
    ring: Mutex<Ring>,
}

impl Store {
    /// An empty store, version 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Applies a changeset and publishes the snapshot, or leaves all as it is if the changeset was made on another
    /// version. Deterministic.
    pub fn apply(&self, changeset: Changeset) -> ApplyOutcome {
        // Held over read, apply and publish: two writers can't build on one version.
        let mut ring = self.ring();
        let (base, at) = (changeset.base_version, changeset.at);
        let current = self.current.load_full();
        let Ok((next, events)) = current.apply(changeset) else {
            return ApplyOutcome::Stale {
                base,
                current: current.version(),
            };
        };
        let version = next.version();
        ring.push(Arc::new(Applied { version, at, events }));
        self.current.store(Arc::new(next));
        ApplyOutcome::Applied { version }
    }

    /// Publishes what this program's own changeset leads to, as if it were applied, and tells the version; none, and nothing is
    /// done, if the newest snapshot is not the very one that it was made on. The caller has to know that this changeset is the one to be
    /// applied now.
    pub fn publish(&self, made: Made) -> Option<u64> {
        let mut ring = self.ring();
        if !self.current.load().is(&made.base) {
            return None;
        }
        let version = made.next.version();
        let (at, events) = (made.at, made.events);
        ring.push(Arc::new(Applied { version, at, events }));
        self.current.store(Arc::new(made.next));
        Some(version)
    }

    /// What was applied after `version`, oldest first; empty if nothing was.
    ///
    /// # Errors
    /// [`Resync`] if `version` is older than the ring, or newer than the store.
    pub fn changes_since(&self, version: u64) -> Result<Vec<Arc<Applied>>, Resync> {
        let ring = self.ring();
        let current = self.current.load().version();
        let missing = current.checked_sub(version).ok_or(Resync::Future {
            asked: version,
            newest: current,
        })?;
        let known = ring.applied.len();
        let first = usize::try_from(missing)
            .ok()
            .and_then(|missing| known.checked_sub(missing));
        let first = first.ok_or(Resync::Compacted {
            asked: version,
            oldest: current - known as u64,
        })?;
        Ok(ring.applied.range(first..).cloned().collect())
    }

    /// Replaces everything by a snapshot stream of [`codec::encode`]; watchers must resync. Nothing changes on error.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Corrupt`].
    pub fn restore(&self, reader: &mut dyn Read) -> Result<(), Error> {
        let snapshot = codec::decode(reader)?;
        let mut ring = self.ring();
        *ring = Ring::default();
        self.current.store(Arc::new(snapshot));
        Ok(())
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // The ring is consistent at every point where a panic could happen.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
