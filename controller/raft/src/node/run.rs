//! The raft thread: one loop that takes events, drives the core, and hands its outputs out.
//!
//! It never waits for a disk, a peer or the state machine, so heartbeats go out on time whatever those do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::watch;
use tokio::time::Instant;

use super::apply::{ApplyJob, Waiter};
use super::event::{ChangeReply, Event, MemberChange, ProposeReply};
use super::reads::Reads;
use super::ticks::Ticks;
use crate::core::{Committed, Core, Nonce, Output};
use crate::error::{MembershipError, ProposeError, ReadError};
use crate::handle::StopReason;
use crate::host::{Inbox, Next, Outlet};
use crate::member::{Leadership, Member};
use crate::transport::Transport;
use crate::wal::Committer;

/// Events handled in one turn before the core is polled.
const MAX_EVENTS: usize = 1024;

/// What the loop publishes.
pub(super) struct Published {
    pub(super) leadership: watch::Sender<Leadership>,
    pub(super) members: watch::Sender<Arc<Vec<Member>>>,
    pub(super) removed: watch::Sender<Arc<Vec<u64>>>,
    pub(super) stopped: watch::Sender<Option<StopReason>>,
}

/// A leadership transfer that somebody waits for.
struct Transfer {
    to: Option<u64>,
    replies: Vec<ChangeReply>,
    deadline: u64,
}

/// The raft thread's state.
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) core: Core,
    pub(super) inbox: Inbox<Event>,
    pub(super) inbox_bytes: Arc<AtomicUsize>,
    pub(super) committer: Committer,
    pub(super) apply: Outlet<ApplyJob>,
    pub(super) transport: Transport,
    pub(super) published: Published,
    pub(super) tick: Duration,
    pub(super) election_ticks: u64,
    pub(super) reads: Reads,
    /// See [`Core::is_settled`]; readers look at it.
    pub(super) settled: Arc<AtomicBool>,
    pub(super) progress: Progress,
}

/// What changes while the loop runs.
pub(super) struct Progress {
    waiters: BTreeMap<Nonce, Waiter>,
    proposals: Vec<(Nonce, Vec<u8>, ProposeReply)>,
    transfer: Option<Transfer>,
    /// Index and term that the state machine has reached.
    applied: (u64, u64),
    now: u64,
    /// Random part of this process's nonces.
    boot: u64,
    counter: u64,
    /// Term in which this member leads.
    leading: Option<u64>,
    stop: Option<StopReason>,
    /// A snapshot is wanted once this index is applied.
    snapshot_at: Option<u64>,
    /// Shutdown was asked for; the loop ends at this tick at the latest.
    shutdown_by: Option<u64>,
}

impl Progress {
    pub(super) fn new(applied: (u64, u64), boot: u64) -> Self {
        Self {
            waiters: BTreeMap::new(),
            proposals: Vec::new(),
            transfer: None,
            applied,
            now: 0,
            boot,
            counter: 0,
            leading: None,
            stop: None,
            snapshot_at: None,
            shutdown_by: None,
        }
    }

    fn nonce(&mut self) -> Nonce {
        self.counter += 1;
        let mut nonce = Nonce::default();
        nonce[..8].copy_from_slice(&self.boot.to_be_bytes());
        nonce[8..].copy_from_slice(&self.counter.to_be_bytes());
        nonce
    }
}

impl Node {
    /// Runs until the member is shut down, removed, or its disk fails.
    pub(super) async fn run(mut self) {
        let mut ticks = Ticks::new(self.tick, Instant::now());
        self.publish(true);
        while self.progress.stop.is_none() {
            let wake_at = ticks.wake_at(self.due_in());
            let first = self.inbox.next_until(wake_at).await;
            self.count(ticks.before_events(Instant::now()));
            match first {
                Next::Value(event) => self.take_events(event),
                Next::Timeout => {}
                // The apply thread holds a sender, so this is only met while everything is being torn down.
                Next::Closed => self.progress.stop = Some(StopReason::Shutdown),
            }
            self.count(ticks.after_events(Instant::now()));
            self.turn();
        }
        self.finish().await;
    }

