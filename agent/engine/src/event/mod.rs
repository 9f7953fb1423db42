//! What happens to containers, images, volumes and networks, in Docker's words. The engine's operations call
//! [`Engine::emit`] and [`Engine::emit_object`]; the agent's executors listen to [`Engine::events`], people to
//! [`Engine::watch_events`] (`pontoon events`).
//!
//! - [`log`]: the newest events, which watchers read at their own pace;
//! - [`filter`]: `events --filter`.

pub(crate) mod filter;
pub(crate) mod log;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use pontoon_proto::v1::{self, Event, EventsRequest, HealthState};
use tokio::sync::mpsc;

use crate::container::Container;
use crate::{Engine, Result, id};
use filter::EventFilter;

/// Events that wait for one client to read them; more wait in the log.
const UNREAD: usize = 64;

/// Something that happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The container's id.
    pub id: String,
    /// What happened.
    pub kind: ContainerEventKind,
    /// When, nanoseconds since the Unix epoch.
    pub time: i64,
}

/// Kinds of [`ContainerEvent`]. [`ContainerEventKind::action`] has Docker's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerEventKind {
    /// Created.
    Created,
    /// Its program runs.
    Started,
    /// Its program ended.
    Died {
        /// Exit code, 128 + signal when killed by one.
        exit_code: i32,
        /// The kernel killed one of its processes for lack of memory.
        oom_killed: bool,
    },
    /// The kernel killed one of its processes for lack of memory.
    OutOfMemory,
    /// A signal was sent.
    Killed {
        /// Its number.
        signal: i32,
    },
    /// `stop` is done.
    Stopped,
    /// `restart` is done.
    Restarted,
    /// Frozen.
    Paused,
    /// Thawed.
    Unpaused,
    /// The health check's verdict changed.
    Health(HealthState),
    /// Has another name.
    Renamed {
        /// The one before.
        old: String,
        /// The new one.
        name: String,
    },
    /// Limits or restart policy were changed.
    Updated,
    /// A client joined its streams.
    Attached,
    /// A client left its streams and it goes on.
    Detached,
    /// A further process was asked for.
    ExecCreated {
        /// Id of the exec.
        exec: String,
        /// Its words, joined by spaces.
        command: String,
    },
    /// A further process runs.
    ExecStarted {
        /// Id of the exec.
        exec: String,
        /// Its words, joined by spaces.
        command: String,
    },
    /// A further process ended.
    ExecDied {
        /// Id of the exec.
        exec: String,
        /// Exit code, 128 + signal when killed by one.
        exit_code: i32,
    },
    /// Its terminal has another size.
    Resized {
        /// Lines.
        rows: u32,
        /// Characters a line.
        columns: u32,
    },
    /// Its processes were listed.
    Top,
    /// A path was copied out.
    CopiedOut {
        /// Where from.
        path: String,
    },
    /// An archive was copied in.
    CopiedIn {
        /// Where to.
        path: String,
    },
    /// Its file system was exported.
    Exported,
    /// An image was made of it.
    Committed {
        /// Id of the image.
        image: String,
        /// Its name, empty without one.
        reference: String,
        /// The message.
        comment: String,
    },
    /// Removed.
    Destroyed,
}

impl ContainerEventKind {
    /// Docker's name of what happened.
    pub fn action(&self) -> String {
        let name = match self {
            Self::Created => "create",
            Self::Started => "start",
            Self::Died { .. } => "die",
            Self::OutOfMemory => "oom",
            Self::Killed { .. } => "kill",
            Self::Stopped => "stop",
            Self::Restarted => "restart",
            Self::Paused => "pause",
            Self::Unpaused => "unpause",
            Self::Health(state) => return format!("health_status: {}", health_name(*state)),
            Self::Renamed { .. } => "rename",
            Self::Updated => "update",
            Self::Attached => "attach",
            Self::Detached => "detach",
            Self::ExecCreated { command, .. } => return format!("exec_create: {command}"),
            Self::ExecStarted { command, .. } => return format!("exec_start: {command}"),
            Self::ExecDied { .. } => "exec_die",
            Self::Resized { .. } => "resize",
            Self::Top => "top",
            Self::CopiedOut { .. } => "archive-path",
            Self::CopiedIn { .. } => "extract-to-dir",
            Self::Exported => "export",
            Self::Committed { .. } => "commit",
            Self::Destroyed => "destroy",
        };
        name.to_owned()
    }

    /// What Docker tells besides the container's labels, image and name.
    fn attributes(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Died { exit_code, .. } => vec![("exitCode", exit_code.to_string())],
            Self::Renamed { old, .. } => vec![("oldName", format!("/{old}"))],
            Self::Killed { signal } => vec![("signal", signal.to_string())],
            Self::ExecCreated { exec, .. } | Self::ExecStarted { exec, .. } => vec![("execID", exec.clone())],
            Self::ExecDied { exec, exit_code } => {
                vec![("execID", exec.clone()), ("exitCode", exit_code.to_string())]
            }
            Self::Resized { rows, columns } => {
                vec![("height", rows.to_string()), ("width", columns.to_string())]
            }
            Self::CopiedOut { path } | Self::CopiedIn { path } => vec![("path", path.clone())],
            Self::Committed {
                image,
                reference,
                comment,
            } => vec![
                ("imageID", image.clone()),
                ("imageRef", reference.clone()),
                ("comment", comment.clone()),
            ],
            _ => Vec::new(),
        }
    }
}

