//! What the raft thread is told: one inbox for peers, users, the disk and the apply thread.
//!
//! Sent by the handle, the transport, the log writer and the apply thread; consumed by the node loop alone.

use bytes::Bytes;
use raft::eraftpb::Message;
use tokio::sync::oneshot;

use crate::error::{MembershipError, ProposeError, ReadError};
use crate::member::{Member, Status};
use crate::snapshot::SnapshotMeta;

/// Answer to a proposal: the index of its entry.
pub(crate) type ProposeReply = oneshot::Sender<Result<u64, ProposeError>>;
/// Answer to a read request.
pub(crate) type ReadReply = oneshot::Sender<Result<(), ReadError>>;
/// Answer to a membership change.
pub(crate) type ChangeReply = oneshot::Sender<Result<(), MembershipError>>;

/// One step of a membership change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// Add as a learner.
    AddLearner(Member),
    /// Make a learner a voter.
    Promote(u64),
    /// Make a voter a learner.
    Demote(u64),
    /// Remove for good.
    Remove(u64),
}

/// An input of the node loop.
pub(crate) enum Event {
    /// Checked messages from one peer, in order, and their size in bytes.
    Peer { messages: Vec<Message>, bytes: usize },
    /// A peer that is no member as far as this one knows says where it is reached.
    Stranger(Member),
    /// A proposal.
    Propose { data: Bytes, reply: ProposeReply },
    /// A linearizable read wants an index.
    Read { reply: ReadReply },
    /// A membership change.
    Change {
        changes: Vec<MemberChange>,
        reply: ChangeReply,
    },
    /// Hand leadership to this member, or to the best one.
    Transfer { to: Option<u64>, reply: ChangeReply },
    /// The log writer has everything up to this job on disk.
    Persisted { number: u64 },
    /// The disk failed.
    DiskFailed { reason: String },
    /// The state machine can't read what is in the log.
    TooOld { reason: String },
    /// New files are to be sealed with another key.
    KeyChanged,
    /// The state machine is at this index, whose entry has this term.
    Applied { index: u64, term: u64 },
    /// A local snapshot was written, or could not be.
    SnapshotTaken(Option<SnapshotMeta>),
    /// A peer could not be reached.
    Unreachable { id: u64 },
    /// A snapshot transfer has ended.
    SnapshotSent { to: u64, ok: bool },
    /// A peer says that this member is not one any more.
    Removed,
    /// Numbers wanted.
    Status { reply: oneshot::Sender<Status> },
    /// Stop in good order.
    Shutdown,
}
