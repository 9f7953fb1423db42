//! What a log amounts to: the records of all segments, replayed in order.
//!
//! Used when a member starts, and by the tests as the model of what must have survived.

use raft::eraftpb::{Entry, HardState};

use super::record::{Marker, Record};

/// The replayed log.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Image {
    /// Entries behind `compacted`, without gaps.
    pub(crate) entries: Vec<Entry>,
    /// Index and term of the last entry that is gone from the log.
    pub(crate) compacted: (u64, u64),
    /// Term, vote, commit.
    pub(crate) hard_state: HardState,
    /// The newest durable snapshot.
    pub(crate) marker: Option<Marker>,
    /// Whom to talk to before the first snapshot has come.
    pub(crate) peers: Option<Vec<u8>>,
}

impl Image {
    /// Index of the last entry, or of the last one that is gone.
    pub(crate) fn last_index(&self) -> u64 {
        self.entries.last().map_or(self.compacted.0, |entry| entry.index)
    }

    /// Takes one record in; what does not fit is told.
    pub(crate) fn replay(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Entry(entry) => self.replay_entry(entry)?,
            Record::HardState(state) => self.hard_state = state,
            Record::Snapshot(marker) => {
                if marker.reset {
                    self.entries.clear();
                    self.compacted = (marker.index, marker.term);
                }
                self.marker = Some(marker);
            }
            Record::Compact { index, term } => {
                if index > self.compacted.0 {
                    self.entries.retain(|entry| entry.index > index);
                    self.compacted = (index, term);
                }
            }
            Record::Peers(peers) => self.peers = Some(peers),
        }
        Ok(())
    }

    fn replay_entry(&mut self, entry: Entry) -> Result<(), String> {
        if entry.index <= self.compacted.0 {
            return Ok(());
        }
        match self.entries.first().map(|first| first.index) {
            // Segments that only held entries before a compaction are gone, so the first one found may be later than the
            // compaction known so far; `finish` checks that a later record closes the gap.
            None => self.entries.clear(),
            Some(first) if entry.index < first => self.entries.clear(),
            Some(first) => {
                let keep = (entry.index - first) as usize;
                if keep > self.entries.len() {
                    return Err(format!(
                        "entry {} follows entry {}",
                        entry.index,
                        self.last_index()
                    ));
                }
                self.entries.truncate(keep);
            }
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Checks the whole and brings `commit` into the range that exists: it is written without a sync, and a torn batch
    /// may have lost the entries that it spoke of.
    pub(crate) fn finish(&mut self) -> Result<(), String> {
        if let Some(first) = self.entries.first()
            && first.index != self.compacted.0 + 1
        {
            return Err(format!(
                "entries {} to {} are missing",
                self.compacted.0 + 1,
                first.index - 1
            ));
        }
        let snapshot = self.marker.as_ref().map_or(0, |marker| marker.index);
        if self.last_index() < snapshot || self.compacted.0 > snapshot {
            return Err(format!(
                "the log covers {} to {}, which does not join the snapshot at {snapshot}",
                self.compacted.0 + 1,
                self.last_index()
            ));
        }
        self.hard_state.commit = self.hard_state.commit.clamp(snapshot, self.last_index());
        Ok(())
    }
}
