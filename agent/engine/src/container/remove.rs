//! `rm`, and the removal of containers that are removed at their end.

use std::sync::Arc;

use pontoon_proto::v1::ContainerState;

use super::Container;
use super::record::has_process;
use crate::engine::blocking;
use crate::event::ContainerEventKind;
use crate::{Engine, Error, Result, signal};

impl Engine {
    /// Removes a container with all its files.
    ///
    /// # Errors
    /// It runs and `force` is not given; or its files can't be removed, then it stays as `dead`.
    pub async fn remove(self: &Arc<Self>, target: &str, force: bool) -> Result<()> {
        let container = self.containers.find(target)?;
        let engine = self.clone();
        self.whole(async move { engine.remove_now(&container, force, false).await })
            .await
    }

    /// As [`Engine::remove`], and the container's anonymous volumes go too, unless another container has them.
    ///
    /// # Errors
    /// As [`Engine::remove`].
    pub async fn remove_with_volumes(self: &Arc<Self>, target: &str, force: bool) -> Result<()> {
        let container = self.containers.find(target)?;
        let engine = self.clone();
        self.whole(async move { engine.remove_now(&container, force, true).await })
            .await
    }

    async fn remove_now(self: &Arc<Self>, container: &Container, force: bool, volumes: bool) -> Result<()> {
        loop {
            let state = container.state();
            let busy = has_process(state) || state == ContainerState::Restarting;
            if busy && !force {
                return Err(refusal(container, state));
            }
            if busy {
                // Not under the lock: a `stop` with a long grace period may hold it.
                container.note(|record| record.stopped_by_user = true);
                self.terminate(container, signal::KILL, Some(std::time::Duration::from_secs(10)))
                    .await?;
            }
            // Copies must not keep who holds the lock, nor this removal.
            container.gate.end_all();
            let _operation = container.operation.lock().await;
            if has_process(container.state()) {
                continue;
            }
            return match self.remove_locked(container, volumes).await {
                // Removed at its end, which this removal may have brought about.
                Err(Error::NoSuchContainer(_)) if force && container.read(|r| r.host().auto_remove) => Ok(()),
                removed => removed,
            };
        }
    }

    /// Removes a container that has no process; the caller has its operation lock.
    async fn remove_locked(self: &Arc<Self>, container: &Container, volumes: bool) -> Result<()> {
        if container.watch().borrow().removed {
            return Err(Error::NoSuchContainer(container.id.clone()));
        }
        if let Some(backoff) = container.live().restart.take() {
            backoff.cancel();
        }
        container.live().pending.clear();
        let _files = container.gate.clear().await;
        // One that is removed at its end needs no note: a restarted daemon removes it when it finds it ended.
        if !container.read(|record| record.host().auto_remove) {
            container.note(|record| {
                record.removing = true;
                record.removing_volumes |= volumes;
                record.view_mut().set_state(ContainerState::Removing);
            });
        }
        self.release(container).await;
        let planned = container.read(|record| record.mounts.clone());
        // While the record is still there: a daemon that is killed in between goes on with the removal.
        if let Err(error) = self.release_volumes(&container.id, planned, volumes).await {
            container
                .update(|record| record.view_mut().set_state(ContainerState::Dead))
                .ok();
            return Err(error);
        }
        let (images, id, dir) = (self.images.clone(), container.id.clone(), container.dir.clone());
        let removed = blocking(move || {
            images.remove_rootfs(&id).map_err(Error::Image)?;
            match std::fs::remove_dir_all(&dir) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other.map_err(|source| Error::Io {
                    what: format!("remove {}", dir.display()),
                    source,
                }),
            }
        })
        .await;
        if let Err(error) = removed {
            container
                .update(|record| record.view_mut().set_state(ContainerState::Dead))
                .ok();
            return Err(error);
        }
        self.containers.remove(&container.id);
        container.mark_removed();
        self.emit_for(container, ContainerEventKind::Destroyed);
        Ok(())
    }

    /// Removes a container that has ended and is to be removed then. Somebody else may have done it already.
    pub(crate) async fn remove_quietly(self: &Arc<Self>, container: &Container) {
        let _operation = container.operation.lock().await;
        let volumes = container.read(|record| record.removing_volumes || record.host().auto_remove);
        match self.remove_locked(container, volumes).await {
            Ok(()) | Err(Error::NoSuchContainer(_)) => {}
            Err(error) => {
                tracing::warn!(
                    container = container.id,
                    error = error.chain(),
                    "could not remove a container"
                );
            }
        }
    }
}

fn refusal(container: &Container, state: ContainerState) -> Error {
    let (state, advice) = match state {
        ContainerState::Paused => ("paused", "Unpause and then stop the container"),
        ContainerState::Restarting => ("restarting", "Stop the container"),
        _ => ("running", "Stop the container"),
    };
    Error::Conflict(format!(
        "You cannot remove a {state} container {}. {advice} before attempting removal or force remove",
        container.id
    ))
}
