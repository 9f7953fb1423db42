//! The role that the cluster gives this node, and what follows from it: promoted, the node fetches a manager's certificate and joins the
//! log's group; demoted (its member is gone by then), it drops the controller and takes a worker's certificate. A task of [`super::node`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pontoon_agent::Agent;
use pontoon_identity::renew;
use pontoon_proto::v1::NodeRole;
use tokio_util::sync::CancellationToken;

use super::describe;
use super::node::{ManagerSlot, NodeConfig, Start, manager_addrs, start_manager, stop_manager};
use super::port::ClusterPort;

/// Pause before a role change that failed is tried again.
const ROLE_RETRY: Duration = Duration::from_millis(500);

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
        loop {
            let node = own_node.borrow_and_update().clone();
            if let Some(node) = node {
                let wanted = node.spec.as_ref().map_or(node.role(), |spec| spec.role());
                let has = self.config.identity.role();
                let changed = match (has, wanted) {
                    (NodeRole::Worker, NodeRole::Manager) => self.promote().await,
                    // The node's own role says worker only once the others have let its raft member go.
                    (NodeRole::Manager, NodeRole::Worker) if node.role() == NodeRole::Worker => {
                        self.demote().await
                    }
                    _ => Ok(()),
                };
                if let Err(reason) = changed {
                    tracing::warn!(%reason, "role change failed; trying again");
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(ROLE_RETRY) => continue,
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = own_node.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
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
        renew_role(config, &self.agent).await?;
        tracing::info!("this node is a worker now");
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
