//! `stop`, `kill`, `restart`, `pause`, `unpause`, `rename`.

use std::sync::Arc;
use std::time::Duration;

use pontoon_proto::v1::{ContainerState, StopContainerRequest};

use super::Container;
use super::record::has_process;
use crate::event::ContainerEventKind;
use crate::{Engine, Error, Result, id, name, signal};

/// Time between the stop signal and SIGKILL when nothing else is said.
const GRACE: Duration = Duration::from_secs(10);
/// How long SIGKILL may take before the whole cgroup is destroyed from outside.
const KILL_GRACE: Duration = Duration::from_secs(10);

impl Engine {
    /// Sends the stop signal, then SIGKILL after the grace period. A container that does not run is left alone.
    /// When this returns, its ports and addresses are free.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], a bad signal, or the shim can't be reached.
    pub async fn stop(self: &Arc<Self>, request: StopContainerRequest) -> Result<()> {
        let container = self.containers.find(&request.target)?;
        let engine = self.clone();
        self.whole(async move { engine.stop_now(&container, &request).await })
            .await
    }

    /// Stops and starts.
    ///
    /// # Errors
    /// As [`Engine::stop`] and [`Engine::start`].
    pub async fn restart(self: &Arc<Self>, request: StopContainerRequest) -> Result<()> {
        let container = self.containers.find(&request.target)?;
        let engine = self.clone();
        self.whole(async move {
            // One that is removed at its end stays, and who follows its log goes on: this end is only half a restart.
            container.live().keep = true;
            container.set_restarting(true);
            let mut restarted = engine.stop_now(&container, &request).await;
            container.live().keep = false;
            if restarted.is_ok() {
                restarted = engine.start(&container.id).await;
            }
            container.set_restarting(false);
            restarted?;
            engine.emit_for(&container, ContainerEventKind::Restarted);
            Ok(())
        })
        .await
    }

    async fn stop_now(self: &Arc<Self>, container: &Container, request: &StopContainerRequest) -> Result<()> {
        let config = container.read(|record| record.config());
        let wanted = [request.signal.as_str(), config.stop_signal.as_str()];
        let number = match wanted.into_iter().find(|name| !name.is_empty()) {
            Some(name) => signal::parse(name)?,
            None => signal::TERM,
        };
        let grace = match request.timeout {
            Some(seconds) if seconds < 0 => None,
            Some(seconds) => Some(Duration::from_secs(u64::from(seconds.unsigned_abs()))),
            None if config.stop_grace_period > 0 => {
                Some(Duration::from_nanos(config.stop_grace_period.unsigned_abs()))
            }
            None => Some(GRACE),
        };
        let _operation = container.operation.lock().await;
        if let Some(backoff) = container.live().restart.take() {
            backoff.cancel();
        }
        match container.state() {
            ContainerState::Restarting => give_up_restart(container),
            state if has_process(state) => {
                container.note(|record| record.stopped_by_user = true);
                self.terminate(container, number, grace).await?;
                self.release(container).await;
                self.emit_for(container, ContainerEventKind::Stopped);
                Ok(())
            }
            _ => {
                container.note(|record| record.stopped_by_user = true);
                Ok(())
            }
        }
    }

    /// Ends the process: a signal, the grace period (`None`: for ever), SIGKILL, then the cgroup as a whole.
    pub(crate) async fn terminate(
        &self,
        container: &Container,
        number: i32,
        grace: Option<Duration>,
    ) -> Result<()> {
        let mut phase = container.watch();
        let ended = phase.borrow_and_update().exits;
        let Ok(shim) = container.shim() else { return Ok(()) };
        let mut ends = async |limit: Option<Duration>| {
            let wait = phase.wait_for(|phase| phase.exits > ended || phase.removed);
            tokio::select! {
                _ = wait => Ok(true),
                () = sleep_for(limit) => Ok(false),
                // Nobody looks after the container from now on, so its end would not be seen.
                () = self.stop.cancelled() => {
                    Err(Error::ShuttingDown("stop the container again when the daemon is back"))
                }
            }
        };
        for (number, limit) in [(number, grace), (signal::KILL, Some(KILL_GRACE))] {
            let hangs = self.signal(container, &shim, number).await;
            if !hangs && ends(limit).await? {
                return Ok(());
            }
        }
        pontoon_runtime::destroy(&container.run_dir)
            .await
            .map_err(|error| Error::runtime(format!("kill container {}", id::short(&container.id)), error))?;
        ends(None).await.map(drop)
    }

