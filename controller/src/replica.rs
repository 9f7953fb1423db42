//! The store behind the replicated log: what each committed entry does on every manager.
//!
//! Owned here: the only calls of `Store::apply` and `Store::publish`, the version that watchers wait on, and the fate of each entry by its
//! index (for the writer). Called by the log's apply thread; read by everybody.
//!
//! The leader's writer knows what its entry leads to before that is in the log. It says so here; if the entry with these very bytes is the
//! next one to be applied, that is published instead of being worked out a second time. Any other entry voids it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pontoon_proto::v1::Changeset;
use pontoon_raft::watch;
use pontoon_raft::{SnapshotWriter, StateMachine};
use pontoon_store::{ApplyOutcome, Event, FORMAT, Kind, Made, Snapshot, Store, codec};
use prost::Message;
use tracing::error;

/// Fates remembered; the writer asks for its entry's right after the log has answered.
const MAX_OUTCOMES: usize = 1024;

/// The replicated state as this manager has it.
pub(crate) struct Replica {
    store: Store,
    version: watch::Sender<u64>,
    outcomes: Mutex<VecDeque<(u64, ApplyOutcome)>>,
    /// The writer's entry, and what it leads to.
    expected: Mutex<Option<(Bytes, Made)>>,
    /// When the newest entry was made, by the clock of the leader that made it.
    newest: AtomicI64,
}

impl Replica {
    pub(crate) fn new() -> Arc<Self> {
        Self::of(Snapshot::default())
    }

    /// A replica that begins with this state.
    pub(crate) fn of(snapshot: Snapshot) -> Arc<Self> {
        let (version, newest) = (snapshot.version(), newest_in(&snapshot));
        Arc::new(Self {
            store: Store::from(snapshot),
            version: watch::channel(version).0,
            outcomes: Mutex::default(),
            expected: Mutex::default(),
            newest: AtomicI64::new(newest),
        })
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.store.snapshot()
    }

    /// When the newest entry was made: nanoseconds since the epoch, by the cluster's time.
    pub(crate) fn newest(&self) -> i64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// Wakes at each new version. After a snapshot from the leader the number may be any.
    pub(crate) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// What became of the entry at `index`; `None` when it was no changeset or is long past.
    pub(crate) fn outcome(&self, index: u64) -> Option<ApplyOutcome> {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes
            .iter()
            .rev()
            .find(|(at, _)| *at == index)
            .map(|(_, outcome)| *outcome)
    }

    /// True when a node or the cluster was written after `seen` (or that is no longer known): for tasks that need not
    /// look at all nodes at each status report. `seen` goes on to what was looked at, so that nothing is looked at twice.
    pub(crate) fn nodes_changed_since(&self, seen: &mut u64) -> bool {
        let concerns = |event: &Event| matches!(event.object().kind(), Kind::Node | Kind::Cluster);
        match self.store.changes_since(*seen) {
            Ok(changes) => {
                *seen = changes.last().map_or(*seen, |applied| applied.version);
                changes.iter().flat_map(|applied| &applied.events).any(concerns)
            }
            Err(_) => true,
        }
    }

    /// The writer is about to propose this entry, and knows what it leads to.
    pub(crate) fn expect(&self, entry: Bytes, made: Made) {
        *self.expected() = Some((entry, made));
    }

    /// The writer's entry did not come to be; should it yet, it is applied like others.
    pub(crate) fn expect_nothing(&self) {
        *self.expected() = None;
    }

    fn expected(&self) -> MutexGuard<'_, Option<(Bytes, Made)>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, index: u64, data: &[u8]) {
        let expected = self.expected().take();
        let made = expected.filter(|(entry, _)| entry == data).map(|(_, made)| made);
        let outcome = match made.map(|made| (made.at(), self.store.publish(made))) {
            Some((at, Some(version))) => {
                self.newest.fetch_max(at, Ordering::Relaxed);
                Some(ApplyOutcome::Applied { version })
            }
            _ => self.decode_and_apply(index, data),
        };
        let Some(outcome) = outcome else { return };
        {
            let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            outcomes.push_back((index, outcome));
            if outcomes.len() > MAX_OUTCOMES {
                outcomes.pop_front();
            }
        }
        if let ApplyOutcome::Applied { version } = outcome {
            self.version.send_replace(version);
        }
    }

    fn decode_and_apply(&self, index: u64, data: &[u8]) -> Option<ApplyOutcome> {
        // The same bytes fail in the same way on every manager, so skipping them keeps the states equal.
        let changeset = match Changeset::decode(data) {
            Ok(changeset) => changeset,
            Err(error) => {
                error!(index, %error, "an entry of the log is no changeset; skipped");
                return None;
            }
        };
        self.newest.fetch_max(changeset.at, Ordering::Relaxed);
        Some(self.store.apply(changeset))
    }
}

/// A changeset's format without all the rest, which is only skipped.
#[derive(Clone, PartialEq, prost::Message)]
struct FormatOf {
    #[prost(uint32, tag = "4")]
    format: u32,
}

/// The log's side of a [`Replica`].
pub(crate) struct Machine(pub(crate) Arc<Replica>);

impl StateMachine for Machine {
    fn apply(&mut self, index: u64, data: &[u8]) {
        self.0.apply(index, data);
    }

    fn refuses(&self, data: &[u8]) -> Option<String> {
        // What does not decode at all is skipped by every manager alike, see `apply`.
        let format = FormatOf::decode(data).ok()?.format;
        (format > FORMAT).then(|| pontoon_store::Error::Newer { format }.to_string())
    }

    fn snapshot(&self) -> Box<dyn SnapshotWriter + Send> {
        Box::new(Pinned(self.0.snapshot()))
    }

    fn restore(&mut self, reader: &mut dyn Read) -> io::Result<()> {
        self.0.store.restore(reader).map_err(io::Error::other)?;
        let snapshot = self.0.snapshot();
        self.0.newest.fetch_max(newest_in(&snapshot), Ordering::Relaxed);
        let version = snapshot.version();
        self.0.version.send_replace(version);
        Ok(())
    }
}

/// When the newest object was written.
fn newest_in(snapshot: &Snapshot) -> i64 {
    let nodes = snapshot.nodes().map(|object| &object.meta);
    let services = snapshot.services().map(|object| &object.meta);
    let tasks = snapshot.tasks().map(|object| &object.meta);
    let times = nodes
        .chain(services)
        .chain(tasks)
        .flatten()
        .map(|meta| meta.updated_at);
    times.max().unwrap_or(0)
}

/// A state that is written as it is.
pub(crate) struct Pinned(pub(crate) Arc<Snapshot>);

impl SnapshotWriter for Pinned {
    fn write(self: Box<Self>, writer: &mut dyn Write) -> io::Result<()> {
        codec::encode(&self.0, writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changeset_of_a_newer_format_is_refused_and_others_are_not() {
        let machine = Machine(Replica::new());
        let entry = |format| {
            Changeset {
                base_version: 3,
                at: 7,
                format,
                ..Changeset::default()
            }
            .encode_to_vec()
        };
        assert_eq!(machine.refuses(&entry(0)), None);
        assert_eq!(machine.refuses(&entry(FORMAT)), None);
        let reason = machine.refuses(&entry(FORMAT + 1)).expect("refused");
        assert!(reason.contains("upgrade this manager"), "{reason}");
        // Skipped by all alike.
        assert_eq!(machine.refuses(b"no changeset"), None);
    }
}