    /// Ticks until something is due here or in the core.
    fn due_in(&mut self) -> u64 {
        let progress = &self.progress;
        let counts = progress.transfer.is_some() || progress.shutdown_by.is_some() || !self.reads.is_empty();
        if counts { 1 } else { self.core.due_in() }
    }

    fn take_events(&mut self, first: Event) {
        self.handle(first);
        for _ in 1..MAX_EVENTS {
            let Some(event) = self.inbox.try_next() else {
                return;
            };
            self.handle(event);
        }
    }

    fn count(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.core.tick();
            self.progress.now += 1;
            self.reads.tick(self.progress.now);
            self.tick_transfer();
            if self.progress.now.is_multiple_of(self.election_ticks) {
                self.publish(true);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Peer { messages, bytes } => {
                self.inbox_bytes.fetch_sub(bytes, Ordering::AcqRel);
                for message in messages {
                    self.core.step(message);
                }
            }
            Event::Stranger(stranger) => {
                let members = self.core.member_list();
                if !members.iter().any(|member| member.id == stranger.id) {
                    self.transport.introduce(stranger, &members);
                }
            }
            Event::Propose { data, reply } => {
                let nonce = self.progress.nonce();
                self.progress.proposals.push((nonce, data.into(), reply));
            }
            Event::Read { reply } => self.reads.add(reply, self.progress.now),
            Event::Change { changes, reply } => self.change(&changes, reply),
            Event::Transfer { to, reply } => self.start_transfer(to, reply),
            Event::Persisted { number } => {
                self.core.persisted(number);
                if let Some(at) = self.core.old_key_needed_to() {
                    self.progress.snapshot_at = Some(at);
                    self.snapshot_when_due();
                }
            }
            Event::DiskFailed { reason } => {
                tracing::error!(
                    reason,
                    "the raft log's disk failed; this member stops taking part"
                );
                self.progress.stop = Some(StopReason::Storage(reason));
            }
            Event::TooOld { reason } => {
                tracing::error!(reason, "this member can't go on and stops");
                self.progress.stop = Some(StopReason::TooOld(reason));
            }
            Event::KeyChanged => self.core.key_changed(),
            Event::Applied { index, term } => {
                self.progress.applied = (index, term);
                self.snapshot_when_due();
            }
            Event::SnapshotTaken(meta) => {
                if let Some(meta) = meta {
                    self.core.snapshot_saved(meta);
                }
            }
            Event::Unreachable { id } => self.core.report_unreachable(id),
            Event::SnapshotSent { to, ok } => self.core.report_snapshot(to, ok),
            Event::Removed => self.progress.stop = Some(StopReason::Removed),
            Event::Status { reply } => drop(reply.send(self.core.status(self.progress.applied.0))),
            Event::Shutdown => self.start_shutdown(),
        }
    }

    /// Feeds what was collected to the core and hands its outputs out.
    fn turn(&mut self) {
        self.flush_proposals();
        let mut members_changed = false;
        loop {
            self.request_reads();
            let outputs = self.core.poll();
            // Cleared before anybody can learn of what is committed by now.
            self.settle();
            let answered = outputs
                .iter()
                .any(|output| matches!(output, Output::ReadReady { .. }));
            members_changed |= self.hand_out(outputs);
            if !answered {
                break;
            }
            // The reads that gathered meanwhile have their turn, also if nothing else happens.
        }
        self.publish(members_changed);
    }

    fn request_reads(&mut self) {
        let (progress, core) = (&mut self.progress, &mut self.core);
        let now = progress.now;
        self.reads.request(
            now,
            || progress.nonce().to_vec(),
            |context| core.read_index(context),
        );
    }

    /// Tells readers whether they need to ask at all.
    fn settle(&self) {
        let settled = self.core.is_settled(self.progress.applied.0);
        if self.settled.load(Ordering::Relaxed) != settled {
            self.settled.store(settled, Ordering::SeqCst);
        }
    }