    /// Sends a signal and thaws a frozen container so that it takes effect. That the process has ended meanwhile is
    /// no error. True when the shim hangs: then only destroying helps.
    async fn signal(&self, container: &Container, shim: &pontoon_runtime::ShimClient, number: i32) -> bool {
        if let Err(error) = shim.kill(number, false).await {
            tracing::debug!(container = container.id, error = error.chain(), "signal not sent");
            if matches!(error, pontoon_runtime::Error::Hangs(_)) {
                return true;
            }
        }
        self.emit(&container.id, ContainerEventKind::Killed { signal: number });
        if container.state() == ContainerState::Paused
            && let Err(error) = shim.resume().await
        {
            tracing::debug!(container = container.id, error = error.chain(), "could not thaw");
        }
        false
    }

    /// Sends a signal, SIGKILL by default; after SIGKILL it waits for the end.
    ///
    /// # Errors
    /// The container does not run, or the signal is unknown.
    pub async fn kill(self: &Arc<Self>, target: &str, signal_name: &str) -> Result<()> {
        let container = self.containers.find(target)?;
        let number = if signal_name.is_empty() {
            signal::KILL
        } else {
            signal::parse(signal_name)?
        };
        let engine = self.clone();
        let target = target.to_owned();
        self.whole(async move { engine.kill_now(&container, &target, number).await })
            .await
    }

    async fn kill_now(&self, container: &Container, target: &str, number: i32) -> Result<()> {
        let not_running = || {
            Error::Conflict(format!(
                "Cannot kill container: {target}: Container {} is not running",
                container.id
            ))
        };
        if container.state() == ContainerState::Restarting {
            // There is nothing to signal: it is not started again.
            let _operation = container.operation.lock().await;
            if container.state() == ContainerState::Restarting {
                return give_up_restart(container);
            }
        }
        if !has_process(container.state()) {
            return Err(not_running());
        }
        let shim = container.shim().map_err(|_| not_running())?;
        let stop_signal = container.read(|record| record.config().stop_signal);
        let stops = number == signal::KILL || number == signal::parse(&stop_signal).unwrap_or(signal::TERM);
        if stops {
            container.note(|record| record.stopped_by_user = true);
        }
        if number == signal::KILL {
            return self.terminate(container, number, Some(KILL_GRACE)).await;
        }
        shim.kill(number, false)
            .await
            .map_err(|error| Error::runtime(format!("Cannot kill container: {target}"), error))?;
        self.emit(&container.id, ContainerEventKind::Killed { signal: number });
        if stops && container.state() == ContainerState::Paused {
            // A frozen process would not hear of its end.
            let _operation = container.operation.lock().await;
            if container.state() == ContainerState::Paused {
                shim.resume().await.map_err(|error| {
                    Error::runtime(format!("Cannot unpause container {}", container.id), error)
                })?;
                change_running(container, ContainerState::Running)?;
                self.emit(&container.id, ContainerEventKind::Unpaused);
            }
        }
        Ok(())
    }

