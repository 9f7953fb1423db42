//! The handle: what the controller holds of the log. Cheap to clone, usable from any task.
//!
//! Every method turns into one event for the node loop and waits for its answer; nothing here decides anything except
//! the waits of [`RaftHandle::promote`] and [`RaftHandle::remove`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::watch;
use bytes::Bytes;
use pontoon_proto::v1;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::connector::Connector;
use crate::error::{MembershipError, ProposeError, ReadError};
use crate::host::{Host, Outlet};
use crate::member::{Leadership, Member, Role, Status};
use crate::node::{Event, MemberChange};
use crate::service::Transfers;
use crate::snapshot::SnapshotStore;

/// Why a member takes part no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// [`RaftHandle::shutdown`] was called.
    Shutdown,
    /// The cluster removed this member.
    Removed,
    /// The disk failed, with what failed.
    Storage(String),
    /// The cluster's state needs a newer program than this one, with why.
    TooOld(String),
}

/// What handle, service and transport share.
pub(crate) struct Shared {
    pub(crate) id: u64,
    pub(crate) node_id: String,
    pub(crate) cluster_id: String,
    pub(crate) max_proposal: usize,
    /// Length of one election timeout: the unit of all waits here.
    pub(crate) election_timeout: Duration,
    pub(crate) events: Outlet<Event>,
    /// Bytes of peer messages in the inbox.
    pub(crate) inbox_bytes: Arc<AtomicUsize>,
    /// A lone voter's state has all that is committed: reads need no event.
    pub(crate) settled: Arc<AtomicBool>,
    /// Bounds the proposals in the inbox.
    pub(crate) permits: Semaphore,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) members: watch::Receiver<Arc<Vec<Member>>>,
    /// Ids that may never come back.
    pub(crate) removed: watch::Receiver<Arc<Vec<u64>>>,
    pub(crate) stopped: watch::Receiver<Option<StopReason>>,
    pub(crate) connector: Arc<dyn Connector>,
    pub(crate) snapshots: Arc<SnapshotStore>,
    /// Snapshots that others send to this member.
    pub(crate) transfers: Transfers,
    pub(crate) host: Host,
    /// Number of the newest stream of each peer; older ones are ignored.
    pub(crate) streams: Mutex<HashMap<u64, u64>>,
    /// Closed when the node loop and all its threads are gone.
    pub(crate) done: watch::Receiver<()>,
}

/// A running member of the raft group. It runs until [`RaftHandle::shutdown`], its removal or a disk failure, also when
/// all handles are dropped.
#[derive(Clone)]
pub struct RaftHandle {
    pub(crate) shared: Arc<Shared>,
}

impl RaftHandle {
    /// Appends an entry; answers with its index once the local state machine has applied it.
    ///
    /// # Errors
    /// See [`ProposeError`]; only `OutcomeUnknown` leaves open whether the entry was accepted.
    pub async fn propose(&self, data: Bytes) -> Result<u64, ProposeError> {
        if data.len() > self.shared.max_proposal {
            return Err(ProposeError::TooLarge {
                size: data.len(),
                max: self.shared.max_proposal,
            });
        }
        let _permit = self
            .shared
            .permits
            .acquire()
            .await
            .map_err(|_| self.stop_error())?;
        let (reply, answer) = oneshot::channel();
        self.shared
            .events
            .send(Event::Propose { data, reply })
            .map_err(|_| self.stop_error())?;
        // The loop answers every reply it took; a dropped one means that it ended in between.
        answer.await.unwrap_or(Err(ProposeError::OutcomeUnknown))
    }

