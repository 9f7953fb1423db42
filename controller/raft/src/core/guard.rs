//! Messages that are well formed but would make the library panic, or mislead it, in the present state.

use raft::eraftpb::{Message, MessageType};

use super::Core;

impl Core {
    /// The message as it may be stepped, or nothing.
    pub(super) fn guard(&self, message: Message) -> Option<Message> {
        let raft = &self.node.raft;
        let last = raft.raft_log.last_index();
        match message.get_msg_type() {
            // A commit index beyond our log is fatal in raft. It means that entries this member had acknowledged are gone.
            MessageType::MsgHeartbeat if message.term >= raft.term && message.commit > last => {
                tracing::error!(
                    commit = message.commit,
                    last,
                    "the leader believes that this member has entries which it does not have; was its disk restored from a copy? \
                     remove it from the cluster and let it join again"
                );
                None
            }
            MessageType::MsgAppendResponse if self.is_leader() && message.term == raft.term => {
                if message.reject {
                    Some(self.guard_reject(message)?)
                } else if message.index > last {
                    tracing::error!(
                        from = message.from,
                        index = message.index,
                        last,
                        "a peer acknowledges entries that do not exist"
                    );
                    None
                } else {
                    Some(message)
                }
            }
            // raft would pass them on to the leader under the name of who asked, which looks like an imposter's message there.
            // Whoever asks finds the leader by himself.
            MessageType::MsgReadIndex | MessageType::MsgPropose if !self.is_leader() => None,
            // A lone voter would win at once, with entries that are not durable yet.
            MessageType::MsgTimeoutNow if raft.raft_log.persisted < last => None,
            _ => Some(message),
        }
    }

    /// raft-rs 0.7.0 lets a stale rejection set `next <= matched` (fixed upstream by #557, unreleased): an append that
    /// was rejected before the peer caught up, answered late or delivered out of order. What is matched can't be rejected
    /// in the same term, so such a message is dropped, and a hint below what is matched is raised to it.
    fn guard_reject(&self, mut message: Message) -> Option<Message> {
        let raft = &self.node.raft;
        let matched = raft.prs().get(message.from)?.matched;
        if message.request_snapshot != 0 {
            return Some(message);
        }
        if message.index <= matched {
            return None;
        }
        let hint = if message.log_term > 0 {
            raft.raft_log
                .find_conflict_by_term(
                    message.reject_hint.min(raft.raft_log.last_index()),
                    message.log_term,
                )
                .0
        } else {
            message.reject_hint
        };
        if hint < matched {
            message.reject_hint = matched;
            message.log_term = 0;
        }
        Some(message)
    }
}

#[cfg(test)]
impl Core {
    /// What may hold this member up.
    pub(crate) fn trouble(&self) -> String {
        let raft = &self.node.raft;
        format!(
            "{:?} transfer {:?} persisted {} last {} pending conf {} installing {} jobs {} elapsed {}/{}",
            raft.state,
            raft.lead_transferee,
            raft.raft_log.persisted,
            raft.raft_log.last_index(),
            raft.has_pending_conf(),
            self.installing.is_some(),
            self.pending.len(),
            raft.election_elapsed,
            raft.randomized_election_timeout(),
        )
    }

    /// The configuration in force.
    pub(crate) fn conf_state(&self) -> &raft::eraftpb::ConfState {
        self.node.store().conf_state()
    }

    /// Whether any peer's next entry is one that it is known to have: what the guard above prevents.
    pub(crate) fn has_stale_progress(&self) -> bool {
        self.is_leader() && self.node.raft.prs().iter().any(|(_, p)| p.next_idx <= p.matched)
    }
}
