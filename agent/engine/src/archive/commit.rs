//! `commit`: an image from what a container has changed. Its settings become the image's defaults, as moby's
//! `CreateImageFromContainer` merges them; the container is frozen meanwhile unless the user does not want that.

use std::sync::Arc;

use pontoon_image::{CommitOptions, ContainerConfig, Healthcheck};
use pontoon_proto::v1::{CommitContainerRequest, ContainerState};

use crate::container::Container;
use crate::container::lifecycle::change_running;
use crate::container::record::Record;
use crate::engine::blocking;
use crate::event::ContainerEventKind;
use crate::{Engine, Error, Result};

impl Engine {
    /// Makes an image of a container; gives its id.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::NoSuchImage`] when the container's image was removed by force, a bad name or
    /// instruction. A container that was frozen for it runs again in any case.
    pub async fn commit(self: &Arc<Self>, request: CommitContainerRequest) -> Result<String> {
        let container = self.containers.find(&request.target)?;
        let engine = self.clone();
        self.whole(async move { engine.commit_now(&container, request).await })
            .await
    }

    async fn commit_now(
        &self,
        container: &Arc<Container>,
        request: CommitContainerRequest,
    ) -> Result<String> {
        let _operation = container.operation.lock().await;
        if container.watch().borrow().removed {
            return Err(Error::NoSuchContainer(request.target));
        }
        let record = container.record();
        let options = options(&record, &request);
        let frozen = if request.pause && record.view().state() == ContainerState::Running {
            self.freeze(container).await?
        } else {
            None
        };
        let (images, id) = (self.images.clone(), container.id.clone());
        let committed = blocking(move || {
            let parent = options.parent.clone();
            images
                .commit_container(&id, &options)
                .map_err(|error| Error::image(&parent, error))
        })
        .await;
        if let Some(shim) = frozen {
            self.thaw(container, &shim).await;
        }
        let id = committed?.to_string();
        self.emit_for(
            container,
            ContainerEventKind::Committed {
                image: id.clone(),
                reference: request.reference.clone(),
                comment: request.message,
            },
        );
        Ok(id)
    }

    /// Freezes a running container; `None` when it has just ended.
    async fn freeze(&self, container: &Arc<Container>) -> Result<Option<pontoon_runtime::ShimClient>> {
        let Ok(shim) = container.shim() else {
            return Ok(None);
        };
        match shim.pause().await {
            Ok(()) => {}
            Err(_) if container.state() != ContainerState::Running => return Ok(None),
            Err(error) => {
                let what = format!("Cannot pause container {}", container.id);
                return Err(Error::runtime(what, error));
            }
        }
        // A daemon that dies now leaves a container that says it is paused and can be thawed.
        change_running(container, ContainerState::Paused)?;
        self.emit_for(container, ContainerEventKind::Paused);
        Ok(Some(shim))
    }

    async fn thaw(&self, container: &Arc<Container>, shim: &pontoon_runtime::ShimClient) {
        match shim.resume().await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(
                    container = container.id,
                    error = error.chain(),
                    "could not thaw a container"
                );
                return;
            }
        }
        if let Err(error) = change_running(container, ContainerState::Running) {
            tracing::warn!(
                container = container.id,
                error = error.chain(),
                "could not record a thaw"
            );
        }
        self.emit_for(container, ContainerEventKind::Unpaused);
    }
}

fn options(record: &Record, request: &CommitContainerRequest) -> CommitOptions {
    let config = defaults(record);
    let command = config.cmd.clone().unwrap_or_default();
    CommitOptions {
        parent: record.view().image_id.clone(),
        reference: Some(request.reference.clone()).filter(|name| !name.is_empty()),
        author: request.author.clone(),
        message: request.message.clone(),
        changes: request.changes.clone(),
        config,
        created_by: command.join(" "),
        ids: pontoon_image::archive::IdMap::default(),
    }
}

/// A container's settings as an image's defaults.
fn defaults(record: &Record) -> ContainerConfig {
    let spec = record.config();
    let list = |words: Vec<String>| Some(words).filter(|words| !words.is_empty());
    let seconds = u64::try_from(spec.stop_grace_period / 1_000_000_000).unwrap_or(0);
    ContainerConfig {
        user: spec.user,
        exposed_ports: record.view().exposed_ports.iter().cloned().collect(),
        env: spec.env,
        entrypoint: list(spec.command),
        cmd: list(spec.args),
        working_dir: spec.dir,
        labels: spec.labels.into_iter().collect(),
        stop_signal: Some(spec.stop_signal).filter(|signal| !signal.is_empty()),
        stop_timeout: (seconds > 0).then_some(seconds),
        healthcheck: spec
            .healthcheck
            .filter(|check| !check.test.is_empty())
            .map(|check| Healthcheck {
                test: check.test,
                interval: check.interval,
                timeout: check.timeout,
                start_period: check.start_period,
                start_interval: check.start_interval,
                retries: i64::from(check.retries),
            }),
        ..ContainerConfig::default()
    }
}
