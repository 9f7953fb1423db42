//! Raft without I/O, clock or threads: inputs are method calls with values, outputs are values.
//!
//! Driven by the node loop and, in tests, by the simulation. It owns the order in which things may happen: messages of a
//! follower wait for the disk, a snapshot is durable before it is applied, configuration changes take effect in the
//! order of the log. Traps of the library that it guards against are named where they are met.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use raft::eraftpb::{ConfState, Entry, Message, MessageType, Snapshot};
use raft::{RawNode, ReadOnlyOption, SnapshotStatus, StateRole};

use crate::config::Config;
use crate::error::Error;
use crate::log::MemLog;
use crate::member::{Member, PeerProgress, Status};
use crate::members::Members;
use crate::snapshot::SnapshotMeta;
use crate::wal::{Image, Marker, PersistJob, Record};

mod change;
mod guard;
mod logger;
mod ready;
/// What decides between two who would campaign at the same time; above 0.
fn rank(id: u64) -> i64 {
    id.cast_signed().saturating_abs().max(1)
}

#[cfg(test)]
mod tests;

/// Largest append message in bytes of entries (one larger entry goes alone).
const MAX_APPEND: u64 = 1 << 20;
/// Append messages to one peer that are not answered yet.
const MAX_INFLIGHT: usize = 256;
/// Bytes proposed and not committed; more is refused as busy.
const MAX_UNCOMMITTED: u64 = 64 << 20;
/// Bytes of committed entries handed to the apply thread at once.
const MAX_APPLY: u64 = 16 << 20;

/// Names a proposal across the cluster: a random number of the proposer's process, and a counter.
pub(crate) type Nonce = [u8; 16];

/// Something that the core wants done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send to the peer `to`. A `MsgSnapshot` names the snapshot whose file goes along.
    Send(Message),
    /// Make durable, in order; report with [`Core::persisted`].
    Persist(PersistJob),
    /// Apply committed entries in order.
    Apply(Vec<Committed>),
    /// Restore the state from this snapshot file, which is durable.
    Restore(SnapshotMeta),
    /// The read with this context may be served once `index` is applied.
    ReadReady { context: Vec<u8>, index: u64 },
    /// Take a snapshot soon: a new member needs one that names it.
    SnapshotWanted,
    /// Snapshot files below this index are not needed any more.
    Obsolete { below: u64 },
}

/// A committed entry.
#[derive(Debug, Clone)]
pub(crate) struct Committed {
    pub(crate) index: u64,
    pub(crate) term: u64,
    /// The proposal's nonce; empty for raft's own entries.
    pub(crate) nonce: Vec<u8>,
    /// Proposed data; empty for raft's own entries and configuration changes.
    pub(crate) data: Vec<u8>,
    /// The configuration and the encoded members from this entry on, if it changed them.
    pub(crate) conf: Option<(ConfState, Vec<u8>)>,
}

/// What waits for a job.
struct Pending {
    /// Number of the job; 0 when nothing had to be written.
    job: u64,
    /// Number of raft's ready, if the job came from one.
    ready: Option<u64>,
    messages: Vec<Message>,
    /// The job is a local snapshot's marker: older files go when it is durable.
    obsolete: Option<u64>,
}

/// One member's raft.
pub(crate) struct Core {
    id: u64,
    node: RawNode<MemLog>,
    members: Members,
    pending: VecDeque<Pending>,
    next_job: u64,
    /// Term and vote that were last given to the disk, and the job that did so.
    vote: (u64, u64),
    vote_job: u64,
    /// The commit index that was last given to the disk.
    commit: u64,
    /// Highest job that is durable.
    durable_job: u64,
    /// A snapshot from the leader is on its way to the disk: with the job's number.
    installing: Option<(u64, Snapshot)>,
    out: Vec<Output>,
    keep_entries: u64,
    keep_bytes: u64,
    ticks: u64,
    /// When each peer was heard last, in ticks. raft's own `recent_active` is cleared at every quorum check and would
    /// make healthy peers look dead for a moment.
    heard: HashMap<u64, u64>,
    election_ticks: u64,
    /// The next snapshot from this index on leaves no entries behind it, whose segments have an old key.
    shorten_at: Option<u64>,
    /// The job that begins a segment with a new key.
    rekeyed: Option<u64>,
    /// Length of a tick.
    tick: Duration,
    /// Decides the election timeouts of a simulated member.
    election_seed: Option<u64>,
}

