//! Refuses messages that raft would panic on, or that no honest peer sends, before they reach the core.
//!
//! Called by the service for everything that arrives, and by the simulation, so that the rules are known to let all
//! honest messages pass.

use prost_raft::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType};

use crate::members::names;

/// Decodes and checks one message from `from` to `me`.
pub(crate) fn decode(bytes: &[u8], from: u64, me: u64) -> Result<Message, String> {
    let message = Message::decode(bytes).map_err(|error| format!("the message does not decode: {error}"))?;
    check(&message, from, me)?;
    Ok(message)
}

/// Checks one message from `from` to `me`.
pub(crate) fn check(message: &Message, from: u64, me: u64) -> Result<(), String> {
    let kind = MessageType::from_i32(message.msg_type)
        .ok_or_else(|| format!("message type {} is unknown", message.msg_type))?;
    if message.to != me {
        return Err(format!("the message is for member {:x}", message.to));
    }
    if message.from != from || from == 0 || from == me {
        return Err(format!("the message claims to be from member {:x}", message.from));
    }
    // A term of 0 marks local messages inside raft: only read requests travel without a term.
    if (message.term == 0) != (kind == MessageType::MsgReadIndex) {
        return Err(format!("{kind:?} with term {}", message.term));
    }
    match kind {
        MessageType::MsgAppend => check_append(message),
        MessageType::MsgSnapshot => check_snapshot(message, me),
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp if message.entries.len() != 1 => {
            Err(format!("{kind:?} with {} entries", message.entries.len()))
        }
        MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp
        | MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTimeoutNow => Ok(()),
        // Proposals are not forwarded; the rest is local to a member.
        other => Err(format!("{other:?} is not for the wire")),
    }
}

fn check_append(message: &Message) -> Result<(), String> {
    // raft takes term 0 for that of any entry it does not have, so an append behind the log's end would seem to fit.
    if message.index > 0 && message.log_term == 0 {
        return Err(format!(
            "an append behind entry {} without its term",
            message.index
        ));
    }
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in &message.entries {
        if Some(entry.index) != index.checked_add(1) || entry.term < term.max(1) || entry.term > message.term
        {
            return Err(format!(
                "entry {} of term {} does not follow {index} of term {term}",
                entry.index, entry.term
            ));
        }
        check_entry(entry)?;
        (index, term) = (entry.index, entry.term);
    }
    Ok(())
}

fn check_entry(entry: &Entry) -> Result<(), String> {
    let fine = match EntryType::from_i32(entry.entry_type) {
        Some(EntryType::EntryNormal) => true,
        Some(EntryType::EntryConfChange) => ConfChange::decode(entry.data.as_slice())
            .is_ok_and(|change| raft::eraftpb::ConfChangeType::from_i32(change.change_type).is_some()),
        Some(EntryType::EntryConfChangeV2) => {
            ConfChangeV2::decode(entry.data.as_slice()).is_ok_and(|change| {
                raft::eraftpb::ConfChangeTransition::from_i32(change.transition).is_some()
                    && change
                        .changes
                        .iter()
                        .all(|c| raft::eraftpb::ConfChangeType::from_i32(c.change_type).is_some())
            })
        }
        None => false,
    };
    if fine {
        Ok(())
    } else {
        Err(format!(
            "entry {} is of an unknown kind or does not decode",
            entry.index
        ))
    }
}

fn check_snapshot(message: &Message, me: u64) -> Result<(), String> {
    let metadata = message.get_snapshot().get_metadata();
    if metadata.index == 0 || metadata.term == 0 || metadata.term > message.term {
        return Err(format!(
            "snapshot at {} of term {}",
            metadata.index, metadata.term
        ));
    }
    check_conf(metadata.get_conf_state())?;
    if !names(metadata.get_conf_state(), me) {
        return Err("the snapshot's configuration does not name this member".into());
    }
    crate::members::Members::decode(&message.get_snapshot().data)
        .map(drop)
        .ok_or("the snapshot's members do not decode".into())
}

/// The rules of a configuration, as raft's own tracker demands them.
pub(crate) fn check_conf(conf: &ConfState) -> Result<(), String> {
    let unique = |ids: &[u64]| {
        ids.iter()
            .enumerate()
            .all(|(i, id)| *id != 0 && !ids[..i].contains(id))
    };
    let disjoint = |a: &[u64], b: &[u64]| a.iter().all(|id| !b.contains(id));
    let fine = !conf.voters.is_empty()
        && [
            &conf.voters,
            &conf.learners,
            &conf.voters_outgoing,
            &conf.learners_next,
        ]
        .iter()
        .all(|ids| unique(ids))
        && disjoint(&conf.learners, &conf.voters)
        && disjoint(&conf.learners, &conf.voters_outgoing)
        && conf
            .learners_next
            .iter()
            .all(|id| conf.voters_outgoing.contains(id) && !conf.voters.contains(id))
        && (!conf.voters_outgoing.is_empty() || (conf.learners_next.is_empty() && !conf.auto_leave));
    if fine {
        Ok(())
    } else {
        Err("the configuration contradicts itself".into())
    }
}
