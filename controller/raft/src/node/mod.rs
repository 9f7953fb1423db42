//! The node: the raft thread, the apply thread, and what they tell each other.
//!
//! Started by [`crate::Raft`]; everything else talks to it through events.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};

use crate::watch;
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::connector::Connector;
use crate::core::Core;
use crate::error::Error;
use crate::handle::{RaftHandle, Shared, StopReason};
use crate::host::{Host, Outlet};
use crate::member::{Leadership, Member};
use crate::service::Transfers;
use crate::snapshot::{SnapshotMeta, SnapshotStore};
use crate::state_machine::StateMachine;
use crate::transport::{PeerContext, Transport};
use crate::wal::{Committer, Image, Wal};

mod apply;
mod event;
mod paced;
mod reads;
mod run;
mod ticks;

pub(crate) use apply::describe;
pub(crate) use event::Event;
pub use event::MemberChange;

use apply::{Applier, SnapshotPolicy};
use reads::Reads;
use run::{Node, Progress, Published};

/// Proposals in the inbox and the log at the same time; more wait at the handle.
const MAX_PROPOSALS: usize = 16_384;

/// What was found on, or put on, the disk.
pub(crate) struct Prepared<S> {
    pub(crate) wal: Wal,
    pub(crate) image: Image,
    pub(crate) state: S,
    pub(crate) snapshots: SnapshotStore,
    /// Held as long as the member runs.
    pub(crate) lock: Option<File>,
}

/// The readers' ends of what the loop publishes.
struct Watches {
    leadership: watch::Receiver<Leadership>,
    members: watch::Receiver<Arc<Vec<Member>>>,
    removed: watch::Receiver<Arc<Vec<u64>>>,
    stopped: watch::Receiver<Option<StopReason>>,
}

fn publishers() -> (Published, Watches) {
    let (leadership_tx, leadership) = watch::channel(Leadership::default());
    let (members_tx, members) = watch::channel(Arc::default());
    let (removed_tx, removed) = watch::channel(Arc::default());
    let (stopped_tx, stopped) = watch::channel(None);
    let published = Published {
        leadership: leadership_tx,
        members: members_tx,
        removed: removed_tx,
        stopped: stopped_tx,
    };
    (
        published,
        Watches {
            leadership,
            members,
            removed,
            stopped,
        },
    )
}

/// What the state machine contains after the start.
fn restored(image: &Image) -> SnapshotMeta {
    image
        .marker
        .as_ref()
        .map_or_else(SnapshotMeta::default, |marker| SnapshotMeta {
            index: marker.index,
            term: marker.term,
            conf_state: marker.conf_state.clone(),
            members: marker.members.clone(),
        })
}

fn start_committer(host: &Host, wal: Wal, events: Outlet<Event>) -> Result<Committer, Error> {
    let on_done = move |result: Result<u64, String>| {
        // The loop may have ended; then nobody waits for the disk.
        let _ = events.send(match result {
            Ok(number) => Event::Persisted { number },
            Err(reason) => Event::DiskFailed { reason },
        });
    };
    Committer::start(host, wal, Box::new(on_done))
}

fn policy(config: &Config) -> SnapshotPolicy {
    SnapshotPolicy {
        every: config.snapshot_every,
        bytes: config.snapshot_bytes,
    }
}

/// Ticks after which a read is given up.
fn read_ticks(config: &Config) -> u64 {
    let ticks = config.read_timeout.as_millis() / config.tick.as_millis().max(1);
    u64::try_from(ticks).unwrap_or(u64::MAX).max(1)
}

/// Starts the threads of a member. Must be called in a tokio runtime, which then carries the transport.
pub(crate) fn start<S: StateMachine>(
    config: &Config,
    prepared: Prepared<S>,
    connector: Arc<dyn Connector>,
) -> Result<RaftHandle, Error> {
    let Prepared {
        wal,
        image,
        state,
        snapshots,
        lock,
    } = prepared;
    let snapshots = Arc::new(snapshots);
    let mut core = Core::new(config, &image, None)?;
    let host = &config.host;
    let at = restored(&image);
    if at.conf_state.voters == [config.id] && image.entries.iter().all(|entry| entry.entry_type == 0) {
        // The only voter has nobody to wait for.
        core.campaign();
    }
    let (events, inbox) = host.queue();
    let committer = start_committer(host, wal, events.clone())?;
    let progress = Progress::new((at.index, at.term), host.random());
    let applier = Applier::new(host, state, at, snapshots.clone(), events.clone(), policy(config));
    let (apply, apply_jobs) = host.queue();
    let applying = host.start("raft-apply", applier.run(apply_jobs))?;
    let inbox_bytes = Arc::new(AtomicUsize::new(0));
    let (published, watches) = publishers();
    let transport = Transport::new(PeerContext {
        id: config.id,
        cluster_id: config.cluster_id.clone(),
        connector: connector.clone(),
        events: events.clone(),
        snapshots: snapshots.clone(),
        host: host.clone(),
        addr: std::sync::Mutex::default(),
    });
    let settled = Arc::new(AtomicBool::new(false));
    let election_ticks = config.election_ticks as u64;
    let node = Node {
        id: config.id,
        core,
        inbox,
        inbox_bytes: inbox_bytes.clone(),
        committer,
        apply,
        transport,
        published,
        tick: config.tick,
        election_ticks,
        reads: Reads::new(election_ticks, read_ticks(config)),
        settled: settled.clone(),
        progress,
    };
    let (done_tx, done) = watch::channel(());
    host.start("raft", async move {
        node.run().await;
        // The loop has dropped its end of the channel.
        applying.ended().await;
        drop(lock);
        drop(done_tx);
    })?;
    let shared = Shared {
        id: config.id,
        node_id: config.node_id.clone(),
        cluster_id: config.cluster_id.clone(),
        max_proposal: config.max_proposal,
        election_timeout: config.tick * u32::try_from(config.election_ticks).unwrap_or(u32::MAX),
        events,
        inbox_bytes,
        settled,
        permits: Semaphore::new(MAX_PROPOSALS),
        leadership: watches.leadership,
        members: watches.members,
        removed: watches.removed,
        stopped: watches.stopped,
        connector,
        snapshots,
        transfers: Transfers::default(),
        host: host.clone(),
        streams: Mutex::new(HashMap::new()),
        done,
    };
    Ok(RaftHandle {
        shared: Arc::new(shared),
    })
}
