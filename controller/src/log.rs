//! The replicated log as the controller sees it: an ordered list of opaque entries that every manager applies, who leads, and
//! who takes part.
//!
//! The embedded raft log is one; an external etcd can be another. Everything in this crate works on [`ReplicatedLog`], so both
//! give the same Control API. Held by [`crate::core::Core`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pontoon_raft::watch;
use pontoon_raft::{
    Leadership, Member, MemberChange, MembershipError, PeerProgress, ProposeError, RaftHandle, ReadError,
    StopReason,
};

/// An ordered log that all managers share. Entries are applied by the [`pontoon_raft::StateMachine`] that it was opened with.
#[tonic::async_trait]
pub(crate) trait ReplicatedLog: Send + Sync + 'static {
    /// Appends an entry; answers with its index once the local state machine has applied it. Leader only.
    async fn propose(&self, data: Bytes) -> Result<u64, ProposeError>;
    /// Returns when the local state machine has everything that was committed anywhere when this was called.
    async fn read_barrier(&self) -> Result<(), ReadError>;
    /// Who leads; changes are seen in order.
    fn leadership(&self) -> watch::Receiver<Leadership>;
    /// All members, by id.
    fn members(&self) -> Vec<Member>;
    /// Changes of the members.
    fn members_watch(&self) -> watch::Receiver<Arc<Vec<Member>>>;
    /// Set once when this member takes part no more.
    fn stopped(&self) -> watch::Receiver<Option<StopReason>>;
    /// Own member id.
    fn id(&self) -> u64;
    /// Lets a member that has caught up count for the quorum; refused until it has. Leader only.
    async fn promote(&self, id: u64) -> Result<(), MembershipError>;
    /// For how long nothing was heard of members, where the log can tell; on the leader.
    async fn silences(&self) -> Vec<(u64, Duration)>;
    /// Ids of members that may never come back.
    fn retired(&self) -> Vec<u64>;
    /// Takes a member out for good. Leader only; a leader that removes itself hands over first.
    async fn remove(&self, id: u64) -> Result<(), MembershipError>;
    /// Hands leadership to another member. Nothing happens on a member that does not lead.
    async fn transfer_leadership(&self, to: Option<u64>) -> Result<(), MembershipError>;
    /// Bytes that an entry should not exceed, where the log asks for less than the writer's own limit.
    fn entry_budget(&self) -> Option<usize> {
        None
    }
    /// Whether the members are the ones that a decision needs a majority of.
    fn keeps_quorum(&self) -> bool {
        true
    }
    /// Removes what the last member leaves behind elsewhere than on its own disk, when it goes for good.
    async fn erase(&self) -> Result<(), MembershipError> {
        Ok(())
    }
    /// Whether this member's disk holds what the cluster's unlock key can lock.
    fn seals(&self) -> bool {
        true
    }
    /// The data key that seals its files on this disk is another. Nothing happens where it has none.
    fn key_changed(&self) {}
    /// Whether each member takes snapshots of its own.
    fn has_snapshots(&self) -> bool {
        false
    }
    /// Takes a snapshot after `every` entries (0: its default) and keeps `old` ones, where it takes any.
    fn set_snapshots(&self, _every: u64, _old: usize) {}
    /// Hands leadership over if this member leads, and ends. May be called more than once.
    async fn shutdown(&self);
}

#[tonic::async_trait]
impl ReplicatedLog for RaftHandle {
    async fn propose(&self, data: Bytes) -> Result<u64, ProposeError> {
        RaftHandle::propose(self, data).await
    }

    async fn read_barrier(&self) -> Result<(), ReadError> {
        RaftHandle::read_barrier(self).await
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        RaftHandle::leadership(self)
    }

    fn members(&self) -> Vec<Member> {
        RaftHandle::members(self)
    }

    fn members_watch(&self) -> watch::Receiver<Arc<Vec<Member>>> {
        RaftHandle::members_watch(self)
    }

    fn stopped(&self) -> watch::Receiver<Option<StopReason>> {
        RaftHandle::stopped(self)
    }

    fn id(&self) -> u64 {
        RaftHandle::id(self)
    }

    async fn promote(&self, id: u64) -> Result<(), MembershipError> {
        self.change_members(vec![MemberChange::Promote(id)]).await
    }

    async fn silences(&self) -> Vec<(u64, Duration)> {
        let peers = self.status().await.map(|status| status.peers).unwrap_or_default();
        let silence = |peer: PeerProgress| Some((peer.id, peer.silent_for?));
        peers.into_iter().filter_map(silence).collect()
    }

    fn retired(&self) -> Vec<u64> {
        RaftHandle::retired(self)
    }

    async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        RaftHandle::remove(self, id).await
    }

    async fn transfer_leadership(&self, to: Option<u64>) -> Result<(), MembershipError> {
        RaftHandle::transfer_leadership(self, to).await
    }

    fn key_changed(&self) {
        RaftHandle::key_changed(self);
    }

    fn has_snapshots(&self) -> bool {
        true
    }

    fn set_snapshots(&self, every: u64, old: usize) {
        RaftHandle::set_snapshots(self, every, old);
    }

    async fn shutdown(&self) {
        RaftHandle::shutdown(self).await;
    }
}