impl Core {
    /// A core over a replayed log. `election` is for tests: it pins the randomised
    /// election timeout, which raft draws from a generator that can't be seeded.
    pub(crate) fn new(config: &Config, image: &Image, election: Option<usize>) -> Result<Self, Error> {
        let blob = image
            .marker
            .as_ref()
            .map(|marker| &marker.members)
            .or(image.peers.as_ref());
        let members = blob.and_then(|blob| Members::decode(blob)).unwrap_or_default();
        let raft_config = raft::Config {
            id: config.id,
            election_tick: election.unwrap_or(config.election_ticks),
            max_election_tick: election.map_or(0, |ticks| ticks + 1),
            heartbeat_tick: config.heartbeat_ticks,
            applied: image.marker.as_ref().map_or(0, |marker| marker.index),
            max_size_per_msg: MAX_APPEND,
            max_inflight_msgs: MAX_INFLIGHT,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            batch_append: true,
            max_uncommitted_size: MAX_UNCOMMITTED,
            max_committed_size_per_ready: MAX_APPLY,
            ..raft::Config::default()
        };
        let node = RawNode::new(&raft_config, MemLog::new(image), &logger::logger())
            .map_err(|error| Error::Raft(Box::new(error)))?;
        Ok(Self {
            id: config.id,
            node,
            members,
            pending: VecDeque::new(),
            next_job: 1,
            vote: (image.hard_state.term, image.hard_state.vote),
            vote_job: 0,
            commit: image.hard_state.commit,
            durable_job: 0,
            installing: None,
            out: Vec::new(),
            keep_entries: config.keep_entries,
            keep_bytes: config.snapshot_bytes,
            ticks: 0,
            heard: HashMap::new(),
            election_ticks: config.election_ticks as u64,
            shorten_at: None,
            rekeyed: None,
            tick: config.tick,
            election_seed: config.host.election_seed(),
        })
    }

    /// One tick of time.
    pub(crate) fn tick(&mut self) {
        self.ticks += 1;
        self.pin_election();
        let raft = &self.node.raft;
        // Campaigning between the arrival of a snapshot and its durability would slice the log before its beginning; and
        // a lone voter that wins with entries still on their way to the disk would trip an assertion. Both are fatal.
        let due = raft.election_elapsed + 1 >= raft.randomized_election_timeout();
        let unsettled = self.installing.is_some() || raft.raft_log.persisted < raft.raft_log.last_index();
        if raft.state != StateRole::Leader && due && unsettled {
            return;
        }
        // For the requests, should this tick begin an election.
        self.node.raft.set_priority(rank(self.id));
        self.node.tick();
    }

    /// Ticks until the one that does something; those before it only count.
    pub(crate) fn due_in(&mut self) -> u64 {
        self.pin_election();
        let raft = &self.node.raft;
        let due = if self.is_leader() {
            let beat = raft.heartbeat_timeout().saturating_sub(raft.heartbeat_elapsed());
            beat.min(raft.election_timeout().saturating_sub(raft.election_elapsed))
        } else {
            raft.randomized_election_timeout()
                .saturating_sub(raft.election_elapsed)
        };
        due.max(1) as u64
    }

    /// raft draws its election timeout anew at each change of role or term, from a generator that can't be seeded: in a
    /// simulation the seed, the term and the role decide it.
    fn pin_election(&mut self) {
        let Some(seed) = self.election_seed else { return };
        let raft = &mut self.node.raft;
        let mut mixed = seed ^ raft.term.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ raft.state as u64;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let spread = (mixed ^ (mixed >> 31)) % self.election_ticks;
        raft.set_randomized_election_timeout((self.election_ticks + spread) as usize);
    }

    /// Starts an election now, for the first member of a cluster that would otherwise wait for its time-out.
    pub(crate) fn campaign(&mut self) {
        self.node.raft.set_priority(rank(self.id));
        if let Err(error) = self.node.campaign() {
            tracing::debug!(%error, "could not campaign");
        }
    }

