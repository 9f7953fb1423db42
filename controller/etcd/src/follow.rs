//! Reads the log and stays with it: everything at one revision first, then a watch from the next one on.
//!
//! A watch that is cut is opened again from the last revision that it showed. When etcd has compacted that away, or an entry is
//! missing, everything is read again: the newest checkpoint if entries before it are gone, then the entries behind it.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, GetOptions, KeyValue, Txn, TxnOp, WatchOptions, WatchResponse};
use pontoon_raft::{Member, StopReason};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::applier::Handed;
use crate::checkpoint;
use crate::client::describe;
use crate::error::Error;
use crate::keys::{self, Checkpoint, Watched};
use crate::log::{Shared, key_values};
use crate::view::Listed;

/// Pause before etcd is asked again after a failure.
const RETRY: Duration = Duration::from_millis(300);
/// A watch that shows nothing for so long is asked for a sign.
const QUIET: Duration = Duration::from_secs(1);
/// Signs that may stay away before the watch counts as dead.
const MISSED: u32 = 3;
/// Entries read at a time: 32 of the largest fit into one answer.
const PAGE: i64 = 32;

/// Why reading or watching ended.
pub(crate) enum Broken {
    /// To be tried again: where from is for the caller to say.
    Again(String),
    /// What lies in etcd can't be read; trying again does not help.
    Fatal(Error),
    /// A newer program wrote what is there; why this one can't go on.
    TooOld(String),
}

impl From<etcd_client::Error> for Broken {
    fn from(error: etcd_client::Error) -> Self {
        Broken::Again(describe(&error))
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Broken::Fatal(error)
    }
}

/// Runs until `stop`, or until this manager is off the list, or until something can't be read.
pub(crate) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut stopped = shared.view.stopped();
    tokio::select! {
        () = stop.cancelled() => {}
        _ = stopped.wait_for(Option::is_some) => {}
        reason = follow(&shared) => {
            warn!(?reason, "the log in etcd can't be followed");
            shared.view.stop(reason);
        }
    }
    // Whose manager has ended leads no more, and shows no sign of life.
    stop.cancel();
}

async fn follow(shared: &Arc<Shared>) -> StopReason {
    loop {
        let mut next = match read_all(shared).await {
            Ok(revision) => revision + 1,
            Err(Broken::Fatal(error)) => return StopReason::Storage(error.to_string()),
            Err(Broken::TooOld(reason)) => return StopReason::TooOld(reason),
            Err(Broken::Again(reason)) => {
                debug!(reason, "can't read the log in etcd yet");
                sleep(RETRY).await;
                continue;
            }
        };
        // Cuts are mended by another watch; all else by reading again.
        loop {
            let from = next;
            match watch(shared, &mut next).await {
                Err(Broken::Fatal(error)) => return StopReason::Storage(error.to_string()),
                Err(Broken::TooOld(reason)) => return StopReason::TooOld(reason),
                Err(Broken::Again(reason)) => debug!(reason, from, next, "the watch on etcd broke"),
                Ok(()) => break,
            }
            if from == next {
                sleep(RETRY).await;
            }
        }
    }
}

/// Brings the state machine and the view to what etcd has; the revision of it.
async fn read_all(shared: &Arc<Shared>) -> Result<i64, Broken> {
    let keys = &shared.keys;
    let prefix = || Some(GetOptions::new().with_prefix());
    let txn = Txn::new().and_then([
        TxnOp::get(keys.head(), None),
        TxnOp::get(keys.state(), None),
        TxnOp::get(keys.leader(), None),
        TxnOp::get(keys.member(""), prefix()),
        TxnOp::get(keys.alive(""), prefix()),
    ]);
    let answer = shared.etcd.kv().txn(txn).await?;
    let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
    let mut found = answer.op_responses().into_iter().map(key_values);
    let mut next = || found.next().unwrap_or_default();
    let (head, state, leader, members, alive) = (next(), next(), next(), next(), next());
    let head = head
        .first()
        .ok_or_else(|| keys::corrupt(&keys.head(), "it is gone"))?;
    let head = keys::number(&keys.head(), head.value())?;
    let applied = shared.applier.applied();
    if let Some(state) = state.first() {
        let newest = Checkpoint::decode(&keys.state(), state.value())?;
        if newest.index > applied && missing_entries(shared, applied, newest.index).await? {
            checkpoint::restore(shared, newest).await?;
        }
    }
    read_entries(shared, head).await?;
    let is_alive = |kv: &KeyValue| match keys.classify(kv.key()) {
        Watched::Alive(node) => Some(node.to_owned()),
        _ => None,
    };
    let leader = leader
        .first()
        .map(|kv| Ok::<_, Error>((decode(kv)?, kv.create_revision())));
    let present = shared.view.list(Listed {
        members: members.iter().map(decode).collect::<Result<_, _>>()?,
        alive: alive.iter().filter_map(is_alive).collect(),
        leader: leader.transpose()?,
        revision,
    });
    if !present {
        shared.view.stop(StopReason::Removed);
    }
    Ok(revision)
}