    /// Returns when the local state machine has everything that was committed in the cluster when this was called:
    /// what is read afterwards is linearizable. Works on followers.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        if self.shared.settled.load(Ordering::SeqCst) {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.shared
            .events
            .send(Event::Read { reply })
            .map_err(|_| self.read_stop_error())?;
        answer.await.unwrap_or_else(|_| Err(self.read_stop_error()))
    }

    /// The keyring has a new current key: puts it to use for the next segment and a snapshot, which starts now.
    pub fn key_changed(&self) {
        // A member that has stopped uses the key from its next start on.
        let _ = self.shared.events.send(Event::KeyChanged);
    }

    /// From now on a snapshot is taken after `every` entries (0: as configured), and `old` ones are kept besides the newest. Not remembered over
    /// a restart.
    pub fn set_snapshots(&self, every: u64, old: usize) {
        self.shared.snapshots.set_wishes(every, old);
    }

    /// The way to other members.
    pub(crate) fn connector(&self) -> &dyn Connector {
        &*self.shared.connector
    }

    /// Who leads; changes are seen in order, though one that is replaced at once may be skipped.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.clone()
    }

    /// All members, by raft id.
    pub fn members(&self) -> Vec<Member> {
        self.shared.members.borrow().as_ref().clone()
    }

    /// Raft ids that may never come back, ascending.
    pub fn retired(&self) -> Vec<u64> {
        self.shared.removed.borrow().as_ref().clone()
    }

    /// Changes of the members.
    pub fn members_watch(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        self.shared.members.clone()
    }

    /// Set once when the member stops for whatever reason.
    pub fn stopped(&self) -> watch::Receiver<Option<StopReason>> {
        self.shared.stopped.clone()
    }

    /// Own raft id.
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> &str {
        &self.shared.cluster_id
    }

    /// Adds a member that receives the log but does not count for the quorum. It must be started with
    /// [`crate::Raft::join`]. Leader only.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn add_learner(&self, member: Member) -> Result<(), MembershipError> {
        self.change_members(vec![MemberChange::AddLearner(member)]).await
    }

    /// Waits until a learner has caught up, then makes it a voter. Leader only; nothing happens to a voter.
    ///
    /// # Errors
    /// [`MembershipError::NotCaughtUp`] when it makes no progress for ten election timeouts.
    pub async fn promote(&self, id: u64) -> Result<(), MembershipError> {
        let mut deadline = Instant::now() + self.shared.election_timeout * 10;
        let mut best = 0;
        loop {
            match self.change_members(vec![MemberChange::Promote(id)]).await {
                Err(MembershipError::NotCaughtUp { matched, .. }) if matched > best => {
                    best = matched;
                    deadline = Instant::now() + self.shared.election_timeout * 10;
                }
                Err(MembershipError::NotCaughtUp { .. } | MembershipError::InProgress)
                    if Instant::now() < deadline => {}
                other => return other,
            }
            tokio::time::sleep(self.shared.election_timeout / 10).await;
        }
    }

    /// Makes a voter a learner. Leader only; a leader that demotes itself hands over first and answers `NotLeader`.
    ///
    /// # Errors
    /// See [`MembershipError`]; refuses to lose the quorum.
    pub async fn demote(&self, id: u64) -> Result<(), MembershipError> {
        if id == self.shared.id {
            self.transfer_leadership(None).await?;
        }
        self.change_members(vec![MemberChange::Demote(id)]).await
    }

    /// Removes a member for good. Leader only. A leader that removes itself hands over first and has its successor
    /// remove it.
    ///
    /// # Errors
    /// See [`MembershipError`]; refuses to lose the quorum and to remove the last voter.
    pub async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        if id != self.shared.id {
            return self.change_members(vec![MemberChange::Remove(id)]).await;
        }
        if self
            .members()
            .iter()
            .filter(|m| m.role == Role::Voter)
            .all(|m| m.id == id)
        {
            return Err(MembershipError::LastVoter { id });
        }
        self.transfer_leadership(None).await?;
        let deadline = Instant::now() + self.shared.election_timeout * 10;
        loop {
            match self.leave_through_leader().await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(self.shared.election_timeout / 10).await,
            }
        }
    }

    /// Several changes in one step, through joint consensus when the quorum changes by more than one.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn change_members(&self, changes: Vec<MemberChange>) -> Result<(), MembershipError> {
        let (reply, answer) = oneshot::channel();
        self.shared
            .events
            .send(Event::Change { changes, reply })
            .map_err(|_| self.stop_error())?;
        answer
            .await
            .unwrap_or(Err(MembershipError::Propose(ProposeError::OutcomeUnknown)))
    }

    /// Hands leadership to a voter, or to the one that is furthest; returns when another leads. Nothing happens on a
    /// member that does not lead.
    ///
    /// # Errors
    /// [`MembershipError::TransferFailed`] when nobody took over within two election timeouts.
    pub async fn transfer_leadership(&self, to: Option<u64>) -> Result<(), MembershipError> {
        let (reply, answer) = oneshot::channel();
        self.shared
            .events
            .send(Event::Transfer { to, reply })
            .map_err(|_| self.stop_error())?;
        answer
            .await
            .unwrap_or(Err(MembershipError::TransferFailed { to }))
    }

    /// The member's raft numbers; `None` when it has stopped.
    pub async fn status(&self) -> Option<Status> {
        let (reply, answer) = oneshot::channel();
        self.shared.events.send(Event::Status { reply }).ok()?;
        answer.await.ok()
    }

    /// Hands leadership over if this member leads and somebody can take it, makes the log durable, ends all threads.
    /// Returns when they are gone. May be called more than once.
    pub async fn shutdown(&self) {
        // A send that fails says that the loop has ended already; the wait below holds either way.
        let _ = self.shared.events.send(Event::Shutdown);
        let mut done = self.shared.done.clone();
        while done.changed().await.is_ok() {}
    }

    /// Asks the present leader to remove this member.
    async fn leave_through_leader(&self) -> Result<(), MembershipError> {
        let leader = self.shared.leadership.borrow().leader.clone();
        let unreachable = MembershipError::Propose(ProposeError::NotLeader {
            leader: leader.clone(),
        });
        let Some(leader) = leader.filter(|l| l.id != self.shared.id) else {
            return Err(unreachable);
        };
        let Ok(channel) = self.shared.connector.connect(&leader).await else {
            return Err(unreachable);
        };
        let request = v1::RaftLeaveRequest {
            node_id: self.shared.node_id.clone(),
        };
        match v1::raft_client::RaftClient::new(channel).leave(request).await {
            Ok(_) => Ok(()),
            Err(status) => {
                tracing::info!(leader = leader.id, %status, "the leader did not remove this member");
                Err(unreachable)
            }
        }
    }

    /// What a proposal is told when the loop has ended.
    pub(crate) fn stop_error(&self) -> ProposeError {
        match &*self.shared.stopped.borrow() {
            Some(StopReason::Storage(reason)) => ProposeError::Storage {
                reason: reason.clone(),
            },
            _ => ProposeError::ShuttingDown,
        }
    }

    fn read_stop_error(&self) -> ReadError {
        match &*self.shared.stopped.borrow() {
            Some(StopReason::Storage(reason)) => ReadError::Storage {
                reason: reason.clone(),
            },
            _ => ReadError::ShuttingDown,
        }
    }
}
