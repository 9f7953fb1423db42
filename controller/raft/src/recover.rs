//! A cluster that begins anew from what is left of an old one: reading a member's log without taking part, and writing
//! the first files of a group whose state is not empty.
//!
//! Called by the controller for `swarm init --force-new-cluster` and `cluster restore`. Nothing here starts a thread of
//! a member or talks to anybody; [`Raft::open`](crate::Raft::open) follows.

use std::collections::BTreeSet;

use prost_raft::Message as _;
use raft::eraftpb::{ConfChangeV2, EntryType};

use crate::config::Config;
use crate::error::Error;
use crate::members::Members;
use crate::start::{self, Raft};
use crate::state_machine::StateMachine;
use crate::wal::Image;

/// What a member's folder amounts to.
#[derive(Debug)]
pub struct Salvaged<S> {
    /// The state with everything that the log holds.
    pub state: S,
    /// All raft ids that the group ever had, this member's among them, ascending: for [`Config::retired`] of what
    /// comes after it.
    pub ids: Vec<u64>,
}

impl Raft {
    /// Reads a member's folder to its last entry, without waiting for the other members.
    ///
    /// Entries that are not known to be committed count too: an acknowledged one may have reached this member without
    /// the news that it was, and must not be lost. What nobody was answered for may come to be; that is the price.
    ///
    /// # Errors
    /// As [`Raft::open`].
    pub async fn salvage<S: StateMachine>(config: Config, state: S) -> Result<Salvaged<S>, Error> {
        start::prepare(config, |config, lock| {
            let mut prepared = start::open(config, state, lock)?;
            let ids = ids(&prepared.image, config.id);
            let marker = prepared.image.marker.as_ref().map_or(0, |marker| marker.index);
            for entry in prepared.image.entries {
                let is_proposal = entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty();
                if is_proposal && entry.index > marker {
                    prepared.state.apply(entry.index, &entry.data);
                }
            }
            Ok(Salvaged {
                state: prepared.state,
                ids,
            })
        })
        .await
        .map(|(_, salvaged)| salvaged)
    }

    /// Writes the folder of a new group whose only member is this one and whose state is `state`; starts nothing.
    ///
    /// # Errors
    /// As [`Raft::bootstrap`].
    pub async fn seed<S: StateMachine>(config: Config, state: S) -> Result<(), Error> {
        start::prepare(config, |config, lock| {
            start::bootstrap(config, state, lock).map(drop)
        })
        .await
        .map(drop)
    }
}

/// Every member that the folder tells of.
fn ids(image: &Image, own: u64) -> Vec<u64> {
    let mut ids = BTreeSet::from([own]);
    let mut add = |encoded: &[u8]| {
        let members = Members::decode(encoded).unwrap_or_default();
        ids.extend(members.ids());
        ids.extend(members.removed());
    };
    if let Some(marker) = &image.marker {
        add(&marker.members);
    }
    if let Some(peers) = &image.peers {
        add(peers);
    }
    for entry in &image.entries {
        if entry.get_entry_type() == EntryType::EntryConfChangeV2 {
            add(&ConfChangeV2::decode(entry.data.as_slice())
                .unwrap_or_default()
                .context);
        }
    }
    ids.into_iter().collect()
}