    /// True if the members may have changed.
    fn hand_out(&mut self, outputs: Vec<Output>) -> bool {
        let mut members_changed = false;
        for output in outputs {
            match output {
                Output::Send(message) => self.transport.send(message),
                Output::Persist(job) => self.committer.submit(job),
                Output::Apply(entries) => {
                    if entries.iter().any(|entry| entry.conf.is_some()) {
                        // Whoever asked for the change looks at the members as soon as he is answered.
                        self.publish_members();
                        members_changed = true;
                    }
                    let entries = entries.into_iter().map(|entry| self.with_waiter(entry)).collect();
                    self.to_apply(ApplyJob::Entries(entries));
                }
                Output::Restore(meta) => {
                    members_changed = true;
                    self.to_apply(ApplyJob::Restore(meta));
                }
                Output::ReadReady { context, index } => {
                    let replies = self.reads.take(&context);
                    if index > self.progress.applied.0 {
                        self.to_apply(ApplyJob::Barrier { index, replies });
                    } else {
                        replies.into_iter().for_each(|reply| drop(reply.send(Ok(()))));
                    }
                }
                Output::SnapshotWanted => self.to_apply(ApplyJob::Snapshot),
                Output::Obsolete { below } => self.to_apply(ApplyJob::Obsolete { below }),
            }
        }
        members_changed
    }

    /// Asks for the snapshot that a new key wants, once the state is far enough.
    fn snapshot_when_due(&mut self) {
        let applied = self.progress.applied.0;
        if self.progress.snapshot_at.take_if(|at| *at <= applied).is_some() {
            self.to_apply(ApplyJob::Snapshot);
        }
    }

    fn to_apply(&self, job: ApplyJob) {
        // The apply thread only ends early when a restore failed, and has said so by then.
        let _ = self.apply.send(job);
    }

    fn with_waiter(&mut self, entry: Committed) -> (Committed, Option<Waiter>) {
        let waiter = Nonce::try_from(entry.nonce.as_slice())
            .ok()
            .and_then(|n| self.progress.waiters.remove(&n));
        (entry, waiter)
    }

