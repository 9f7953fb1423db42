//! The role that the cluster gives this node, and what follows from it: promoted, the node fetches a manager's certificate and joins the
//! log's group; demoted (its member is gone by then), it drops the controller and takes a worker's certificate; demoted and promoted again
//! before it heard of it, it does both. A task of [`super::node`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pontoon_agent::Agent;
use pontoon_controller::Manager;
use pontoon_identity::renew;
use pontoon_proto::v1::{Node, NodeRole};
use tokio_util::sync::CancellationToken;

use super::describe;
use super::node::{ManagerSlot, NodeConfig, Start, is_taken_out, manager_addrs, start_manager, stop_manager};
use super::port::ClusterPort;

/// Pause before a role change that failed is tried again.
const ROLE_RETRY: Duration = Duration::from_millis(500);
/// Whoever is taken out of the log's group hears within this time that it was demoted, if it was.
const NEWS: Duration = Duration::from_secs(1);
/// Pause before a manager that was taken out asks again whether it may come back: who was removed altogether may not.
const COME_BACK_RETRY: Duration = Duration::from_secs(10);

/// What follows the role that the cluster gives this node.
pub(super) struct Roles {
    pub(super) config: NodeConfig,
    pub(super) port: Arc<ClusterPort>,
    pub(super) manager: Arc<ManagerSlot>,
    pub(super) agent: Arc<Agent>,
}

impl Roles {
    /// Runs until `stop`.
    pub(super) async fn follow(self, stop: CancellationToken) {
        let mut own_node = self.agent.node_updates();
        let mut is_out = false;
        loop {
            let node = own_node.borrow_and_update().clone();
            let changed = match &node {
                Some(node) => self.adopt(node, &mut is_out).await,
                None => Ok(()),
            };
            let pause = changed.err().map(|reason| {
                tracing::warn!(%reason, "role change failed; trying again");
                if is_out { COME_BACK_RETRY } else { ROLE_RETRY }
            });
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
                () = self.taken_out(), if pause.is_none() => is_out = true,
                changed = own_node.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Takes over what the cluster wants this node to be. `is_out`: its raft member is gone, and no news of a demotion came; false again
    /// once what was left of the manager is gone too.
    async fn adopt(&self, node: &Node, is_out: &mut bool) -> Result<(), String> {
        let wanted = node.spec.as_ref().map_or(node.role(), |spec| spec.role());
        match (self.config.identity.role(), wanted) {
            (NodeRole::Worker, NodeRole::Manager) => self.promote().await,
            // The node's own role says worker only once the others have let its raft member go.
            (NodeRole::Manager, NodeRole::Worker) if node.role() == NodeRole::Worker => {
                *is_out = false;
                self.demote().await
            }
            (NodeRole::Manager, NodeRole::Manager) if *is_out => {
                // First of all: who was removed altogether is refused, and keeps what it has.
                renew_role(&self.config, &self.agent).await?;
                *is_out = false;
                self.step_down().await?;
                self.promote().await
            }
            // The step down of above, but no promotion yet.
            (NodeRole::Manager, NodeRole::Manager) if self.is_bare().await => self.promote().await,
            _ => Ok(()),
        }
    }

    /// Waits until the manager here was taken out of the log's group, and for the news that would say why.
    async fn taken_out(&self) {
        let stopped = self
            .manager
            .lock()
            .await
            .as_ref()
            .map(|running| running.manager.stopped());
        if let Some(mut stopped) = stopped
            && stopped.wait_for(is_taken_out).await.is_ok()
        {
            tokio::time::sleep(NEWS).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    /// Whether nothing of a manager is here, not even one that waits for space.
    async fn is_bare(&self) -> bool {
        self.manager.lock().await.is_none()
            && !Manager::exists(&self.config.dir)
            && self.config.control.trouble().is_none()
    }

    async fn promote(&self) -> Result<(), String> {
        let config = &self.config;
        let mut slot = self.manager.lock().await;
        renew_role(config, &self.agent).await?;
        if config.identity.role() != NodeRole::Manager {
            return Err("the certificate is still a worker's".to_owned());
        }
        let mut joining = config.clone();
        joining.settings.remote_managers = manager_addrs(config, &self.agent)();
        let own = joining.settings.advertise_addr.to_string();
        joining.settings.remote_managers.retain(|addr| *addr != own);
        let started = start_manager(&joining, &self.port, Start::Joining).await;
        *slot = Some(started.map_err(|failure| failure.text)?);
        config.control.set_worker(false);
        tracing::info!("this node is a manager now");
        Ok(())
    }

    async fn demote(&self) -> Result<(), String> {
        self.step_down().await?;
        renew_role(&self.config, &self.agent).await?;
        tracing::info!("this node is a worker now");
        Ok(())
    }

    /// Ends the manager here and forgets what it knew.
    async fn step_down(&self) -> Result<(), String> {
        let config = &self.config;
        let mut slot = self.manager.lock().await;
        config.control.set_worker(true);
        if let Some(running) = slot.take() {
            stop_manager(config, &self.port, running).await;
        }
        remove_log(&config.dir).map_err(|error| format!("remove the raft log: {error}"))?;
        // Autolock is for managers.
        config.identity.set_lock(None).map_err(|error| describe(&error))?;
        config.control.set_trouble(None);
        Ok(())
    }
}

/// A certificate in the role that the cluster gives now, from any manager that answers.
async fn renew_role(config: &NodeConfig, agent: &Arc<Agent>) -> Result<(), String> {
    let mut failure = "no manager is known".to_owned();
    for addr in manager_addrs(config, agent)() {
        match renew(&config.identity, &addr).await {
            Ok(_) => return Ok(()),
            Err(error) => failure = format!("{addr}: {}", describe(&error)),
        }
    }
    Err(failure)
}

fn remove_log(dir: &Path) -> std::io::Result<()> {
    for name in [
        "raft",
        "raft.id",
        "store",
        "raft.new",
        "raft.new.id",
        "raft.keys",
        "raft.keys.tmp",
    ] {
        let path = dir.join(name);
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
