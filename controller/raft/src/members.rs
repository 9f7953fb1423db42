//! Node ids and addresses behind the raft ids. Raft itself only knows numbers and roles; the rest travels in the
//! entries that add members and in snapshots, so that every member knows the same.
//!
//! Owned by the core; encoded copies go into the log's head and into snapshots.

use std::collections::{BTreeMap, BTreeSet};

use pontoon_proto::v1;
use prost::Message as _;
use raft::eraftpb::ConfState;

use crate::member::{Member, Role};

/// The members' addresses, and the ids that may never come back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Members {
    /// By raft id: node id and address.
    members: BTreeMap<u64, (String, String)>,
    removed: BTreeSet<u64>,
}

impl Members {
    pub(crate) fn of(members: &[Member]) -> Self {
        let members = members
            .iter()
            .map(|m| (m.id, (m.node_id.clone(), m.addr.clone())))
            .collect();
        Self {
            members,
            removed: BTreeSet::new(),
        }
    }

    /// The same, with ids that may never come back.
    pub(crate) fn without(mut self, retired: &[u64]) -> Self {
        self.removed.extend(retired);
        self
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.members.keys().copied()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let members = self
            .members
            .iter()
            .map(|(&raft_id, (node_id, addr))| v1::RaftMember {
                raft_id,
                node_id: node_id.clone(),
                addr: addr.clone(),
                learner: false,
            });
        v1::RaftMembers {
            members: members.collect(),
            removed: self.removed.iter().copied().collect(),
        }
        .encode_to_vec()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let message = v1::RaftMembers::decode(bytes).ok()?;
        let members = message
            .members
            .into_iter()
            .map(|m| (m.raft_id, (m.node_id, m.addr)))
            .collect();
        Some(Self {
            members,
            removed: message.removed.into_iter().collect(),
        })
    }

    /// Takes over who was added, then drops everybody that the configuration does not name any more.
    pub(crate) fn apply(&mut self, added: &Self, conf: &ConfState) {
        for (id, member) in &added.members {
            self.members.insert(*id, member.clone());
        }
        let gone: Vec<u64> = self
            .members
            .keys()
            .copied()
            .filter(|id| !names(conf, *id))
            .collect();
        for id in gone {
            self.members.remove(&id);
            self.removed.insert(id);
        }
    }

    pub(crate) fn contains(&self, id: u64) -> bool {
        self.members.contains_key(&id)
    }

    pub(crate) fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    pub(crate) fn removed(&self) -> Vec<u64> {
        self.removed.iter().copied().collect()
    }

    /// The members with their roles in `conf`; who is in none of its sets counts as a learner.
    pub(crate) fn list(&self, conf: &ConfState, reachable: impl Fn(u64) -> bool) -> Vec<Member> {
        let member = |(&id, (node_id, addr)): (&u64, &(String, String))| Member {
            id,
            node_id: node_id.clone(),
            addr: addr.clone(),
            role: if conf.voters.contains(&id) {
                Role::Voter
            } else {
                Role::Learner
            },
            reachable: reachable(id),
        };
        self.members.iter().map(member).collect()
    }
}

/// Whether `id` has any part in the configuration.
pub(crate) fn names(conf: &ConfState, id: u64) -> bool {
    conf.voters.contains(&id)
        || conf.learners.contains(&id)
        || conf.voters_outgoing.contains(&id)
        || conf.learners_next.contains(&id)
}