    fn flush_proposals(&mut self) {
        if self.progress.proposals.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.progress.proposals);
        if !self.core.is_leader() {
            let leader = self.core.leader();
            for (_, _, reply) in batch {
                let _ = reply.send(Err(ProposeError::NotLeader {
                    leader: leader.clone(),
                }));
            }
            return;
        }
        let (mut entries, mut replies) = (Vec::new(), Vec::new());
        for (nonce, data, reply) in batch {
            entries.push((nonce, data));
            replies.push((nonce, reply));
        }
        if self.core.propose(entries) {
            let waiters = replies
                .into_iter()
                .map(|(nonce, reply)| (nonce, Waiter::Propose(reply)));
            self.progress.waiters.extend(waiters);
        } else {
            for (_, reply) in replies {
                let _ = reply.send(Err(ProposeError::Busy));
            }
        }
    }

    fn change(&mut self, changes: &[MemberChange], reply: ChangeReply) {
        self.flush_proposals();
        let nonce = self.progress.nonce();
        match self.core.propose_change(nonce, changes) {
            Ok(true) => drop(self.progress.waiters.insert(nonce, Waiter::Change(reply))),
            Ok(false) => drop(reply.send(Ok(()))),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn start_transfer(&mut self, to: Option<u64>, reply: ChangeReply) {
        if !self.core.is_leader() || to == Some(self.id) {
            let _ = reply.send(Ok(()));
            return;
        }
        self.flush_proposals();
        let Some(chosen) = self.core.transfer(to) else {
            let _ = reply.send(Err(MembershipError::TransferFailed { to }));
            return;
        };
        tracing::info!(to = chosen, "handing leadership over");
        let deadline = self.progress.now + 2 * self.election_ticks;
        let transfer = self.progress.transfer.get_or_insert(Transfer {
            to,
            replies: Vec::new(),
            deadline,
        });
        transfer.replies.push(reply);
    }

    fn tick_transfer(&mut self) {
        let led_by_other = !self.core.is_leader() && self.core.leader_id() != 0;
        let now = self.progress.now;
        if let Some(transfer) = self
            .progress
            .transfer
            .take_if(|t| led_by_other || t.deadline <= now)
        {
            for reply in transfer.replies {
                let failed = MembershipError::TransferFailed { to: transfer.to };
                let _ = reply.send(if led_by_other { Ok(()) } else { Err(failed) });
            }
        }
        if let Some(by) = self.progress.shutdown_by
            && (!self.core.is_leader() || by <= now)
        {
            self.progress.stop = Some(StopReason::Shutdown);
        }
    }

    fn start_shutdown(&mut self) {
        self.flush_proposals();
        // Without a hand-over the others would wait for an election timeout.
        let Some(to) = self.core.transfer(None) else {
            self.progress.stop = Some(StopReason::Shutdown);
            return;
        };
        if self.progress.shutdown_by.is_none() {
            tracing::info!(to, "handing leadership over");
            self.progress.shutdown_by = Some(self.progress.now + self.election_ticks);
        }
    }

    /// Tells what has changed; `members` says that the members may have.
    fn publish(&mut self, members: bool) {
        let (leads, term) = (self.core.is_leader(), self.core.term());
        let leading = leads.then_some(term);
        let changed = self.progress.leading != leading;
        if changed {
            // Proposals of an earlier term may still be committed by the next leader, or be overwritten.
            self.fail_waiters(&ProposeError::OutcomeUnknown);
            self.progress.leading = leading;
        }
        if members || changed {
            self.publish_members();
        }
        let has_all = self.progress.applied.1 == term;
        #[cfg(feature = "planted-bugs")]
        let has_all =
            has_all || pontoon_proto::planted::is_planted(pontoon_proto::planted::Bug::ForgetVersion);
        let is_leader = leads && has_all;
        let leader = self.core.leader_id();
        self.published.leadership.send_if_modified(|now| {
            let same = now.term == term
                && now.is_leader == is_leader
                && now.leader.as_ref().map_or(0, |l| l.id) == leader;
            if same && !members {
                return false;
            }
            let next = Leadership {
                term,
                leader: self.core.leader(),
                is_leader,
            };
            let modified = *now != next;
            *now = next;
            modified
        });
    }

    fn publish_members(&mut self) {
        let list = self.core.member_list();
        self.transport.update(&list);
        if **self.published.members.borrow() != list {
            self.published.members.send_replace(Arc::new(list));
        }
        let removed = self.core.members().removed();
        if **self.published.removed.borrow() != removed {
            self.published.removed.send_replace(Arc::new(removed));
        }
        if self.core.members().is_removed(self.id) {
            self.progress.stop = Some(StopReason::Removed);
        }
    }

    fn fail_waiters(&mut self, error: &ProposeError) {
        for waiter in std::mem::take(&mut self.progress.waiters).into_values() {
            match waiter {
                Waiter::Propose(reply) => drop(reply.send(Err(error.clone()))),
                Waiter::Change(reply) => drop(reply.send(Err(error.clone().into()))),
            }
        }
    }

    /// Answers everybody, then ends the threads in order.
    async fn finish(mut self) {
        let reason = self.progress.stop.take().unwrap_or(StopReason::Shutdown);
        tracing::info!(?reason, "the raft member stops");
        self.settled.store(false, Ordering::SeqCst);
        let read_error = match &reason {
            StopReason::Storage(reason) => ReadError::Storage {
                reason: reason.clone(),
            },
            _ => ReadError::ShuttingDown,
        };
        let refused = match &reason {
            StopReason::Storage(reason) => ProposeError::Storage {
                reason: reason.clone(),
            },
            _ => ProposeError::ShuttingDown,
        };
        self.published.stopped.send_replace(Some(reason));
        self.published.leadership.send_modify(|l| {
            l.leader = None;
            l.is_leader = false;
        });
        self.fail_waiters(&ProposeError::OutcomeUnknown);
        self.reads.fail(&read_error);
        if let Some(transfer) = self.progress.transfer.take() {
            let stopped = self.core.leader_id() != self.id;
            for reply in transfer.replies {
                let failed = MembershipError::TransferFailed { to: transfer.to };
                let _ = reply.send(if stopped { Ok(()) } else { Err(failed) });
            }
        }
        self.committer.stop().await;
        while let Some(event) = self.inbox.try_next() {
            match event {
                Event::Propose { reply, .. } => drop(reply.send(Err(refused.clone()))),
                Event::Read { reply } => drop(reply.send(Err(read_error.clone()))),
                Event::Change { reply, .. } => drop(reply.send(Err(refused.clone().into()))),
                Event::Transfer { to, reply } => {
                    drop(reply.send(Err(MembershipError::TransferFailed { to })));
                }
                _ => {}
            }
        }
    }
}
