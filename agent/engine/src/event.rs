//! What happened to containers, for those who watch the engine: the agent's executors, later `events`.

use pontoon_proto::v1::HealthState;

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

/// Kinds of [`ContainerEvent`], named as Docker names its actions.
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
    /// A signal was sent.
    Killed {
        /// Its number.
        signal: i32,
    },
    /// Frozen.
    Paused,
    /// Thawed.
    Unpaused,
    /// The health check's verdict changed.
    Health(HealthState),
    /// Has another name.
    Renamed {
        /// The new one.
        name: String,
    },
    /// Removed.
    Destroyed,
}
