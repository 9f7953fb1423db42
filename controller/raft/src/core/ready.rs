//! Takes raft's readies apart: what goes to the disk, to the peers, to the state machine, and in which order.

use prost_raft::Message as _;
use raft::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, MessageType,
};

use super::{Committed, Core, Output, Pending};
use crate::members::Members;
use crate::snapshot::SnapshotMeta;
use crate::wal::{Marker, PersistJob, Record};

impl Core {
    pub(super) fn take_ready(&mut self) {
        let mut ready = self.node.ready();
        let at_once = ready.take_messages();
        for read in ready.take_read_states() {
            self.out.push(Output::ReadReady {
                context: read.request_ctx,
                index: read.index,
            });
        }
        let committed = ready.take_committed_entries();
        let mut messages = ready.take_persisted_messages();
        let vote = ready.hs().map_or(self.vote, |state| (state.term, state.vote));
        let (number, sync) = (ready.number(), ready.must_sync());
        let state = ready.hs().cloned();
        let snapshot = Some(ready.snapshot().clone()).filter(|snapshot| !snapshot.is_empty());
        // Term and vote first: entries of a term that the vote does not know must not be found after a torn write. The commit index last:
        // where the entries that it speaks of are torn off, there may be others in their place that nobody has agreed on.
        let mut records = Vec::new();
        if let Some(state) = state.as_ref().filter(|_| vote != self.vote) {
            records.push(Record::HardState(HardState {
                commit: self.commit,
                ..state.clone()
            }));
        }
        if let Some(snapshot) = &snapshot {
            let metadata = snapshot.get_metadata();
            records.push(Record::Snapshot(Marker {
                index: metadata.index,
                term: metadata.term,
                conf_state: metadata.get_conf_state().clone(),
                members: snapshot.data.clone(),
                reset: true,
            }));
            self.node.mut_store().install(snapshot.clone());
        }
        let entries = ready.take_entries();
        // raft must find the entries here before it is told that they are on their way.
        self.node.mut_store().append(&entries);
        records.extend(entries.into_iter().map(Record::Entry));
        if let Some(state) = state.filter(|state| state.commit != self.commit) {
            self.commit = state.commit;
            records.push(Record::HardState(state));
        }
        self.node.advance_append_async(ready);

        let job = if records.is_empty() {
            0
        } else {
            self.submit(records, sync)
        };
        if vote != self.vote {
            (self.vote, self.vote_job) = (vote, job);
        }
        // A leader's messages need not wait for the disk, but its term must be there: a lone voter leads without having
        // asked anybody, and after a crash it would lead the same term again with other entries.
        if self.vote_job > self.durable_job {
            messages.splice(..0, at_once);
        } else {
            self.out.extend(at_once.into_iter().map(Output::Send));
            // The answer to a heartbeat promises the term alone, which is durable: a read does not wait for entries on their way.
            let is_beat = |message: &Message| message.get_msg_type() == MessageType::MsgHeartbeatResponse;
            let (beats, others) = messages.into_iter().partition(is_beat);
            messages = others;
            self.out.extend(Vec::into_iter(beats).map(Output::Send));
        }
        if let Some(snapshot) = snapshot {
            self.installing = Some((job, snapshot));
        }
        self.apply(committed);
        if sync || !self.pending.is_empty() {
            // A commit index alone waits for no sync of its own, but keeps its place behind those that do.
            let job = if sync { job } else { 0 };
            self.pending.push_back(Pending {
                job,
                ready: Some(number),
                messages,
                obsolete: None,
            });
        } else {
            self.node.on_persist_ready(number);
            self.out.extend(messages.into_iter().map(Output::Send));
        }
    }

    pub(super) fn submit(&mut self, records: Vec<Record>, sync: bool) -> u64 {
        let number = self.next_job;
        self.next_job += 1;
        self.out.push(Output::Persist(PersistJob {
            number,
            records,
            sync,
        }));
        number
    }

    /// The leader's snapshot is durable: only now may it be applied.
    pub(super) fn installed(&mut self) {
        let Some((_, snapshot)) = self.installing.take() else {
            return;
        };
        let metadata = snapshot.get_metadata().clone();
        self.node.advance_apply_to(metadata.index);
        self.members = Members::decode(&snapshot.data).unwrap_or_default();
        self.out.push(Output::Restore(SnapshotMeta {
            index: metadata.index,
            term: metadata.term,
            conf_state: metadata.conf_state.unwrap_or_default(),
            members: snapshot.data,
        }));
        self.out.push(Output::Obsolete {
            below: metadata.index,
        });
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        let Some(last) = entries.last().map(|entry| entry.index) else {
            return;
        };
        let mut committed = Vec::with_capacity(entries.len());
        for entry in entries {
            let conf = match entry.get_entry_type() {
                EntryType::EntryNormal => None,
                EntryType::EntryConfChange => {
                    // Ours are all of the second kind; this is the same in the old form.
                    let change = ConfChange::decode(entry.data.as_slice()).unwrap_or_default();
                    let mut single = ConfChangeSingle {
                        node_id: change.node_id,
                        ..ConfChangeSingle::default()
                    };
                    single.set_change_type(change.get_change_type());
                    let context = change.context;
                    self.apply_change(&ConfChangeV2 {
                        changes: vec![single],
                        context,
                        ..ConfChangeV2::default()
                    })
                }
                EntryType::EntryConfChangeV2 => {
                    self.apply_change(&ConfChangeV2::decode(entry.data.as_slice()).unwrap_or_default())
                }
            };
            let data = if entry.get_entry_type() == EntryType::EntryNormal {
                entry.data
            } else {
                Vec::new()
            };
            committed.push(Committed {
                index: entry.index,
                term: entry.term,
                nonce: entry.context,
                data,
                conf,
            });
        }
        // The state machine follows on its own thread; what raft must know of these entries, it knows now.
        self.node.advance_apply_to(last);
        self.out.push(Output::Apply(committed));
    }

    /// Takes a committed change of the members in. One that does not fit is refused by every member alike.
    fn apply_change(&mut self, change: &ConfChangeV2) -> Option<(ConfState, Vec<u8>)> {
        match self.node.apply_conf_change(change) {
            Ok(conf) => {
                self.node.mut_store().set_conf_state(conf.clone());
                let added = Members::decode(&change.context).unwrap_or_default();
                self.members.apply(&added, &conf);
                Some((conf, self.members.encode()))
            }
            Err(error) => {
                tracing::warn!(%error, "a committed membership change does not fit and was skipped");
                None
            }
        }
    }
}
