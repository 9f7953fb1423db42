//! Drives a task's container.

use std::sync::{Arc, PoisonError};

use pontoon_engine::{Engine, Error, Phase, killed_by};
use pontoon_proto::v1::{
    Container, ContainerState, ContainerStatus, HealthState, LogsRequest, StopContainerRequest,
    TaskAssignment,
};
use tokio::sync::watch;

use super::engine::Ranks;
use super::placeholder::Place;
use super::request::{self, TASK_ID, task_name};
use super::{Controller, Credentials, Exit, Progress, StepError, placeholder};
use crate::Images;

/// Lines of output that are kept with a failed task.
const LAST_LINES: u64 = 20;
/// Characters kept of each.
const LINE: usize = 200;
/// Bytes kept of all of them: the managers keep them as long as the task.
const OUTPUT: usize = 2048;

/// One task's container.
pub(super) struct ContainerController {
    engine: Arc<Engine>,
    task: TaskAssignment,
    name: String,
    place: Place,
    ranks: Ranks,
    images: Option<Arc<Images>>,
}

impl ContainerController {
    /// `place` is the node.
    pub(super) fn new(engine: Arc<Engine>, task: TaskAssignment, place: Place, ranks: Ranks) -> Self {
        Self {
            engine,
            images: None,
            name: task_name(&task),
            place,
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
            details.extend(self.last_check());
        } else {
            details.extend(killed_by(phase.exit_code));
        }
        if phase.oom_killed {
            details.push("out of memory".to_owned());
        }
        if !phase.error.is_empty() {
            details.push(phase.error);
        }
        let failed = unhealthy || phase.exit_code != 0;
        Exit {
            code: phase.exit_code,
            details,
            output: if failed {
                self.last_lines().await
            } else {
                Vec::new()
            },
        }
    }

    /// What the health check said last.
    fn last_check(&self) -> Option<String> {
        let health = self.find()?.health?;
        let result = health.log.last()?;
        let output: String = result.output.trim().chars().take(LINE).collect();
        Some(format!("last health check ({}): {output}", result.exit_code))
    }

    /// What the program said last, newest last.
    async fn last_lines(&self) -> Vec<String> {
        let request = LogsRequest {
            target: self.name.clone(),
            stdout: true,
            stderr: true,
            tail: Some(LAST_LINES),
            ..LogsRequest::default()
        };
        let Ok(mut entries) = self.engine.logs(&request) else {
            return Vec::new();
        };
        let mut lines = Vec::new();
        while let Some(Ok(entry)) = entries.recv().await {
            let text = String::from_utf8_lossy(&entry.line);
            let line: String = text.trim_end().chars().take(LINE).collect();
            if !line.is_empty() {
                lines.push(line);
            }
        }
        newest(lines)
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

/// As many of the last lines as may be kept.
fn newest(mut lines: Vec<String>) -> Vec<String> {
    let mut size = 0;
    let fits = |line: &&String| {
        size += line.len();
        size <= OUTPUT
    };
    let kept = lines.iter().rev().take_while(fits).count();
    lines.split_off(lines.len() - kept)
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
            placeholder::expand(config, &self.task, &self.place).map_err(StepError::Reject)?;
            config.env.extend(request::resource_environment(&self.task));
        }
        match self.engine.create_task(request).await {
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
        let reached = match phase.wait_for(has_ended).await {
            Ok(phase) => phase.clone(),
            Err(_) => return Err(fail(Error::NoSuchContainer(self.name.clone()))),
        };
        Ok(self.exit(reached, false).await)
    }

    async fn wait_unhealthy(&self) {
        let Ok(mut phase) = self.watch() else {
            return std::future::pending().await;
        };
        let failing = |phase: &Phase| !has_ended(phase) && phase.health == HealthState::Unhealthy;
        if phase.wait_for(failing).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn end_unhealthy(&self) -> Result<Exit, StepError> {
        let phase = self.watch()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept() {
        assert_eq!(newest(vec!["a".to_owned(), "b".to_owned()]), ["a", "b"]);
        let mut lines = vec!["x".repeat(LINE); 20];
        lines.push("last".to_owned());
        let kept = newest(lines);
        assert_eq!(kept.len(), 11);
        assert_eq!(kept[10], "last");
    }
}
