//! `exec`: a further process in a running container.

use std::sync::Arc;

use pontoon_proto::v1::{ContainerState, ExecStart};
use pontoon_runtime::{ExecProcess, ExecSpec, ShimClient};

use super::{Joined, Owner, StdioEvent, StdioInput, StdioSession, carry, channels};
use crate::container::Container;
use crate::container::start::resolve_user;
use crate::engine::blocking;
use crate::event::ContainerEventKind;
use crate::spec::namespaces::Joined as JoinedNamespaces;
use crate::{Engine, Error, Result, id, spec};

/// A process that was started in a container.
pub(crate) struct Started {
    /// The exec's id.
    pub id: String,
    /// The process.
    pub process: ExecProcess,
}

impl Engine {
    /// Starts a further process in a running container. The session's last event is its exit code; a detached one
    /// has no events.
    ///
    /// # Errors
    /// The container does not run, or [`Error::Start`] with 126 or 127 when the program could not be executed.
    pub async fn exec(self: &Arc<Self>, start: ExecStart) -> Result<StdioSession> {
        let container = self.containers.find(&start.target)?;
        if start.command.is_empty() {
            return Err(Error::Invalid("No exec command specified".to_owned()));
        }
        match container.state() {
            ContainerState::Running => {}
            ContainerState::Paused => {
                return Err(Error::Conflict(format!(
                    "Container {} is paused, unpause the container before exec",
                    start.target
                )));
            }
            ContainerState::Restarting => {
                return Err(Error::Conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    start.target
                )));
            }
            _ => return Err(Error::NotRunning(container.id.clone())),
        }
        let shim = container.shim()?;
        let Started { id, mut process } = self.exec_process(&container, &shim, &start).await?;
        let (output, from_process, to_process, input) = channels();
        let session = StdioSession {
            id: id.clone(),
            output: from_process,
            input: to_process,
        };
        let engine = self.clone();
        let died = move |exit: Result<i32, &pontoon_runtime::Error>| {
            let exec = id.clone();
            container.live().execs.remove(&exec);
            if let Ok(exit_code) = exit {
                engine.emit_for(&container, ContainerEventKind::ExecDied { exec, exit_code });
            }
        };
        if start.detach {
            let stop = self.stop.clone();
            self.tasks.spawn(async move {
                // After a restart of the daemon it is found again.
                if let Some(end) = stop.run_until_cancelled(process.wait()).await {
                    died(end.as_ref().copied());
                }
            });
            return Ok(session);
        }
        if let Some(size) = start.size {
            let resize = StdioInput::Resize {
                rows: u16::try_from(size.rows).unwrap_or(u16::MAX),
                columns: u16::try_from(size.columns).unwrap_or(u16::MAX),
            };
            // The channel is new: it has room.
            session.input.try_send(resize).ok();
        }
        let id = session.id.clone();
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let attachment = process.attachment.take();
            let whole = async {
                if let Some(attachment) = attachment {
                    carry(Joined { shim, attachment }, Owner::Exec(&id), &output, input).await;
                }
                process.wait().await
            };
            let Some(end) = stop.run_until_cancelled(whole).await else {
                return;
            };
            died(end.as_ref().copied());
            let event = end
                .map(StdioEvent::Exit)
                .map_err(|error| Error::runtime(format!("wait for exec {id}"), error));
            // Nobody listens any more: then nobody wants to know.
            output.send(event).await.ok();
        });
        Ok(session)
    }

    /// Finds the execs of a container again that ran on while the daemon was away.
    pub(crate) async fn adopt_execs(self: &Arc<Self>, container: &Arc<Container>, shim: &ShimClient) {
        let execs = match shim.state().await {
            Ok(state) => state.execs,
            // Its end is the watcher's business.
            Err(_) => return,
        };
        for exec in execs {
            container.live().execs.insert(exec.clone());
            let (engine, container, shim) = (self.clone(), container.clone(), shim.clone());
            self.tasks.spawn(async move {
                let ended = tokio::select! {
                    ended = shim.wait_exec(&exec) => ended,
                    () = engine.stop.cancelled() => return,
                };
                container.live().execs.remove(&exec);
                if let Ok(exit_code) = ended {
                    engine.emit_for(&container, ContainerEventKind::ExecDied { exec, exit_code });
                }
            });
        }
    }

    /// Starts a process as `exec` and health checks do.
    pub(crate) async fn exec_process(
        self: &Arc<Self>,
        container: &Container,
        shim: &ShimClient,
        start: &ExecStart,
    ) -> Result<Started> {
        let record = container.record();
        let config = record.config();
        let user = if start.user.is_empty() {
            config.user.clone()
        } else {
            start.user.clone()
        };
        let (images, owner) = (self.images.clone(), container.id.clone());
        // `--group-add` holds for every process of the container, as in Docker.
        let groups = config.groups.clone();
        let user = blocking(move || {
            let rootfs = images.rootfs(&owner).map_err(Error::Image)?;
            resolve_user(&images, &rootfs, &user, &groups)
        })
        .await?;
        let process = spec::process::exec(
            &spec::Inputs {
                mounts: &[],
                config: &config,
                host: &record.host(),
                user: &user,
                dir: &container.dir,
                rootfs: &container.run_dir,
                netns: None,
                hostname: &record.config().hostname,
                domainname: &record.domainname,
                cgroup: self.cgroup(&container.id),
                joined: &JoinedNamespaces::default(),
                defaults: &self.config.containers,
                remap: None,
            },
            start,
        )?;
        let id = id::generate();
        let wanted = ExecSpec {
            id: id.clone(),
            process,
            tty: start.tty,
            stdin: start.stdin,
            detach: start.detach,
        };
        let command = start.command.join(" ");
        self.emit_for(
            container,
            ContainerEventKind::ExecCreated {
                exec: id.clone(),
                command: command.clone(),
            },
        );
        let failed = |error| Error::runtime(format!("exec in container {}", id::short(&container.id)), error);
        let process = shim.exec(wanted).await.map_err(failed)?;
        container.live().execs.insert(id.clone());
        self.emit_for(
            container,
            ContainerEventKind::ExecStarted {
                exec: id.clone(),
                command,
            },
        );
        Ok(Started { id, process })
    }
}
