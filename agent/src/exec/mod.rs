//! What tasks are carried out with. The agent knows these traits only; the engine is behind [`EngineExecutor`], and tests
//! put something simpler there.

mod container;
mod credentials;
mod engine;
mod findings;
mod leave;
mod network;
mod placeholder;
mod request;

use std::collections::BTreeSet;
use std::sync::Arc;

use pontoon_proto::v1::{
    ContainerStatus, IngressConfig, LogEntry, LogSelector, NetworkFindings, NodeDescription, OverlayNetwork,
    TaskAssignment,
};
use tokio::sync::{mpsc, watch};

use crate::Attachments;

pub use credentials::Credentials;
pub(crate) use credentials::tidy;
pub use engine::{EngineExecutor, ExecutorOptions};
pub use leave::remove_all;
pub(crate) use network::spec_of;

/// Why a step of a task failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// The task can't run on this node: it is REJECTED.
    #[error("{0}")]
    Reject(String),
    /// The step went wrong: the task has FAILED.
    #[error("{0}")]
    Fail(String),
}

/// How far a task's container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It waits for its start.
    Prepared,
    /// Its program runs.
    Running,
    /// Its program has ended.
    Ended,
}

/// How a task's program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, 128 + signal when killed by one.
    pub code: i32,
    /// What to say of it besides the code: lack of memory, failed health checks.
    pub details: Vec<String>,
    /// The last lines that a program which failed had said.
    pub output: Vec<String>,
}

/// Drives the container of one task. Each step can be repeated: it does what is missing.
#[tonic::async_trait]
pub trait Controller: Send + Sync + 'static {
    /// Brings what the container is made of from elsewhere: its image. May take long; dropping it ends it.
    async fn fetch(&self, credentials: Credentials) -> Result<(), StepError> {
        let _ = credentials;
        Ok(())
    }
    /// Makes the container, or finds the one that was made before; says how far it is.
    async fn prepare(&self) -> Result<Progress, StepError>;
    /// Starts the program.
    async fn start(&self) -> Result<(), StepError>;
    /// Waits until the started program may be given traffic: at once, or when its health check says so.
    /// `Ok(Some)`: it has ended before.
    async fn wait_ready(&self) -> Result<Option<Exit>, StepError>;
    /// Waits for the program's end.
    async fn wait_exit(&self) -> Result<Exit, StepError>;
    /// Waits until the health check of the program that runs fails; for ever, if it has none.
    async fn wait_unhealthy(&self) {
        std::future::pending().await
    }
    /// Ends a program whose health check fails; says that too.
    async fn end_unhealthy(&self) -> Result<Exit, StepError> {
        self.shutdown().await?;
        self.wait_exit().await
    }
    /// Ends the program: stop signal, grace period, SIGKILL.
    async fn shutdown(&self) -> Result<(), StepError>;
    /// Removes the container with its log.
    async fn remove(&self) -> Result<(), StepError>;
    /// What is known of the container.
    async fn status(&self) -> Option<ContainerStatus>;
}

/// A node's means to carry out tasks.
#[tonic::async_trait]
pub trait Executor: Send + Sync + 'static {
    /// What the node is.
    async fn describe(&self) -> NodeDescription;
    /// Changes when the node has become another than it was described as.
    fn changes(&self) -> Option<watch::Receiver<u64>> {
        None
    }
    /// Drives one task.
    fn controller(&self, task: &TaskAssignment) -> Box<dyn Controller>;
    /// Programs an overlay network: its whole truth.
    async fn set_network(&self, network: &OverlayNetwork) -> Result<(), String>;
    /// Forgets an overlay network.
    async fn remove_network(&self, id: &str) -> Result<(), String>;
    /// Programs the routing mesh, or leaves it.
    async fn set_ingress(&self, ingress: Option<&IngressConfig>) -> Result<(), String>;
    /// Compares these networks, or all, with what they should be, tries how other nodes are reached in them, and with `repair` puts right what
    /// is found.
    async fn check_networks(&self, ids: &[String], repair: bool) -> Result<NetworkFindings, String> {
        let _ = (ids, repair);
        Err("this node can't check networks".to_owned())
    }
    /// Images of all tasks that are held, as their specs name them: they are not to be removed to make room.
    fn set_images(&self, images: BTreeSet<String>) {
        let _ = images;
    }
    /// What containers that are no tasks have in the cluster's networks; none in tests that have no engine.
    fn attachments(&self) -> Option<Arc<Attachments>> {
        None
    }
    /// Ids of all tasks that have a container here.
    async fn tasks(&self) -> Vec<String>;
    /// Removes whatever containers a task has that nobody knows any more.
    async fn remove_task(&self, task_id: &str) -> Result<(), String>;
    /// Reads the log of a task's container. Following ends with the container.
    async fn logs(&self, task_id: &str, selector: &LogSelector) -> Result<mpsc::Receiver<LogEntry>, String>;
}
