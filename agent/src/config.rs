//! What the daemon tells the agent at its start.

use std::path::PathBuf;
use std::sync::Arc;

use pontoon_proto::v1::ManagerPeer;

use crate::exec::Executor;
use crate::{Connector, Images};

/// Settings of an [`Agent`](crate::Agent).
pub struct AgentConfig {
    /// This node's id: the CN of its certificate.
    pub node_id: String,
    /// Folder of the agent's state (`<data>/tasks`): tasks, networks, managers.
    pub state_dir: PathBuf,
    /// Managers to ask first; those learned earlier are read from the state and asked too.
    pub managers: Vec<ManagerPeer>,
    /// How managers are reached.
    pub connector: Arc<dyn Connector>,
    /// What carries out tasks; the node's is [`EngineExecutor`](crate::exec::EngineExecutor).
    pub executor: Arc<dyn Executor>,
    /// Image content between nodes; none in tests that have no engine.
    pub images: Option<Arc<Images>>,
}

impl std::fmt::Debug for AgentConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentConfig")
            .field("node_id", &self.node_id)
            .finish_non_exhaustive()
    }
}
