//! The apply thread: the only one that touches the state machine.
//!
//! Fed by the node loop in log order; answers proposals and reads, and decides when to take a snapshot. Snapshots are
//! written by a thread of their own from a pinned state.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::event::{ChangeReply, Event, ProposeReply, ReadReply};
use super::paced::Paced;
use crate::core::Committed;
use crate::error::{Error, MembershipError};
use crate::host::{Host, Inbox, Outlet, Running};
use crate::snapshot::{SnapshotMeta, SnapshotStore};
use crate::state_machine::StateMachine;

/// Who waits for an entry.
pub(super) enum Waiter {
    Propose(ProposeReply),
    Change(ChangeReply),
}

/// Work of the apply thread.
pub(super) enum ApplyJob {
    /// Committed entries with those who wait for them.
    Entries(Vec<(Committed, Option<Waiter>)>),
    /// Replace the state by this snapshot.
    Restore(SnapshotMeta),
    /// Answer these reads once `index` is applied.
    Barrier { index: u64, replies: Vec<ReadReply> },
    /// Take a snapshot now, if there is anything new.
    Snapshot,
    /// Remove the snapshot files below this index.
    Obsolete { below: u64 },
}

/// Bytes of entries after which a snapshot is taken however large the state is: they are in memory until then, and a start replays them.
const MOST_FOR_STATE: u64 = 256 << 20;

/// When snapshots are taken.
pub(super) struct SnapshotPolicy {
    pub(super) every: u64,
    pub(super) bytes: u64,
}

/// The apply thread's state.
pub(super) struct Applier<S> {
    host: Host,
    state: S,
    /// What the state machine contains; the configuration is that of this index.
    at: SnapshotMeta,
    snapshots: Arc<SnapshotStore>,
    events: Outlet<Event>,
    policy: SnapshotPolicy,
    /// Index of the last snapshot, and bytes applied since.
    last_snapshot: u64,
    bytes: u64,
    /// Bytes of the state in the newest snapshot written here.
    state_bytes: Arc<AtomicU64>,
    barriers: BTreeMap<u64, Vec<ReadReply>>,
    writing: Arc<AtomicBool>,
    writer: Option<Running>,
    /// The snapshot that is being written need not be considerate any more: its end is waited for.
    hurry: Arc<AtomicBool>,
}

impl<S: StateMachine> Applier<S> {
    /// An applier whose state is that of the snapshot `at`.
    pub(super) fn new(
        host: &Host,
        state: S,
        at: SnapshotMeta,
        snapshots: Arc<SnapshotStore>,
        events: Outlet<Event>,
        policy: SnapshotPolicy,
    ) -> Self {
        Self {
            host: host.clone(),
            state,
            last_snapshot: at.index,
            at,
            snapshots,
            events,
            policy,
            bytes: 0,
            state_bytes: Arc::default(),
            barriers: BTreeMap::new(),
            writing: Arc::new(AtomicBool::new(false)),
            writer: None,
            hurry: Arc::default(),
        }
    }

    /// Works until the node loop drops its end.
    pub(super) async fn run(mut self, mut jobs: Inbox<ApplyJob>) {
        while let Some(job) = jobs.next().await {
            match job {
                ApplyJob::Entries(entries) => {
                    if let Err(reason) = self.apply(entries) {
                        let _ = self.events.send(Event::TooOld { reason });
                        return;
                    }
                }
                ApplyJob::Restore(meta) => {
                    if let Err(error) = self.restore(meta) {
                        let reason = describe(&error);
                        tracing::error!(%error, "could not restore the leader's snapshot");
                        let _ = self.events.send(Event::DiskFailed { reason });
                        return;
                    }
                }
                ApplyJob::Barrier { index, replies } => {
                    self.barriers.entry(index).or_default().extend(replies);
                }
                ApplyJob::Snapshot => self.take_snapshot(),
                ApplyJob::Obsolete { below } => self.snapshots.remove_below(below),
            }
            self.answer_reads();
            self.maybe_snapshot();
        }
        if let Some(writer) = self.writer.take() {
            self.hurry.store(true, Ordering::Relaxed);
            writer.ended().await;
        }
    }

