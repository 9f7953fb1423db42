//! Looks after a manager whose log has stopped: says why, and starts it again when the disk has room, or the external store is there.
//!
//! A log whose disk failed takes part in nothing any more; the other managers elect another leader. What it holds then can only be judged by
//! a fresh start, so that is what happens here, once the file system has space. Runs beside each node's parts ([`super::node`]).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pontoon_controller::{Manager, StopReason, watch};
use pontoon_proto::v1::NodeRole;
use tokio_util::sync::CancellationToken;

use super::node::{ManagerSlot, NodeConfig, Start, start_manager, stop_manager};
use super::port::ClusterPort;

/// Pause between two looks at the disk, and at who is manager here.
const PAUSE: Duration = Duration::from_secs(1);
/// Free bytes that a manager wants before it starts again: a segment's first bytes, a snapshot, and some time until the next
/// failure. On a small file system a quarter of it is enough.
const ROOM: u64 = 16 << 20;

/// The task's state.
pub(super) struct Supervisor {
    pub(super) config: NodeConfig,
    pub(super) port: Arc<ClusterPort>,
    pub(super) manager: Arc<ManagerSlot>,
}

impl Supervisor {
    /// Runs until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.turn(&stop) => {}
            }
        }
    }

    /// Waits for a manager's end and deals with it.
    async fn turn(&self, stop: &CancellationToken) {
        let reason = match self.stopped().await {
            Some(mut stopped) => match stopped.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone(),
                Err(_) => None,
            },
            // The node came up without its manager, for want of space or of what is elsewhere.
            None => self.config.control.trouble().map(StopReason::Storage),
        };
        match reason {
            Some(StopReason::Storage(reason)) => self.recover(&reason, stop).await,
            Some(StopReason::TooOld(reason)) => {
                self.take_down(&reason).await;
                // Only another program can go on.
                stop.cancelled().await;
            }
            // Taken down by somebody else, or about to be; or this node is a worker.
            _ => tokio::time::sleep(PAUSE).await,
        }
    }

    async fn stopped(&self) -> Option<watch::Receiver<Option<StopReason>>> {
        let slot = self.manager.lock().await;
        slot.as_ref().map(|running| running.manager.stopped())
    }

    /// Ends what is left of the manager; all calls are answered with the reason.
    async fn take_down(&self, reason: &str) {
        let mut slot = self.manager.lock().await;
        self.config.control.set_trouble(Some(reason.to_owned()));
        if let Some(running) = slot.take() {
            stop_manager(&self.config, &self.port, running).await;
        }
    }

    async fn recover(&self, reason: &str, stop: &CancellationToken) {
        let dir = &self.config.dir;
        let mut text = format!("this node's manager takes no part in the swarm: {reason}");
        // A log elsewhere needs no room here; what the other managers said is no matter of room either.
        let on_disk = self.config.store.is_none() && Manager::exists(dir);
        if on_disk {
            let room = format!(
                "; free space on the file system of {}, and it goes on by itself",
                dir.display()
            );
            text.push_str(&room);
        } else {
            text.push_str("; it is tried again until it works");
        }
        tracing::error!(reason, "the manager takes no part until this is mended");
        self.take_down(&text).await;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
            let mut slot = self.manager.lock().await;
            if slot.is_some() || self.config.identity.role() != NodeRole::Manager {
                self.config.control.set_trouble(None);
                return;
            }
            if !has_room(dir) {
                continue;
            }
            match start_manager(&self.config, &self.port, Start::Again).await {
                Ok(running) => {
                    *slot = Some(running);
                    self.config.control.set_trouble(None);
                    tracing::info!("the manager is back");
                    return;
                }
                Err(failure) => tracing::warn!(reason = failure.text, "the manager can't start yet"),
            }
        }
    }
}

/// Whether the file system of `dir` has space to go on with.
fn has_room(dir: &Path) -> bool {
    match rustix::fs::statvfs(dir) {
        Ok(found) => found.f_bavail * found.f_frsize >= ROOM.min(found.f_blocks * found.f_frsize / 4),
        // The start itself will say what is wrong.
        Err(_) => true,
    }
}
