//! Changes of the membership and of the leader: what is allowed, and how it is proposed.
//!
//! raft itself would promote a learner that is dead or empty, and remove members until nothing can be committed. These
//! rules run on the leader, just before the change is proposed.

use std::collections::BTreeSet;

use prost_raft::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, EntryType, Message, MessageType};

use super::{Core, Nonce};
use crate::error::{MembershipError, ProposeError};
use crate::member::Member;
use crate::members::{Members, names};
use crate::node::MemberChange;

/// A learner may be promoted when it lacks at most this many entries.
const CAUGHT_UP: u64 = 100;

impl Core {
    /// Checks and proposes changes of the members. `Ok(false)`: there is nothing to do, it is like that already.
    pub(crate) fn propose_change(
        &mut self,
        nonce: Nonce,
        changes: &[MemberChange],
    ) -> Result<bool, MembershipError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader {
                leader: self.leader(),
            }
            .into());
        }
        let conf = self.node.store().conf_state();
        // raft would silently put an empty entry in place of the change.
        if self.node.raft.has_pending_conf() || !conf.voters_outgoing.is_empty() {
            return Err(MembershipError::InProgress);
        }
        let mut voters: BTreeSet<u64> = conf.voters.iter().copied().collect();
        let mut singles = Vec::new();
        let mut added = Vec::new();
        for change in changes {
            let Some((kind, id)) = self.check_change(change, &mut voters)? else {
                continue;
            };
            if let MemberChange::AddLearner(member) = change {
                added.push(member.clone());
            }
            let mut single = ConfChangeSingle {
                node_id: id,
                ..ConfChangeSingle::default()
            };
            single.set_change_type(kind);
            singles.push(single);
        }
        if singles.is_empty() {
            return Ok(false);
        }
        self.check_quorum(&voters)?;
        let change = ConfChangeV2 {
            changes: singles,
            context: Members::of(&added).encode(),
            ..ConfChangeV2::default()
        };
        let mut entry = Entry {
            data: change.encode_to_vec(),
            context: nonce.to_vec(),
            ..Entry::default()
        };
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        let mut message = Message {
            from: self.id,
            entries: vec![entry],
            ..Message::default()
        };
        message.set_msg_type(MessageType::MsgPropose);
        self.node.step(message).map_err(|_| ProposeError::Busy)?;
        Ok(true)
    }

    fn check_change(
        &self,
        change: &MemberChange,
        voters: &mut BTreeSet<u64>,
    ) -> Result<Option<(ConfChangeType, u64)>, MembershipError> {
        match change {
            MemberChange::AddLearner(member) => {
                self.check_new(member)?;
                Ok(Some((ConfChangeType::AddLearnerNode, member.id)))
            }
            MemberChange::Promote(id) => {
                self.check_known(*id)?;
                if voters.contains(id) {
                    return Ok(None);
                }
                self.check_caught_up(*id)?;
                voters.insert(*id);
                Ok(Some((ConfChangeType::AddNode, *id)))
            }
            MemberChange::Demote(id) | MemberChange::Remove(id) => {
                let remove = matches!(change, MemberChange::Remove(_));
                if remove && self.members.is_removed(*id) {
                    return Ok(None);
                }
                self.check_known(*id)?;
                let was_voter = voters.remove(id);
                if voters.is_empty() {
                    return Err(MembershipError::LastVoter { id: *id });
                }
                if *id == self.id {
                    // A leader hands over before it goes; one that goes while it leads leaves a gap without a leader.
                    return Err(MembershipError::InProgress);
                }
                if remove {
                    return Ok(Some((ConfChangeType::RemoveNode, *id)));
                }
                Ok(was_voter.then_some((ConfChangeType::AddLearnerNode, *id)))
            }
        }
    }

    fn check_known(&self, id: u64) -> Result<(), MembershipError> {
        if names(self.node.store().conf_state(), id) {
            Ok(())
        } else {
            Err(MembershipError::NotFound { id })
        }
    }

    fn check_new(&self, member: &Member) -> Result<(), MembershipError> {
        let exists = |what: String, id| Err(MembershipError::Exists { what, id });
        if member.id == 0 || self.members.is_removed(member.id) || self.members.contains(member.id) {
            return exists(format!("raft id {:x}", member.id), member.id);
        }
        for other in self.member_list() {
            if other.node_id == member.node_id {
                return exists(format!("node {}", member.node_id), other.id);
            }
            if other.addr == member.addr {
                return exists(format!("address {}", member.addr), other.id);
            }
        }
        Ok(())
    }

    /// Gate that raft lacks: the learner answers, and has nearly everything.
    fn check_caught_up(&self, id: u64) -> Result<(), MembershipError> {
        let last = self.node.raft.raft_log.last_index();
        let progress = self.node.raft.prs().get(id);
        let matched = progress.map_or(0, |p| p.matched);
        let active = self.is_active(id);
        // Nothing before the first entry of this configuration counts as having caught up.
        if active && matched > 0 && matched + CAUGHT_UP >= last {
            return Ok(());
        }
        Err(MembershipError::NotCaughtUp { id, matched, last })
    }

    fn check_quorum(&self, voters: &BTreeSet<u64>) -> Result<(), MembershipError> {
        let before: BTreeSet<u64> = self.node.store().conf_state().voters.iter().copied().collect();
        if *voters == before {
            return Ok(());
        }
        let active = voters.iter().filter(|id| self.is_active(**id));
        let (reachable, needed) = (active.count(), voters.len() / 2 + 1);
        if reachable < needed {
            return Err(MembershipError::QuorumLoss {
                reachable,
                voters: voters.len(),
                needed,
            });
        }
        Ok(())
    }

    /// Starts to hand leadership over. Returns to whom; `None` when there is nobody, or this member does not lead.
    pub(crate) fn transfer(&mut self, to: Option<u64>) -> Option<u64> {
        if !self.is_leader() {
            return None;
        }
        let conf = self.node.store().conf_state();
        let candidate = |id: &u64| {
            let progress = self.node.raft.prs().get(*id)?;
            (*id != self.id && self.is_active(*id)).then_some((progress.matched, *id))
        };
        let best = conf
            .voters
            .iter()
            .filter(|id| to.is_none_or(|to| to == **id))
            .filter_map(candidate)
            .max();
        let (_, to) = best?;
        self.node.transfer_leader(to);
        Some(to)
    }

    pub(crate) fn leader(&self) -> Option<Member> {
        self.member_list()
            .into_iter()
            .find(|member| member.id == self.leader_id())
    }
}
