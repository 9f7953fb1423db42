//! The crate's errors: opening and running a member, proposing, reading, changing the membership.
//!
//! Callers switch on the variants; the controller turns them into gRPC codes.

use std::io;
use std::path::PathBuf;

use crate::member::Member;
use crate::seal::KeyId;

/// Why a member could not be opened, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is wrong.
    #[error("raft configuration: {what}")]
    Config {
        /// Which setting and why.
        what: &'static str,
    },
    /// A file operation failed.
    #[error("{op} {path}", path = path.display())]
    Io {
        /// What was tried, e.g. "sync".
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The folder is in use by another process.
    #[error("raft folder {path} is in use by another process; stop it first", path = path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// A new member was to be made in a folder that already holds one.
    #[error("raft folder {path} already holds a log; open it, or remove the folder to start anew", path = path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// An existing member was to be opened in a folder that has none.
    #[error("raft folder {path} holds no log; join a cluster or initialise a new one", path = path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// The files belong to another cluster or member.
    #[error("{path} belongs to {found}, not to {expected}; give the right data folder", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Cluster and member in the file.
        found: String,
        /// Cluster and member in the configuration.
        expected: String,
    },
    /// A log segment is damaged where a crash can't have damaged it.
    #[error("log segment {segment} is damaged at offset {offset}: {reason}; {CORRUPT_ADVICE}", segment = segment.display())]
    CorruptLog {
        /// The segment file.
        segment: PathBuf,
        /// Byte offset of the damaged record.
        offset: u64,
        /// What does not fit.
        reason: String,
    },
    /// A snapshot file is damaged or missing.
    #[error("snapshot {path} is unusable: {reason}; {CORRUPT_ADVICE}", path = path.display())]
    CorruptSnapshot {
        /// The snapshot file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A file is sealed with a key that the member does not have.
    #[error("{path} is sealed with data key {key}, which this manager does not have; put its key file back, or {CORRUPT_ADVICE}", path = path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// Name of the key.
        key: KeyId,
    },
    /// The state machine refused a snapshot.
    #[error("restore the state from snapshot {path}", path = path.display())]
    Restore {
        /// The snapshot file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The raft library refused to start with this state.
    #[error("start raft")]
    Raft(#[source] Box<raft::Error>),
    /// A thread could not be started.
    #[error("start the thread {name}")]
    Thread {
        /// Name of the thread.
        name: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// What an operator does about damaged files: the other members hold the data.
const CORRUPT_ADVICE: &str = "the other managers hold the data: `pontoon swarm leave --force` here, `pontoon node demote NODE` and \
     `pontoon node rm NODE` on another manager, then `pontoon swarm join` here with `pontoon swarm join-token manager`; \
     if this is the only manager, restore the folder from a backup";

/// Why a proposal was not answered with an index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was proposed: ask the leader.
    #[error("not the leader{}", leader.as_ref().map(|l| format!("; ask {}", l.addr)).unwrap_or_default())]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<Member>,
    },
    /// The entry may or may not become part of the log: leadership was lost while it was on its way.
    #[error("leadership was lost while the proposal was on its way; read the state before trying again")]
    OutcomeUnknown,
    /// Nothing was proposed: the entry is larger than the log takes.
    #[error("the proposal has {size} bytes, the log takes {max}; split it")]
    TooLarge {
        /// Size of the proposal in bytes.
        size: usize,
        /// Largest size in bytes.
        max: usize,
    },
    /// Nothing was proposed: too much is waiting to be committed, or leadership is being handed over.
    #[error("the log takes no proposals at this moment; try again")]
    Busy,
    /// The member is stopping or has been removed.
    #[error("this manager's log is shutting down")]
    ShuttingDown,
    /// The disk failed; this member takes part in nothing any more.
    #[error(
        "this manager's log has stopped because its disk failed: {reason}; free space or replace the disk, then restart it"
    )]
    Storage {
        /// What failed.
        reason: String,
    },
    /// Nothing was proposed: what keeps the log does not take it.
    #[error("the cluster's store refuses the change: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
}

/// Why a linearizable read could not be promised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader confirmed the read in time.
    #[error("no leader confirmed the read in time; the cluster may have lost its majority of managers")]
    NoLeader,
    /// The member is stopping or has been removed.
    #[error("this manager's log is shutting down")]
    ShuttingDown,
    /// The disk failed; this member takes part in nothing any more.
    #[error(
        "this manager's log has stopped because its disk failed: {reason}; free space or replace the disk, then restart it"
    )]
    Storage {
        /// What failed.
        reason: String,
    },
}

/// Why the membership was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// The change could not be proposed, or its outcome is unknown.
    #[error("propose the membership change")]
    Propose(#[source] ProposeError),
    /// There is no such member.
    #[error("manager {id} is not a member")]
    NotFound {
        /// Raft id.
        id: u64,
    },
    /// The id, node or address is in use by a member.
    #[error("{what} is already used by manager {id}; remove that one first")]
    Exists {
        /// Which of id, node id, address.
        what: String,
        /// Raft id of the member.
        id: u64,
    },
    /// Too few voters would be reachable afterwards.
    #[error(
        "the cluster would lose its quorum: {reachable} of {voters} voting managers would be reachable, {needed} are needed; \
             bring the others back or remove an unreachable one first"
    )]
    QuorumLoss {
        /// Reachable voters after the change.
        reachable: usize,
        /// Voters after the change.
        voters: usize,
        /// Majority of them.
        needed: usize,
    },
    /// The last voter can't go.
    #[error("manager {id} is the last voting manager; the cluster's state would be lost with it")]
    LastVoter {
        /// Raft id.
        id: u64,
    },
    /// The learner has not caught up in time.
    #[error(
        "manager {id} has not caught up: it has entries up to {matched} of {last}; check its connection and disk"
    )]
    NotCaughtUp {
        /// Raft id.
        id: u64,
        /// What it has.
        matched: u64,
        /// What there is.
        last: u64,
    },
    /// Another membership change is under way.
    #[error("another membership change is under way; try again")]
    InProgress,
    /// Leadership did not move in time.
    #[error("leadership was not taken over in time{}", to.map(|id| format!(" by manager {id}")).unwrap_or_default())]
    TransferFailed {
        /// The wanted leader, if one was named.
        to: Option<u64>,
    },
}

impl From<ProposeError> for MembershipError {
    fn from(error: ProposeError) -> Self {
        Self::Propose(error)
    }
}
