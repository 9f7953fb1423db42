//! Who is in the cluster and who leads: the values that the handle shows to its users.
//!
//! Made by the node loop, read through [`crate::RaftHandle`].

use std::time::Duration;

/// How a member takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Counts for the quorum and may lead.
    Voter,
    /// Receives the log but does not count.
    Learner,
}

/// One member of the raft group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Raft id: random, never 0, never used twice.
    pub id: u64,
    /// Node id of the manager.
    pub node_id: String,
    /// host:port of its cluster endpoint.
    pub addr: String,
    /// Voter or learner.
    pub role: Role,
    /// Whether it answered lately; on a follower this is known of the leader and itself only, others count as reachable.
    pub reachable: bool,
}

impl Member {
    /// A member that is about to be added: a learner that nobody has heard of yet.
    pub fn new(id: u64, node_id: impl Into<String>, addr: impl Into<String>) -> Self {
        Self {
            id,
            node_id: node_id.into(),
            addr: addr.into(),
            role: Role::Learner,
            reachable: false,
        }
    }

    /// A fresh raft id.
    pub fn random_id() -> u64 {
        Self::random_id_by(rand::random)
    }

    /// The same from another source of random numbers.
    pub fn random_id_by(random: impl Fn() -> u64) -> u64 {
        // The top bit stays clear so that the id survives systems that only have signed 64-bit numbers.
        loop {
            let id = random() >> 1;
            if id != 0 {
                return id;
            }
        }
    }
}

/// Who leads, as this member sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The current raft term.
    pub term: u64,
    /// The leader of that term, if known.
    pub leader: Option<Member>,
    /// This member leads *and* has applied an entry of its own term, so that its state is complete.
    pub is_leader: bool,
}

/// A replication peer as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerProgress {
    /// Raft id of the peer.
    pub id: u64,
    /// Highest entry known to be on its disk.
    pub matched: u64,
    /// Whether it is being sent a snapshot.
    pub in_snapshot: bool,
    /// Whether it answered within the last election timeout.
    pub recent_active: bool,
    /// For how long nothing was heard of it, as far as this process was awake; `None` when it never heard of it.
    pub silent_for: Option<Duration>,
}

/// A member's raft numbers, for operators and tests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Own raft id.
    pub id: u64,
    /// Current term.
    pub term: u64,
    /// Raft id of the leader, 0 if unknown.
    pub leader_id: u64,
    /// Highest committed index.
    pub committed: u64,
    /// Highest index that the state machine has.
    pub applied: u64,
    /// First entry still in the log.
    pub first_index: u64,
    /// Last entry in the log.
    pub last_index: u64,
    /// Index of the newest snapshot on disk, 0 if none.
    pub snapshot_index: u64,
    /// Peers, on the leader only.
    pub peers: Vec<PeerProgress>,
}
