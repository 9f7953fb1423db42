//! `attach`: the streams of a container's own process, also before it is started, so that no early byte is lost.

use std::sync::Arc;

use pontoon_proto::v1::{ContainerState, LogsRequest};
use tokio::sync::{oneshot, watch};

use super::{AttachOptions, Joined, Output, Owner, StdStream, StdioEvent, StdioSession, carry, channels};
use crate::container::{Container, PendingAttach, Phase};
use crate::event::ContainerEventKind;
use crate::{Engine, Error, Result};

impl Engine {
    /// Joins a container's streams. When this returns nothing that is written from now on is lost; for a container
    /// that does not run, from its next start on. `logs`: what was written before comes first, from its log.
    /// The last event is the exit code, told when the container has ended; one that is removed at its end is gone by then.
    ///
    /// # Errors
    /// No such container, or its shim does not answer.
    pub async fn attach(
        self: &Arc<Self>,
        target: &str,
        options: AttachOptions,
        logs: bool,
    ) -> Result<StdioSession> {
        let container = self.containers.find(target)?;
        if matches!(container.state(), ContainerState::Removing | ContainerState::Dead) {
            return Err(Error::Conflict(format!(
                "container {} is marked for removal",
                container.id
            )));
        }
        let end = End::of(&container);
        let (joined, waiting) = oneshot::channel();
        let shim = {
            let mut live = container.live();
            let shim = live.shim.clone();
            if shim.is_none() {
                live.pending.retain(|client| !client.joined.is_closed());
                live.pending.push(PendingAttach { options, joined });
                None
            } else {
                shim.map(|shim| (shim, joined))
            }
        };
        if let Some((shim, joined)) = shim {
            let failed = |error| Error::runtime(format!("attach to container {}", container.id), error);
            let attachment = shim.attach(options).await.map_err(failed)?;
            drop(joined.send(Joined { shim, attachment }));
        }
        let (output, from_process, to_process, input) = channels();
        let (engine, id) = (self.clone(), container.id.clone());
        let session = id.clone();
        tokio::spawn(async move {
            if logs {
                engine.send_history(&id, options, &output).await;
            }
            let joined = tokio::select! {
                joined = waiting => joined,
                () = output.closed() => return,
            };
            // An error says that the start has failed: the one who started it knows why.
            if let Ok(joined) = joined {
                engine.emit_for(&container, ContainerEventKind::Attached);
                carry(joined, Owner::Container(&engine, &container), &output, input).await;
                tokio::select! {
                    Some(code) = end.reached() => drop(output.send(Ok(StdioEvent::Exit(code))).await),
                    () = output.closed() => engine.emit_for(&container, ContainerEventKind::Detached),
                    () = engine.stop.cancelled() => {}
                }
            }
        });
        Ok(StdioSession {
            id: session,
            output: from_process,
            input: to_process,
        })
    }

    async fn send_history(self: &Arc<Self>, id: &str, options: AttachOptions, output: &Output) {
        let request = LogsRequest {
            target: id.to_owned(),
            stdout: options.stdout,
            stderr: options.stderr,
            ..LogsRequest::default()
        };
        let mut entries = match self.logs(&request) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::debug!(container = id, error = error.chain(), "no log to replay");
                return;
            }
        };
        while let Some(Ok(entry)) = entries.recv().await {
            let stream = if entry.stream == 2 {
                StdStream::Stderr
            } else {
                StdStream::Stdout
            };
            if output
                .send(Ok(StdioEvent::Output(stream, entry.line)))
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

/// The next end of a container, seen from when a client attached.
struct End {
    phase: watch::Receiver<Phase>,
    exits: u64,
    auto_remove: bool,
}

impl End {
    fn of(container: &Container) -> Self {
        let phase = container.watch();
        let exits = phase.borrow().exits;
        Self {
            phase,
            exits,
            auto_remove: container.read(|record| record.host().auto_remove),
        }
    }

    /// The exit code, once nothing of the end is outstanding: after `--rm` the name is free again. `None` if nobody looks
    /// after the container any more.
    async fn reached(mut self) -> Option<i32> {
        let over = |phase: &Phase| {
            // Dead: it can't be removed, and waiting longer does not help.
            let settled = !self.auto_remove || phase.state == ContainerState::Dead;
            phase.removed || (phase.exits > self.exits && settled)
        };
        self.phase.wait_for(over).await.ok().map(|phase| phase.exit_code)
    }
}
