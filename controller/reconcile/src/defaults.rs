//! What holds where a spec is silent: SwarmKit's defaults. Read by the reconciler; the API shows them in `inspect`.

use pontoon_proto::v1::{
    Cluster, RestartCondition, RestartPolicy, Service, ServiceSpec, UpdateConfig, UpdateFailureAction,
    UpdateOrder, UpdateState, disconnect_policy::Action,
};

/// One second in nanoseconds.
pub const SECOND: i64 = 1_000_000_000;
/// Delay before a restart.
pub const RESTART_DELAY: i64 = 5 * SECOND;
/// How long after its start a task's failure counts against the update.
pub const UPDATE_MONITOR: i64 = 5 * SECOND;
/// Time between the last new connection to a leaving task that others reach by the network and SIGTERM; the agent's.
pub const DRAIN_PERIOD: i64 = SECOND;
/// Time between SIGTERM and SIGKILL.
pub const STOP_GRACE_PERIOD: i64 = 10 * SECOND;
/// How much longer than its grace period a task may take to stop before its successor starts all the same.
pub const OLD_TASK_TIMEOUT: i64 = 60 * SECOND;
/// Ended tasks kept a slot.
pub const TASK_HISTORY_LIMIT: u32 = 5;
/// Time after which the tasks of a node that stays down are given up.
pub const ORPHAN_AFTER: i64 = 24 * 3600 * SECOND;
/// Failures of a service on a node within [`FAILURE_WINDOW`] that put the node last.
pub const MAX_FAILURES: usize = 5;
/// How long a failure on a node is remembered by the scheduler.
pub const FAILURE_WINDOW: i64 = 5 * 60 * SECOND;
/// Prefix length of subnets cut from the default pools.
pub const SUBNET_SIZE: u8 = 24;
/// Name of the routing mesh's network.
pub const INGRESS_NAME: &str = "ingress";

/// The restart policy in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// When to restart.
    pub condition: RestartCondition,
    /// Nanoseconds before the restart.
    pub delay: i64,
    /// 0: no limit.
    pub max_attempts: u64,
    /// Nanoseconds over which attempts count; 0: the slot's life.
    pub window: i64,
    /// Nanoseconds up to which the delay doubles; none: it stays as it is.
    pub max_delay: Option<i64>,
}

/// The restart policy of a service's spec.
#[must_use]
pub fn restart(spec: Option<&ServiceSpec>) -> Restart {
    let policy = spec
        .and_then(|spec| spec.task.as_ref())
        .and_then(|task| task.restart.as_ref());
    Restart {
        condition: policy.map_or(RestartCondition::Any, RestartPolicy::condition),
        delay: policy.and_then(|p| p.delay).unwrap_or(RESTART_DELAY),
        max_attempts: policy.map_or(0, |p| p.max_attempts),
        window: policy.map_or(0, |p| p.window),
        max_delay: policy.and_then(|p| p.max_delay),
    }
}

/// The update settings in force.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// Slots at a time; none: all.
    pub parallelism: Option<usize>,
    /// Nanoseconds between a slot's update and the next one's.
    pub delay: i64,
    /// What to do when too many tasks fail.
    pub failure_action: UpdateFailureAction,
    /// Nanoseconds after a task's start in which its failure counts.
    pub monitor: i64,
    /// Share of slots that may fail.
    pub max_failure_ratio: f32,
    /// Stop or start first.
    pub order: UpdateOrder,
}

/// The settings that the running update of a service follows: `rollback` while it rolls back.
#[must_use]
pub fn update(service: &Service) -> Update {
    let spec = service.spec.as_ref();
    let config = if is_rollback(service) {
        spec.and_then(|spec| spec.rollback.as_ref())
    } else {
        spec.and_then(|spec| spec.update.as_ref())
    };
    let parallelism = config.map_or(1, |c| c.parallelism);
    Update {
        parallelism: usize::try_from(parallelism).ok().filter(|p| *p > 0),
        delay: config.map_or(0, |c| c.delay),
        failure_action: config.map_or(UpdateFailureAction::Pause, UpdateConfig::failure_action),
        monitor: config.and_then(|c| c.monitor).unwrap_or(UPDATE_MONITOR),
        max_failure_ratio: config.map_or(0.0, |c| c.max_failure_ratio),
        order: config.map_or(UpdateOrder::StopFirst, UpdateConfig::order),
    }
}

/// How long tasks stay with a node that is down before they are replaced; `None`: for ever.
#[must_use]
pub fn disconnect_patience(service: &Service) -> Option<i64> {
    let policy = service.spec.as_ref().and_then(|spec| spec.on_disconnect.as_ref());
    let Some(policy) = policy else { return Some(0) };
    match policy.action() {
        Action::Replace => Some(policy.grace.unwrap_or(0)),
        Action::Keep => policy.grace,
    }
}

/// The state of a service's update.
#[must_use]
pub fn update_state(service: &Service) -> UpdateState {
    service
        .update_status
        .as_ref()
        .map_or(UpdateState::None, |status| status.state())
}

/// Whether the service's last update is a rollback.
#[must_use]
pub fn is_rollback(service: &Service) -> bool {
    matches!(
        update_state(service),
        UpdateState::RollbackStarted | UpdateState::RollbackPaused | UpdateState::RollbackCompleted
    )
}

/// Whether an update or rollback is under way.
#[must_use]
pub fn is_updating(service: &Service) -> bool {
    matches!(
        update_state(service),
        UpdateState::Updating | UpdateState::RollbackStarted
    )
}

/// Whether an update or rollback is under way or paused: slots may be half moved.
#[must_use]
pub fn is_unfinished(service: &Service) -> bool {
    let paused = [UpdateState::Paused, UpdateState::RollbackPaused].contains(&update_state(service));
    paused || is_updating(service)
}

/// Ended tasks kept a slot.
#[must_use]
pub fn task_history_limit(cluster: Option<&Cluster>) -> usize {
    let limit = cluster
        .and_then(|c| c.spec.as_ref())
        .and_then(|spec| spec.task_history_limit);
    usize::try_from(limit.unwrap_or(TASK_HISTORY_LIMIT)).unwrap_or(usize::MAX)
}