fn decode(kv: &KeyValue) -> Result<Member, Error> {
    keys::decode_member(kv.key(), kv.value())
}

/// Whether the entries behind `applied` are no longer all there, so that a checkpoint is needed. A fresh manager takes the
/// checkpoint in any case: it is the shorter way.
async fn missing_entries(shared: &Shared, applied: u64, checkpoint: u64) -> Result<bool, Broken> {
    if applied == 0 {
        return Ok(true);
    }
    let range = GetOptions::new()
        .with_range(shared.keys.entry(checkpoint + 1))
        .with_limit(1)
        .with_keys_only();
    let found = shared
        .etcd
        .kv()
        .get(shared.keys.entry(applied + 1), Some(range))
        .await?;
    let first = found.kvs().first().map(|kv| shared.keys.classify(kv.key()));
    Ok(first != Some(Watched::Entry(applied + 1)))
}

/// Applies the entries up to `head`.
async fn read_entries(shared: &Shared, head: u64) -> Result<(), Broken> {
    loop {
        let applied = shared.applier.applied();
        if applied >= head {
            return Ok(());
        }
        let range = GetOptions::new()
            .with_range(shared.keys.entry(head + 1))
            .with_limit(PAGE);
        let page = shared
            .etcd
            .kv()
            .get(shared.keys.entry(applied + 1), Some(range))
            .await?;
        for kv in page.kvs() {
            if !apply(shared, kv)? {
                return Err(Broken::Again(
                    "entries were trimmed while they were read".to_owned(),
                ));
            }
        }
        if shared.applier.applied() == applied {
            return Err(Broken::Again(format!("entry {} is missing", applied + 1)));
        }
    }
}

/// Applies an entry; false when those before it are missing.
fn apply(shared: &Shared, kv: &KeyValue) -> Result<bool, Broken> {
    let Watched::Entry(index) = shared.keys.classify(kv.key()) else {
        return Ok(true);
    };
    let name = String::from_utf8_lossy(kv.key());
    let data = keys::unframe(&name, kv.value(), shared.seal.as_ref())?;
    match shared.applier.apply(index, &data) {
        Handed::Known => Ok(true),
        Handed::Gap => Ok(false),
        Handed::TooNew(reason) => Err(Broken::TooOld(reason)),
    }
}

/// Watches from revision `next` on, which goes along. Ends well when everything has to be read again.
async fn watch(shared: &Shared, next: &mut i64) -> Result<(), Broken> {
    let options = WatchOptions::new()
        .with_range(shared.keys.watched_end())
        .with_start_revision(*next);
    let mut stream = shared
        .etcd
        .watches()
        .watch(shared.keys.root(), Some(options))
        .await?;
    let mut missed = 0;
    loop {
        let answer = match timeout(QUIET, stream.message()).await {
            Ok(answer) => answer?.ok_or_else(|| Broken::Again("etcd ended the watch".to_owned()))?,
            Err(_) if missed == MISSED => return Err(Broken::Again("etcd shows no sign".to_owned())),
            Err(_) => {
                missed += 1;
                stream.request_progress().await?;
                continue;
            }
        };
        missed = 0;
        if answer.canceled() {
            // Compacted, not allowed, or the member has no leader: reading again finds out which.
            debug!(
                compacted = answer.compact_revision(),
                reason = answer.cancel_reason(),
                "etcd cancelled the watch"
            );
            return Ok(());
        }
        if !take(shared, &answer)? {
            return Ok(());
        }
        if let Some(last) = answer.events().last().and_then(etcd_client::Event::kv) {
            *next = last.mod_revision() + 1;
        }
    }
}

/// Takes over what a watch shows; false when entries are missing.
fn take(shared: &Shared, answer: &WatchResponse) -> Result<bool, Broken> {
    for event in answer.events() {
        let Some(kv) = event.kv() else { continue };
        let is_put = event.event_type() == EventType::Put;
        match shared.keys.classify(kv.key()) {
            Watched::Entry(_) if is_put => {
                if !apply(shared, kv)? {
                    return Ok(false);
                }
            }
            Watched::Leader => {
                let leader = is_put.then(|| decode(kv)).transpose()?;
                shared.view.set_leader(leader, kv.mod_revision());
            }
            Watched::Member(_) if is_put => shared.view.put_member(decode(kv)?),
            Watched::Member(node) => shared.view.remove_member(node),
            Watched::Alive(node) => shared.view.set_alive(node, is_put),
            // Trimmed entries, and what says nothing by itself.
            Watched::Entry(_) | Watched::Head | Watched::Other => {}
        }
    }
    Ok(true)
}
