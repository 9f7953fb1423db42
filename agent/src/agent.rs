//! [`Agent`]: wires storage, worker, reporter and session together.

use std::sync::Arc;

use pontoon_proto::v1::Node;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::reporter::Reporter;
use crate::session::{Runner, SessionState};
use crate::storage::Storage;
use crate::worker::{Command, Worker};
use crate::{AgentConfig, Error, Images, Result};

/// Commands that wait for the worker: a session that runs ahead of it waits.
const COMMANDS: usize = 16;

/// A node's agent. Made by [`Agent::open`], driven by [`Agent::run`].
pub struct Agent {
    node: watch::Receiver<Option<Node>>,
    state: watch::Receiver<SessionState>,
    storage: Arc<Storage>,
    images: Option<Arc<Images>>,
    parts: Mutex<Option<(Worker, Runner, mpsc::Receiver<Command>)>>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("session", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

impl Agent {
    /// Reads the agent's state; nothing runs yet.
    ///
    /// # Errors
    /// The state's folder can't be made or read.
    pub async fn open(config: AgentConfig) -> Result<Self> {
        let storage = Arc::new(Storage::open(&config.state_dir)?);
        let reporter = Reporter::new();
        let (commands, received) = mpsc::channel(COMMANDS);
        let worker = Worker::new(storage.clone(), config.executor.clone(), reporter.clone());
        let tasks = worker.tasks();
        let images = config.images.clone();
        let runner = Runner::new(config, storage.clone(), reporter, commands, tasks);
        Ok(Self {
            node: runner.node(),
            state: runner.state(),
            storage,
            images,
            parts: Mutex::new(Some((worker, runner, received))),
        })
    }

    /// Looks after tasks and sessions until cancelled. Tasks' containers go on running afterwards. Tasks known from
    /// before are taken up first, so that they need no manager.
    ///
    /// # Errors
    /// It was run before, or no manager is known at all.
    pub async fn run(&self, cancelled: CancellationToken) -> Result<()> {
        let Some((worker, runner, received)) = self.parts.lock().await.take() else {
            return Err(Error::NoManagers);
        };
        let worker = tokio::spawn(worker.run(received, cancelled.child_token()));
        let images = self
            .images
            .clone()
            .map(|images| tokio::spawn(images.run(cancelled.child_token())));
        let outcome = runner.run(cancelled.clone()).await;
        if outcome.is_err() {
            // Without managers there is nothing to end the worker's tasks for: they go on until the daemon leaves.
            cancelled.cancelled().await;
        }
        // A panic there was reported by the runtime; nothing is left to do for it here.
        worker.await.ok();
        if let Some(images) = images {
            images.await.ok();
        }
        outcome
    }

    /// This node's own object as the managers have it: role, availability, labels.
    pub fn node_updates(&self) -> watch::Receiver<Option<Node>> {
        self.node.clone()
    }

    /// host:port of every manager, as the managers told last; none before the first session.
    pub fn managers(&self) -> Vec<String> {
        let peers = self.storage.managers().unwrap_or_default().managers;
        peers
            .into_iter()
            .map(|peer| peer.addr)
            .filter(|addr| !addr.is_empty())
            .collect()
    }

    /// How the session stands.
    pub fn session_state(&self) -> watch::Receiver<SessionState> {
        self.state.clone()
    }
}