    /// Freezes a running container.
    ///
    /// # Errors
    /// It does not run, is frozen already, or the kernel refuses.
    pub async fn pause(self: &Arc<Self>, target: &str) -> Result<()> {
        let container = self.containers.find(target)?;
        let engine = self.clone();
        self.whole(async move {
            let _operation = container.operation.lock().await;
            match container.state() {
                ContainerState::Running => {}
                ContainerState::Paused => {
                    return Err(Error::Conflict(format!(
                        "Container {} is already paused",
                        container.id
                    )));
                }
                ContainerState::Restarting => {
                    return Err(Error::Conflict(format!(
                        "Container {} is restarting, wait until the container is running",
                        container.id
                    )));
                }
                _ => {
                    return Err(Error::Conflict(format!(
                        "Container {} is not running",
                        container.id
                    )));
                }
            }
            let failed = |error| Error::runtime(format!("Cannot pause container {}", container.id), error);
            container.live().pauses += 1;
            container.shim()?.pause().await.map_err(failed)?;
            change_running(&container, ContainerState::Paused)?;
            engine.emit(&container.id, ContainerEventKind::Paused);
            Ok(())
        })
        .await
    }

    /// Thaws a frozen container.
    ///
    /// # Errors
    /// It is not frozen, or the kernel refuses.
    pub async fn unpause(self: &Arc<Self>, target: &str) -> Result<()> {
        let container = self.containers.find(target)?;
        let engine = self.clone();
        self.whole(async move {
            let _operation = container.operation.lock().await;
            if container.state() != ContainerState::Paused {
                return Err(Error::Conflict(format!(
                    "Container {} is not paused",
                    container.id
                )));
            }
            let failed = |error| Error::runtime(format!("Cannot unpause container {}", container.id), error);
            container.shim()?.resume().await.map_err(failed)?;
            change_running(&container, ContainerState::Running)?;
            engine.emit(&container.id, ContainerEventKind::Unpaused);
            Ok(())
        })
        .await
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// The name is bad or taken.
    pub async fn rename(self: &Arc<Self>, target: &str, new: &str) -> Result<()> {
        let container = self.containers.find(target)?;
        if new.is_empty() {
            return Err(Error::Invalid(
                "Neither old nor new names may be empty".to_owned(),
            ));
        }
        let refused = |error: Error| match error {
            Error::Invalid(text) => Error::Invalid(format!("Error when allocating new name: {text}")),
            Error::NameInUse { .. } => Error::Conflict(format!("Error when allocating new name: {error}")),
            other => other,
        };
        let rooted = format!("/{}", new.strip_prefix('/').unwrap_or(new));
        let new = name::validate(&rooted).map_err(refused)?.to_owned();
        let engine = self.clone();
        self.whole(async move {
            let _operation = container.operation.lock().await;
            let old = container.read(|record| record.view().name.clone());
            if old == new {
                return Err(Error::Invalid(
                    "Renaming a container with the same name as its current name".to_owned(),
                ));
            }
            engine.containers.reserve(&new, &container.id).map_err(refused)?;
            let renamed = container.update(|record| record.view_mut().name.clone_from(&new));
            if renamed.is_err() {
                container
                    .update(|record| record.view_mut().name.clone_from(&old))
                    .ok();
                engine.containers.release(&new, &container.id);
                return renamed;
            }
            engine.containers.release(&old, &container.id);
            engine.emit(&container.id, ContainerEventKind::Renamed { old, name: new });
            let (told, renamed) = (engine.clone(), container.clone());
            // In the background: the managers may be away.
            engine
                .tasks
                .spawn(async move { told.rename_in_cluster(&renamed).await });
            Ok(())
        })
        .await
    }
}

/// Takes back a restart that waits for its time; the caller has the operation lock.
fn give_up_restart(container: &Container) -> Result<()> {
    if let Some(backoff) = container.live().restart.take() {
        backoff.cancel();
    }
    container.note(|record| {
        record.stopped_by_user = true;
        record.view_mut().set_state(ContainerState::Exited);
    });
    Ok(())
}

/// Sets the state unless the process has ended meanwhile.
pub(crate) fn change_running(container: &Container, state: ContainerState) -> Result<()> {
    container.update(|record| {
        if has_process(record.view().state()) {
            record.view_mut().set_state(state);
        }
    })
}

async fn sleep_for(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