/// Kinds of objects that events tell of, besides containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventObject {
    /// All containers at once (`prune`).
    Container,
    /// An image.
    Image,
    /// A volume.
    Volume,
    /// A network.
    Network,
    /// The daemon itself.
    Daemon,
}

impl EventObject {
    /// Docker's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Daemon => "daemon",
        }
    }
}

/// Docker's name of a health check's verdict.
fn health_name(state: HealthState) -> &'static str {
    match state {
        HealthState::None => "none",
        HealthState::Starting => "starting",
        HealthState::Healthy => "healthy",
        HealthState::Unhealthy => "unhealthy",
    }
}

impl Engine {
    /// Tells what happened to a container, by id. One that is not in the registry any more needs
    /// [`Engine::emit_for`].
    pub(crate) fn emit(&self, container: &str, kind: ContainerEventKind) {
        match self.containers.find(container) {
            Ok(container) => self.emit_for(&container, kind),
            Err(_) => tracing::debug!(container, ?kind, "event of a container that is gone"),
        }
    }

    /// Tells what happened to a container.
    pub(crate) fn emit_for(&self, container: &Container, kind: ContainerEventKind) {
        tracing::debug!(container = container.id, ?kind, "container event");
        let time = id::now();
        let (mut attributes, lasted) = container.read(|record| {
            let view = record.view();
            let mut attributes: HashMap<String, String> = record.config().labels.clone();
            attributes.insert("image".to_owned(), view.image.clone());
            attributes.insert("name".to_owned(), view.name.clone());
            (
                attributes,
                view.finished_at.saturating_sub(view.started_at).max(0) / 1_000_000_000,
            )
        });
        if let ContainerEventKind::Died { .. } = kind {
            attributes.insert("execDuration".to_owned(), lasted.to_string());
        }
        attributes.extend(
            kind.attributes()
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value)),
        );
        self.event_log.add(Event {
            r#type: EventObject::Container.name().to_owned(),
            action: kind.action(),
            actor_id: container.id.clone(),
            attributes,
            scope: "local".to_owned(),
            time,
        });
        // An error only says that nobody listens.
        let _ = self.events.send(ContainerEvent {
            id: container.id.clone(),
            kind,
            time,
        });
    }

    /// Tells what happened to an image, volume or network. `name` is the attribute of that name, empty for none.
    pub(crate) fn emit_object(
        &self,
        object: EventObject,
        action: &str,
        id: &str,
        attributes: impl IntoIterator<Item = (&'static str, String)>,
    ) {
        tracing::debug!(object = object.name(), action, id, "event");
        self.event_log.add(Event {
            r#type: object.name().to_owned(),
            action: action.to_owned(),
            actor_id: id.to_owned(),
            attributes: attributes
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
            scope: "local".to_owned(),
            time: id::now(),
        });
    }

    /// Takes an event of the cluster in, which has the scope `swarm`. Called on managers.
    pub fn emit_cluster(&self, event: Event) {
        self.event_log.add(event);
    }

    /// Tells that a `prune` gave back so many bytes.
    pub(crate) fn emit_pruned(&self, object: EventObject, reclaimed: u64) {
        self.emit_object(object, "prune", "", [("reclaimed", reclaimed.to_string())]);
    }

    /// Events that fit: past ones from `since` on (if given), then those to come, until `until` or until the receiver
    /// is dropped. A watcher so slow that the log has moved on loses the oldest.
    ///
    /// # Errors
    /// A filter that does not exist, or an `until` before `since`.
    pub fn watch_events(self: &Arc<Self>, request: &EventsRequest) -> Result<mpsc::Receiver<Event>> {
        let filter = EventFilter::new(&request.filters)?;
        if request.until != 0 && request.since > request.until {
            return Err(crate::Error::Invalid(
                "`since` time cannot be after `until` time".to_owned(),
            ));
        }
        let mut cursor = self.event_log.cursor(request.since);
        let (sender, receiver) = mpsc::channel(UNREAD);
        let (until, stop) = (request.until, self.stop.clone());
        tokio::spawn(async move {
            let deliver = async {
                loop {
                    let event = cursor.next().await;
                    if until != 0 && event.time > until {
                        return;
                    }
                    if filter.matches(&event) && sender.send(v1::Event::clone(&event)).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                biased;
                () = deliver => {}
                () = reached(until) => {}
                () = sender.closed() => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(receiver)
    }
}

/// Waits for a point in time; 0 never comes.
async fn reached(until: i64) {
    if until == 0 {
        return std::future::pending().await;
    }
    let left = until.saturating_sub(id::now());
    tokio::time::sleep(std::time::Duration::from_nanos(u64::try_from(left).unwrap_or(0))).await;
}