    /// A checked message from a peer. What can't be taken now is dropped: raft repeats itself.
    pub(crate) fn step(&mut self, message: Message) {
        self.heard.insert(message.from, self.ticks);
        if self.installing.is_some() {
            return;
        }
        let Some(message) = self.guard(message) else {
            return;
        };
        self.settle_rivalry(&message);
        if let Err(error) = self.node.step(message) {
            tracing::debug!(%error, "a raft message was ignored");
        }
    }

    /// Of members with equal logs who ask at the same time whether they may campaign the one with the higher rank refuses the other, and
    /// has the other's consent: without ranks each would then vote for itself, and a whole time-out pass for nothing. Where logs
    /// differ they alone decide: a member that refused a better log for its rank would have no consent from it either. Whoever does
    /// not ask himself has no rank to compare, and a vote in earnest goes to whoever asks first.
    fn settle_rivalry(&mut self, message: &Message) {
        let raft = &mut self.node.raft;
        let asks = message.get_msg_type() == MessageType::MsgRequestPreVote;
        let log = (raft.raft_log.last_index(), raft.raft_log.last_term());
        let are_rivals =
            asks && raft.state == StateRole::PreCandidate && log == (message.index, message.log_term);
        // Requests that this message makes us send bear the rank as well.
        let is_vote = asks || message.get_msg_type() == MessageType::MsgRequestVote;
        raft.set_priority(if is_vote && !are_rivals { 0 } else { rank(self.id) });
    }

    /// Appends proposals to the leader's log, all or none. False: nothing was appended, try again later.
    pub(crate) fn propose(&mut self, proposals: Vec<(Nonce, Vec<u8>)>) -> bool {
        // Checked here because a follower would forward them, and forwarded proposals may commit twice.
        if !self.is_leader() {
            return false;
        }
        let entry = |(nonce, data): (Nonce, Vec<u8>)| Entry {
            data,
            context: nonce.to_vec(),
            ..Entry::default()
        };
        let mut message = Message {
            from: self.id,
            ..Message::default()
        };
        message.set_msg_type(MessageType::MsgPropose);
        message.entries = proposals.into_iter().map(entry).collect();
        self.node.step(message).is_ok()
    }

    /// Asks for an index at which a read with this context is linearizable. False: ask again later. Requests may be lost.
    pub(crate) fn read_index(&mut self, context: Vec<u8>) -> bool {
        let raft = &self.node.raft;
        // A leader that has committed nothing in its term drops the request without a word, and so does a follower
        // without a leader.
        let ready = if self.is_leader() {
            raft.commit_to_current_term()
        } else {
            raft.leader_id != 0
        };
        if ready && self.installing.is_none() {
            self.node.read_index(context);
            return true;
        }
        false
    }

    /// Whether a read needs nobody's word: this member leads as the only voter, so nothing is committed without it, and
    /// its state machine, which is at `applied`, has all that is.
    pub(crate) fn is_settled(&self, applied: u64) -> bool {
        let raft = &self.node.raft;
        self.is_leader()
            && raft.prs().is_singleton()
            && raft.commit_to_current_term()
            && raft.raft_log.committed <= applied
    }

    /// All jobs up to this number are durable.
    pub(crate) fn persisted(&mut self, number: u64) {
        self.durable_job = self.durable_job.max(number);
        while self.pending.front().is_some_and(|p| p.job <= number) {
            let Some(pending) = self.pending.pop_front() else {
                return;
            };
            if let Some(ready) = pending.ready {
                self.node.on_persist_ready(ready);
            }
            if self
                .installing
                .as_ref()
                .is_some_and(|(job, _)| *job == pending.job)
            {
                self.installed();
            }
            self.out.extend(pending.messages.into_iter().map(Output::Send));
            self.out
                .extend(pending.obsolete.map(|below| Output::Obsolete { below }));
        }
    }

