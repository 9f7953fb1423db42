//! The entries in memory: raft's view of what is on, or on its way to, the disk.
//!
//! Owned by the core. Entries are put here when they are handed to the log thread; raft learns separately when they are
//! durable. Memory is bounded by the snapshot interval, in entries and bytes.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::members::names;
use crate::wal::Image;

/// Bytes that an entry takes on the wire beyond its data.
const ENTRY_OVERHEAD: u64 = 48;

/// The log in memory.
pub(crate) struct MemLog {
    entries: VecDeque<Entry>,
    /// Index and term before the first entry.
    compacted: (u64, u64),
    hard_state: HardState,
    conf_state: ConfState,
    /// Metadata of the newest durable snapshot, members in `data`; no state.
    snapshot: Option<Snapshot>,
    /// A peer needs a snapshot that names it, and the newest one does not.
    wanted: Cell<bool>,
}

impl MemLog {
    /// The view of a replayed log.
    pub(crate) fn new(image: &Image) -> Self {
        let snapshot = image.marker.as_ref().map(|marker| {
            let mut snapshot = Snapshot {
                data: marker.members.clone(),
                ..Snapshot::default()
            };
            let metadata = snapshot.mut_metadata();
            metadata.index = marker.index;
            metadata.term = marker.term;
            metadata.conf_state = Some(marker.conf_state.clone());
            snapshot
        });
        Self {
            entries: image.entries.iter().cloned().collect(),
            compacted: image.compacted,
            hard_state: image.hard_state.clone(),
            conf_state: image
                .marker
                .as_ref()
                .map(|m| m.conf_state.clone())
                .unwrap_or_default(),
            snapshot,
            wanted: Cell::new(false),
        }
    }

    /// Whether a new snapshot has been wanted since this was last asked.
    pub(crate) fn take_wanted(&self) -> bool {
        self.wanted.take()
    }

    pub(crate) fn first(&self) -> u64 {
        self.compacted.0 + 1
    }

    pub(crate) fn last(&self) -> u64 {
        self.compacted.0 + self.entries.len() as u64
    }

    /// Takes entries from raft's ready; a conflicting suffix goes.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let keep = first.index.saturating_sub(self.first()) as usize;
        self.entries.truncate(keep);
        self.entries.extend(entries.iter().cloned());
    }

    pub(crate) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    pub(crate) fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// The log begins anew behind a snapshot from the leader.
    pub(crate) fn install(&mut self, snapshot: Snapshot) {
        let metadata = snapshot.get_metadata();
        self.entries.clear();
        self.compacted = (metadata.index, metadata.term);
        self.conf_state = metadata.get_conf_state().clone();
        self.snapshot = Some(snapshot);
    }

    /// Remembers a local snapshot file as the one to send to those who are too far behind.
    pub(crate) fn set_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
    }

    pub(crate) fn snapshot_index(&self) -> u64 {
        self.snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.get_metadata().index)
    }

    /// Forgets the entries up to `index`; returns its term.
    pub(crate) fn compact(&mut self, index: u64) -> Option<u64> {
        let count = index.checked_sub(self.compacted.0)? as usize;
        let term = self.entries.get(count.checked_sub(1)?)?.term;
        self.entries.drain(..count);
        self.compacted = (index, term);
        Some(term)
    }

    /// Highest index at or below `index` behind which at most `bytes` of entries lie.
    pub(crate) fn bounded_tail(&self, index: u64, newest: u64, bytes: u64) -> u64 {
        let (mut at, mut size) = (newest, 0);
        while at > index {
            size += self
                .entry(at)
                .map_or(0, |entry| entry.data.len() as u64 + ENTRY_OVERHEAD);
            if size > bytes {
                return at;
            }
            at -= 1;
        }
        index
    }

    fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(index.checked_sub(self.first())? as usize)
    }
}

impl Storage for MemLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState {
            hard_state: self.hard_state.clone(),
            conf_state: self.conf_state.clone(),
        })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let max = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let range = (low - self.first()) as usize..(high - self.first()) as usize;
        let fits = |entry: &&Entry| {
            let first = size == 0;
            size += entry.data.len() as u64 + ENTRY_OVERHEAD;
            first || size <= max
        };
        Ok(self.entries.range(range).take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.compacted.0 {
            return Ok(self.compacted.1);
        }
        if index < self.compacted.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        self.entry(index)
            .map(|entry| entry.term)
            .ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // A member that was added since the snapshot was taken would refuse it: its configuration must name the receiver.
        let fits = |snapshot: &&Snapshot| {
            let metadata = snapshot.get_metadata();
            metadata.index >= request_index && names(metadata.get_conf_state(), to)
        };
        match self.snapshot.as_ref().filter(fits) {
            Some(snapshot) => Ok(snapshot.clone()),
            None => {
                self.wanted.set(true);
                Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}
