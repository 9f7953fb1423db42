//! Drives a task's container.

use std::sync::{Arc, PoisonError};

use pontoon_engine::{Engine, Error, Phase};
use pontoon_proto::v1::{
    Container, ContainerState, ContainerStatus, HealthState, LogsRequest, StopContainerRequest,
    TaskAssignment,
};
use tokio::sync::watch;

use super::engine::Ranks;
use super::request::{self, TASK_ID, task_name};
use super::{Controller, Credentials, Exit, Progress, StepError, placeholder};
use crate::Images;

/// Lines of output that go into the error of a failed task.
const LAST_LINES: u64 = 3;
/// Characters kept of each.
const LINE: usize = 200;

/// One task's container.
pub(super) struct ContainerController {
    engine: Arc<Engine>,
    task: TaskAssignment,
    name: String,
    hostname: String,
    ranks: Ranks,
    images: Option<Arc<Images>>,
}

impl ContainerController {
    /// `hostname` is the node's.
    pub(super) fn new(engine: Arc<Engine>, task: TaskAssignment, hostname: String, ranks: Ranks) -> Self {
        Self {
            engine,
            images: None,
            name: task_name(&task),
            hostname,
            task,
            ranks,
        }
    }

    /// With what brings images from elsewhere.
    pub(super) fn with_images(mut self, images: Option<Arc<Images>>) -> Self {
        self.images = images;
        self
    }

    /// The container, if it is there and this task's.
    fn find(&self) -> Option<Container> {
        let container = self.engine.inspect(&self.name).ok()?;
        let owner = container
            .config
            .as_ref()
            .and_then(|config| config.labels.get(TASK_ID));
        (owner == Some(&self.task.task_id)).then_some(container)
    }

    fn watch(&self) -> Result<watch::Receiver<Phase>, StepError> {
        self.engine.watch(&self.name).map_err(fail)
    }

    async fn exit(&self, phase: Phase, unhealthy: bool) -> Exit {
        let mut details = Vec::new();
        if unhealthy {
            details.push("unhealthy container".to_owned());
        }
        if phase.oom_killed {
            details.push("out of memory".to_owned());
        }
        if !phase.error.is_empty() {
            details.push(phase.error);
        }
        if phase.exit_code != 0 {
            details.extend(self.last_lines().await);
        }
        Exit {
            code: phase.exit_code,
            details,
        }
    }

    async fn last_lines(&self) -> Option<String> {
        let request = LogsRequest {
            target: self.name.clone(),
            stdout: true,
            stderr: true,
            tail: Some(LAST_LINES),
            ..LogsRequest::default()
        };
        let mut entries = self.engine.logs(&request).ok()?;
        let mut lines = Vec::new();
        while let Some(Ok(entry)) = entries.recv().await {
            let text = String::from_utf8_lossy(&entry.line);
            let line: String = text.trim().chars().take(LINE).collect();
            if !line.is_empty() {
                lines.push(line);
            }
        }
        (!lines.is_empty()).then(|| format!("last output: {}", lines.join(" | ")))
    }

    async fn stop(&self) -> Result<(), Error> {
        let request = StopContainerRequest {
            target: self.name.clone(),
            ..StopContainerRequest::default()
        };
        match self.engine.stop(request).await {
            Err(Error::NoSuchContainer(_)) => Ok(()),
            other => other,
        }
    }
}

fn fail(error: Error) -> StepError {
    StepError::Fail(error.chain())
}

fn has_ended(phase: &Phase) -> bool {
    phase.removed || !matches!(phase.state, ContainerState::Running | ContainerState::Paused)
}

#[tonic::async_trait]
impl Controller for ContainerController {
    async fn fetch(&self, credentials: Credentials) -> Result<(), StepError> {
        let container = self.task.spec.as_ref().and_then(|spec| spec.container.as_ref());
        match (&self.images, container) {
            (Some(images), Some(container)) if self.find().is_none() => images
                .provide(&container.image, credentials)
                .await
                .map_err(StepError::Reject),
            _ => Ok(()),
        }
    }

    async fn prepare(&self) -> Result<Progress, StepError> {
        if let Some(container) = self.find() {
            return Ok(match container.state() {
                ContainerState::Created => Progress::Prepared,
                ContainerState::Running | ContainerState::Paused | ContainerState::Restarting => {
                    Progress::Running
                }
                _ => Progress::Ended,
            });
        }
        let mut request = {
            let ranks = self.ranks.read().unwrap_or_else(PoisonError::into_inner);
            request::create(&self.task, |network| {
                ranks.get(network).copied().unwrap_or_default()
            })
        };
        if let Some(config) = &mut request.config {
            placeholder::expand(config, &self.task, &self.hostname).map_err(StepError::Reject)?;
        }
        match self.engine.create(request).await {
            Ok(_) => Ok(Progress::Prepared),
            Err(error @ Error::ShuttingDown(_)) => Err(fail(error)),
            Err(error) => Err(StepError::Reject(error.chain())),
        }
    }

    async fn start(&self) -> Result<(), StepError> {
        self.engine.start(&self.name).await.map_err(fail)
    }

    async fn wait_ready(&self) -> Result<Option<Exit>, StepError> {
        let mut phase = self.watch()?;
        let decided = |phase: &Phase| has_ended(phase) || phase.health != HealthState::Starting;
        let reached = match phase.wait_for(decided).await {
            Ok(phase) => phase.clone(),
            Err(_) => return Err(fail(Error::NoSuchContainer(self.name.clone()))),
        };
        if has_ended(&reached) {
            return Ok(Some(self.exit(reached, false).await));
        }
        if reached.health == HealthState::Unhealthy {
            self.stop().await.map_err(fail)?;
            let ended = phase.borrow().clone();
            return Ok(Some(self.exit(ended, true).await));
        }
        Ok(None)
    }

    async fn wait_exit(&self) -> Result<Exit, StepError> {
        let mut phase = self.watch()?;
        let decided = |phase: &Phase| has_ended(phase) || phase.health == HealthState::Unhealthy;
        let reached = match phase.wait_for(decided).await {
            Ok(phase) => phase.clone(),
            Err(_) => return Err(fail(Error::NoSuchContainer(self.name.clone()))),
        };
        if has_ended(&reached) {
            return Ok(self.exit(reached, false).await);
        }
        self.stop().await.map_err(fail)?;
        let ended = phase.borrow().clone();
        let mut exit = self.exit(ended, true).await;
        // A program that ends well when asked to is no success here.
        if exit.code == 0 {
            exit.code = 1;
        }
        Ok(exit)
    }

    async fn shutdown(&self) -> Result<(), StepError> {
        self.stop().await.map_err(fail)
    }

    async fn remove(&self) -> Result<(), StepError> {
        if self.find().is_none() {
            return Ok(());
        }
        match self.engine.remove_with_volumes(&self.name, true).await {
            Ok(()) | Err(Error::NoSuchContainer(_)) => Ok(()),
            Err(error) => Err(fail(error)),
        }
    }

    async fn status(&self) -> Option<ContainerStatus> {
        let container = self.find()?;
        Some(ContainerStatus {
            container_id: container.id,
            pid: container.pid,
            exit_code: container.exit_code,
            oom_killed: container.oom_killed,
        })
    }
}