    /// A local snapshot file is durable: write its marker, and shorten the log.
    pub(crate) fn snapshot_saved(&mut self, meta: SnapshotMeta) {
        let log = self.node.store();
        if self.installing.is_some() || meta.index <= log.snapshot_index() || meta.index > log.last() {
            return;
        }
        // A peer that is loading a snapshot will want the entries behind it, or it would need another one at once.
        let loading = self
            .node
            .raft
            .prs()
            .iter()
            .map(|(_, p)| p.pending_snapshot)
            .filter(|&index| index > 0)
            .min();
        let shorten = self.shorten_at.take_if(|at| meta.index >= *at).is_some();
        let keep = if shorten { 0 } else { self.keep_entries };
        let wanted = meta.index.saturating_sub(keep).min(loading.unwrap_or(u64::MAX));
        let to = log.bounded_tail(wanted.max(log.first() - 1), meta.index, self.keep_bytes);
        let mut snapshot = Snapshot {
            data: meta.members.clone(),
            ..Snapshot::default()
        };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (meta.index, meta.term);
        metadata.conf_state = Some(meta.conf_state.clone());
        let log = self.node.mut_store();
        log.set_snapshot(snapshot);
        let marker = Marker {
            index: meta.index,
            term: meta.term,
            conf_state: meta.conf_state,
            members: meta.members,
            reset: false,
        };
        let mut records = vec![Record::Snapshot(marker)];
        if let Some(term) = log.compact(to) {
            records.push(Record::Compact { index: to, term });
        }
        let obsolete = Some(meta.index);
        let job = self.submit(records, true);
        self.pending.push_back(Pending {
            job,
            ready: None,
            messages: Vec::new(),
            obsolete,
        });
    }

    /// New segments have another key: begins one.
    pub(crate) fn key_changed(&mut self) {
        self.rekeyed = Some(self.submit(Vec::new(), true));
    }

    /// Told once, when the segment with the new key is there: the index from which on a snapshot makes the old ones unnecessary.
    pub(crate) fn old_key_needed_to(&mut self) -> Option<u64> {
        self.rekeyed.take_if(|job| *job <= self.durable_job)?;
        // What was written together with the change is in the old segment too, so all that is known by now counts.
        let last = self.node.store().last();
        self.shorten_at = Some(last);
        Some(last)
    }

    /// A message to this peer was lost.
    pub(crate) fn report_unreachable(&mut self, id: u64) {
        self.node.report_unreachable(id);
    }

    /// A snapshot transfer to this peer has ended; without this the peer would stay in snapshot state for ever.
    pub(crate) fn report_snapshot(&mut self, id: u64, ok: bool) {
        self.node.report_snapshot(
            id,
            if ok {
                SnapshotStatus::Finish
            } else {
                SnapshotStatus::Failure
            },
        );
    }

    /// Everything that has to be done now.
    pub(crate) fn poll(&mut self) -> Vec<Output> {
        // While a snapshot is on its way to the disk nothing may follow it: applying up to it is fatal before that.
        while self.installing.is_none() && self.node.has_ready() {
            self.take_ready();
        }
        if self.node.store().take_wanted() {
            self.out.push(Output::SnapshotWanted);
        }
        std::mem::take(&mut self.out)
    }

    /// Whether the peer was heard within two election timeouts.
    fn is_active(&self, id: u64) -> bool {
        id == self.id
            || self
                .heard
                .get(&id)
                .is_some_and(|at| at + 2 * self.election_ticks >= self.ticks)
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    pub(crate) fn term(&self) -> u64 {
        self.node.raft.term
    }

    pub(crate) fn leader_id(&self) -> u64 {
        self.node.raft.leader_id
    }

    /// The members; on the leader with who answers lately.
    pub(crate) fn member_list(&self) -> Vec<Member> {
        let reachable = |id| !self.is_leader() || self.is_active(id);
        self.members.list(self.node.store().conf_state(), reachable)
    }

    pub(crate) fn members(&self) -> &Members {
        &self.members
    }

    pub(crate) fn status(&self, applied: u64) -> Status {
        let (raft, log) = (&self.node.raft, self.node.store());
        let peer = |(&id, progress): (&u64, &raft::Progress)| PeerProgress {
            id,
            matched: progress.matched,
            in_snapshot: progress.state == raft::ProgressState::Snapshot,
            recent_active: self.is_active(id),
            silent_for: self
                .heard
                .get(&id)
                .map(|at| self.tick * u32::try_from(self.ticks - at).unwrap_or(u32::MAX)),
        };
        Status {
            id: self.id,
            term: raft.term,
            leader_id: raft.leader_id,
            committed: raft.raft_log.committed,
            applied,
            first_index: log.first(),
            last_index: raft.raft_log.last_index(),
            snapshot_index: log.snapshot_index(),
            peers: if self.is_leader() {
                raft.prs().iter().map(peer).collect()
            } else {
                Vec::new()
            },
        }
    }
}