    /// Applies entries; an error says why this program can't.
    fn apply(&mut self, entries: Vec<(Committed, Option<Waiter>)>) -> Result<(), String> {
        for (entry, waiter) in entries {
            if !entry.data.is_empty() {
                if let Some(reason) = self.state.refuses(&entry.data) {
                    return Err(format!("entry {}: {reason}", entry.index));
                }
                self.host.applied(entry.index, &entry.data);
                self.state.apply(entry.index, &entry.data);
                #[cfg(feature = "planted-bugs")]
                if pontoon_proto::planted::is_planted(pontoon_proto::planted::Bug::ApplyTwice) {
                    self.host.applied(entry.index, &entry.data);
                    self.state.apply(entry.index, &entry.data);
                }
            }
            self.bytes += entry.data.len() as u64;
            (self.at.index, self.at.term) = (entry.index, entry.term);
            let changed = entry.conf.is_some();
            if let Some((conf_state, members)) = entry.conf {
                (self.at.conf_state, self.at.members) = (conf_state, members);
            }
            // A caller that has gone away is no concern of ours.
            match waiter {
                Some(Waiter::Propose(reply)) => drop(reply.send(Ok(entry.index))),
                Some(Waiter::Change(reply)) => {
                    drop(reply.send(if changed {
                        Ok(())
                    } else {
                        Err(MembershipError::InProgress)
                    }));
                }
                None => {}
            }
        }
        self.report();
        Ok(())
    }

    fn restore(&mut self, meta: SnapshotMeta) -> Result<(), Error> {
        let file = self.snapshots.open(meta.index, meta.term)?;
        let restore = |source| Error::Restore {
            path: file.path().to_owned(),
            source,
        };
        self.state
            .restore(&mut file.reader().map_err(restore)?)
            .map_err(restore)?;
        self.last_snapshot = meta.index;
        self.bytes = 0;
        self.at = meta;
        self.report();
        Ok(())
    }

    fn report(&self) {
        // The loop may have ended; then nobody asks any more.
        let _ = self.events.send(Event::Applied {
            index: self.at.index,
            term: self.at.term,
        });
    }

    fn answer_reads(&mut self) {
        while let Some(first) = self.barriers.first_entry()
            && *first.key() <= self.at.index
        {
            for reply in first.remove() {
                let _ = reply.send(Ok(()));
            }
        }
    }

    fn maybe_snapshot(&mut self) {
        let every = self.snapshots.every().unwrap_or(self.policy.every);
        // A large state is not written anew for each small part that changes: what snapshots cost stays in proportion to what is written.
        let state = self.state_bytes.load(Ordering::Relaxed).min(MOST_FOR_STATE);
        let bytes = self.policy.bytes.max(state);
        if self.at.index - self.last_snapshot >= every || self.bytes >= bytes {
            self.take_snapshot();
        }
    }

    /// Starts to write a snapshot, unless one is being written or there is nothing new.
    fn take_snapshot(&mut self) {
        if self.at.index == self.last_snapshot || self.writing.swap(true, Ordering::AcqRel) {
            return;
        }
        let (meta, pinned) = (self.at.clone(), self.state.snapshot());
        let (store, events, writing) = (self.snapshots.clone(), self.events.clone(), self.writing.clone());
        self.last_snapshot = meta.index;
        self.bytes = 0;
        let (host, state_bytes, hurry) = (self.host.clone(), self.state_bytes.clone(), self.hurry.clone());
        let started = self.host.start("raft-snapshot", async move {
            host.disk_pause().await;
            let mut size = 0;
            let fill = |inner: &mut dyn Write| {
                let mut paced = Paced::new(&host, &hurry, inner);
                let written = pinned.write(&mut paced);
                size = paced.written();
                written
            };
            let taken = match store.write(&meta, fill) {
                Ok(()) => {
                    state_bytes.store(size, Ordering::Relaxed);
                    Some(meta)
                }
                Err(error) => {
                    tracing::error!(
                        error = describe(&error),
                        "could not write a snapshot; the log keeps growing until the next try"
                    );
                    None
                }
            };
            let _ = events.send(Event::SnapshotTaken(taken));
            writing.store(false, Ordering::Release);
        });
        match started {
            Ok(running) => {
                if let Some(before) = self.writer.replace(running) {
                    // It has cleared its flag, so it is at its very end.
                    before.join();
                }
            }
            Err(error) => {
                tracing::error!(error = describe(&error), "could not take a snapshot");
                self.writing.store(false, Ordering::Release);
            }
        }
    }
}

/// An error with its causes, for a log line or an answer.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
