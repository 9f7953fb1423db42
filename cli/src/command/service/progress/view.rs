//! How far one service is, worked out from the service and its tasks. Called by [`super`] after each change.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_proto::v1::{Service, ServiceSpec, Task, TaskState, UpdateState, service_spec::Mode};

use super::{Waiting, job};

/// Where a service stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Tasks are on their way.
    #[default]
    Working,
    /// All tasks run.
    Complete,
    /// Every missing task is refused by every node, with the reason.
    Unplaceable(String),
    /// An update ended badly, with the reason.
    Failed(String),
    /// The tasks fail again and again, with the newest one's reason.
    Failing(String),
    /// Tasks have ended and got no successor, with the newest one's reason.
    Ended(String),
}

/// So many tasks may fail for each one that is wanted before waiting is given up.
pub(super) const FAILURES_PER_TASK: u64 = 3;

/// What is shown of a service.
#[derive(Debug, Default)]
pub struct View {
    pub standing: Standing,
    /// How long a complete standing must last.
    pub monitor: Duration,
    /// A line for each slot or node.
    pub slots: Vec<String>,
    /// How long an ended task may be without a successor.
    pub restart_delay: Duration,
    /// How many tasks run, of how many; of a job, how many places are done with.
    pub running: u64,
    /// See `running`.
    pub wanted: u64,
    /// What stands in the way.
    pub note: String,
    /// It is a job: done when it has run.
    pub is_job: bool,
}

const BAR: [(TaskState, &str); 8] = [
    (
        TaskState::New,
        "new       [=====>                                             ]",
    ),
    (
        TaskState::Pending,
        "pending   [===========>                                       ]",
    ),
    (
        TaskState::Assigned,
        "assigned  [=================>                                 ]",
    ),
    (
        TaskState::Accepted,
        "accepted  [=======================>                           ]",
    ),
    (
        TaskState::Preparing,
        "preparing [=============================>                     ]",
    ),
    (
        TaskState::Ready,
        "ready     [===================================>               ]",
    ),
    (
        TaskState::Starting,
        "starting  [=========================================>         ]",
    ),
    (
        TaskState::Running,
        "running   [==================================================>]",
    ),
];

impl View {
    /// Looks at a service and all of its tasks; `failures` is how many of its tasks failed since the change.
    pub fn of(service: &Service, tasks: &[&Task], waiting: &Waiting, failures: u64) -> Self {
        if service.iteration().is_some() {
            return job::view(service, tasks, waiting.since, failures);
        }
        let spec = service.spec.as_ref();
        let monitor = spec
            .and_then(|spec| spec.update)
            .and_then(|update| update.monitor)
            .unwrap_or(5_000_000_000);
        let current: Vec<&Task> = tasks
            .iter()
            .filter(|task| task.spec_version == service.spec_version)
            .filter(|task| task.desired_state() <= TaskState::Running || waiting.has_completed(service, task))
            .copied()
            .collect();
        let outdated = tasks
            .iter()
            .filter(|task| {
                task.desired_state() <= TaskState::Running && task.spec_version != service.spec_version
            })
            .count();
        let mut places: BTreeMap<(u64, &str), &Task> = BTreeMap::new();
        for task in &current {
            let key = if task.slot > 0 {
                (task.slot, "")
            } else {
                (0, task.node_id.as_str())
            };
            let better = |other: &&Task| {
                other.status.as_ref().map(|s| s.state) > task.status.as_ref().map(|s| s.state)
            };
            if !places.get(&key).is_some_and(better) {
                places.insert(key, task);
            }
        }
        let wanted = match spec.and_then(|spec| spec.mode.as_ref()) {
            Some(Mode::Replicated(mode)) => mode.replicas,
            _ => places.len() as u64,
        };
        let is_there = |task: &&&Task| {
            let runs = state(task) == TaskState::Running && task.desired_state() == TaskState::Running;
            (runs && !waiting.completes) || waiting.has_completed(service, task)
        };
        let running = places.values().filter(is_there).count() as u64;
        let mut view = Self {
            standing: Standing::Working,
            monitor: Duration::from_nanos(u64::try_from(monitor).unwrap_or(0)),
            slots: places.values().map(|task| slot_line(task, wanted)).collect(),
            restart_delay: restart_delay(spec),
            running,
            wanted,
            note: if service.allocation_error.is_empty() {
                service.waits_for.clone()
            } else {
                service.allocation_error.clone()
            },
            is_job: false,
        };
        let surplus = places.len() as u64 > wanted;
        view.standing = match view.update(service, tasks, waiting) {
            Some(standing) => standing,
            None => view.judge(&places.into_values().collect::<Vec<_>>(), outdated > 0 || surplus),
        };
        view.count_failures(service, tasks, waiting, failures);
        view
    }

    /// What the service's update, or its rollback, has come to; `None` when the tasks decide.
    fn update(&mut self, service: &Service, tasks: &[&Task], waiting: &Waiting) -> Option<Standing> {
        let update = service.update_status.clone().unwrap_or_default();
        let is_new = update.started_at.max(update.completed_at) >= waiting.since;
        match update.state() {
            UpdateState::Updating => Some(Standing::Working),
            UpdateState::RollbackStarted => {
                self.note = format!("rolling back: {}", update.message);
                Some(Standing::Working)
            }
            UpdateState::Paused | UpdateState::RollbackPaused if is_new => Some(Standing::Failed(
                with_reason(&update.message, service, tasks, waiting.since),
            )),
            UpdateState::RollbackCompleted if is_new && !waiting.rollback => {
                let text = with_reason(
                    "the update failed and was rolled back",
                    service,
                    tasks,
                    waiting.since,
                );
                Some(Standing::Failed(text))
            }
            _ => None,
        }
    }

    /// Gives up on tasks that fail for ever, or that are not started again.
    fn count_failures(&mut self, service: &Service, tasks: &[&Task], waiting: &Waiting, failures: u64) {
        // An update counts failures itself, and does with them what its failure action says.
        let updating = service.update_status.as_ref().is_some_and(|status| {
            matches!(
                status.state(),
                UpdateState::Updating | UpdateState::RollbackStarted
            )
        });
        if self.standing != Standing::Working || updating || failures == 0 {
            return;
        }
        let Some(reason) = newest_failure(service, tasks, waiting.since) else {
            return;
        };
        if self.note.is_empty() {
            self.note.clone_from(&reason);
        }
        if failures > FAILURES_PER_TASK * self.wanted.max(1) {
            self.standing = Standing::Failing(reason);
        } else if (self.slots.len() as u64) < self.wanted {
            self.standing = Standing::Ended(reason);
        }
    }

    fn judge(&mut self, places: &[&Task], unsettled: bool) -> Standing {
        if self.running == self.wanted && !unsettled {
            return Standing::Complete;
        }
        let missing: Vec<_> = places
            .iter()
            .filter(|task| state(task) != TaskState::Running)
            .collect();
        if let Some(first) = missing
            .iter()
            .map(|task| error(task))
            .find(|error| !error.is_empty())
        {
            self.note = first;
        }
        if !missing.is_empty() && missing.iter().all(|task| refused(task)) {
            return Standing::Unplaceable(format!(
                "{} of {} tasks can't be placed: {}",
                missing.len(),
                self.wanted,
                self.note
            ));
        }
        Standing::Working
    }

    /// One line: how many tasks run, and what stands in the way.
    pub fn summary(&self) -> String {
        let note = if self.note.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.note)
        };
        let (running, wanted) = (self.running, self.wanted);
        if self.is_job {
            format!("job progress: {running} out of {wanted} complete{note}")
        } else {
            format!("overall progress: {running} out of {wanted} tasks{note}")
        }
    }
}

impl Waiting {
    /// Whether the task has ended as it has to, or may.
    fn has_completed(&self, service: &Service, task: &Task) -> bool {
        (self.completes && state(task) == TaskState::Complete) || service.has_finished(task)
    }
}

/// A message with the reason of the newest task that failed since a time.
fn with_reason(message: &str, service: &Service, tasks: &[&Task], since: i64) -> String {
    match newest_failure(service, tasks, since) {
        Some(reason) => format!("{message}: {reason}"),
        None => message.to_owned(),
    }
}

/// Why a task is not where it should be; empty if it says nothing.
pub(super) fn error(task: &Task) -> String {
    task.status
        .as_ref()
        .map(|status| status.err.clone())
        .unwrap_or_default()
}

/// Whether no node takes a task.
pub(super) fn refused(task: &Task) -> bool {
    state(task) <= TaskState::Pending && !error(task).is_empty()
}

/// Whether a task's end counts against the service's change at a time: it ended by itself since then, or a job's failed in this run.
pub fn counts_as_failed(service: &Service, task: &Task, since: i64) -> bool {
    match service.iteration() {
        Some(_) => job::has_failed(service, task),
        None => task.spec_version == service.spec_version && has_failed(service, task, since),
    }
}

/// True for a task that ended by itself since a time, and not as it was to: the restart policy replaces it. The time is the managers',
/// as `since` is.
fn has_failed(service: &Service, task: &Task, since: i64) -> bool {
    let ended = matches!(
        state(task),
        TaskState::Complete | TaskState::Failed | TaskState::Rejected
    );
    ended && !service.has_finished(task) && task.meta.is_some_and(|meta| meta.updated_at >= since)
}

pub(super) fn restart_delay(spec: Option<&ServiceSpec>) -> Duration {
    let policy = spec
        .and_then(|spec| spec.task.as_ref())
        .and_then(|task| task.restart.as_ref());
    let delay = policy.and_then(|policy| policy.delay).unwrap_or(5_000_000_000);
    Duration::from_nanos(u64::try_from(delay).unwrap_or(0))
}

/// The newest of the tasks that failed since a time.
pub fn newest_failed<'a>(service: &Service, tasks: &[&'a Task], since: i64) -> Option<&'a Task> {
    let failed = tasks.iter().filter(|task| has_failed(service, task, since));
    let ended = |task: &&&Task| task.status.as_ref().map_or(0, |status| status.timestamp);
    failed.max_by_key(ended).copied()
}

/// Why the newest of the tasks that failed since a time did.
fn newest_failure(service: &Service, tasks: &[&Task], since: i64) -> Option<String> {
    let status = newest_failed(service, tasks, since)?.status.as_ref()?;
    Some(match status.state() {
        TaskState::Complete => "task: its command ended, with exit code 0".to_owned(),
        _ if status.err.is_empty() => format!("task: {}", status.state().name()),
        _ => status.err.clone(),
    })
}

pub(super) fn state(task: &Task) -> TaskState {
    task.status
        .as_ref()
        .map_or(TaskState::New, |status| status.state())
}

pub(super) fn slot_line(task: &Task, wanted: u64) -> String {
    let place = if task.slot > 0 {
        format!("{}/{wanted}", task.slot)
    } else {
        task.node_id.chars().take(12).collect()
    };
    let bar = BAR
        .iter()
        .find(|(at, _)| *at == state(task))
        .map_or(state(task).name(), |(_, bar)| bar);
    let error = task
        .status
        .as_ref()
        .map(|status| status.err.as_str())
        .unwrap_or_default();
    if error.is_empty() || state(task) == TaskState::Running {
        format!("{place}: {bar}")
    } else {
        format!("{place}: {error}")
    }
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{
        Meta, ReplicatedMode, RestartCondition, RestartPolicy, TaskStatus, UpdateStatus,
    };

    use super::*;

    fn service(replicas: u64) -> Service {
        let mode = Some(Mode::Replicated(ReplicatedMode { replicas }));
        Service {
            id: "s".into(),
            spec_version: 2,
            spec: Some(ServiceSpec {
                mode,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn task(slot: u64, state: TaskState, spec_version: u64, err: &str) -> Task {
        let status = Some(TaskStatus {
            state: state.into(),
            err: err.into(),
            ..Default::default()
        });
        Task {
            slot,
            spec_version,
            status,
            desired_state: TaskState::Running.into(),
            ..Default::default()
        }
    }

    fn standing(service: &Service, tasks: &[Task]) -> Standing {
        standing_after(service, tasks, 0)
    }

    fn standing_after(service: &Service, tasks: &[Task], failures: u64) -> Standing {
        let waiting = Waiting {
            id: "s".into(),
            name: "web".into(),
            since: 10,
            rollback: false,
            completes: false,
        };
        View::of(service, &tasks.iter().collect::<Vec<_>>(), &waiting, failures).standing
    }

    #[test]
    fn complete_only_when_all_run_the_newest_spec() {
        let two = service(2);
        let running = |slot| task(slot, TaskState::Running, 2, "");
        assert_eq!(standing(&two, &[running(1)]), Standing::Working);
        assert_eq!(
            standing(&two, &[running(1), task(2, TaskState::Starting, 2, "")]),
            Standing::Working
        );
        assert_eq!(standing(&two, &[running(1), running(2)]), Standing::Complete);
        assert_eq!(
            standing(
                &two,
                &[running(1), running(2), task(1, TaskState::Running, 1, "")]
            ),
            Standing::Working
        );
        assert_eq!(standing(&service(0), &[]), Standing::Complete);
        assert_eq!(
            standing(&service(1), &[running(1), running(2)]),
            Standing::Working
        );
    }

    #[test]
    fn what_is_to_end_has_converged_when_it_has() {
        let mut once = service(1);
        let policy = RestartPolicy {
            condition: RestartCondition::None.into(),
            ..RestartPolicy::default()
        };
        once.spec
            .get_or_insert_default()
            .task
            .get_or_insert_default()
            .restart = Some(policy);
        let ended = |state, err| {
            let mut task = task(1, state, 2, err);
            task.desired_state = TaskState::Shutdown.into();
            task.meta = Some(Meta {
                updated_at: 20,
                ..Meta::default()
            });
            task
        };
        let done = [ended(TaskState::Complete, "")];
        assert_eq!(standing_after(&once, &done, 0), Standing::Complete);
        assert!(!counts_as_failed(&once, &done[0], 10));
        let failed = [ended(TaskState::Failed, "task: non-zero exit (1)")];
        assert!(counts_as_failed(&once, &failed[0], 10));
        assert!(
            matches!(standing_after(&once, &failed, 1), Standing::Ended(reason) if reason.contains("(1)"))
        );
        // Where it is started again, ending is a failure.
        assert!(counts_as_failed(&service(1), &done[0], 10));
    }

    #[test]
    fn reasons_are_told() {
        let refused = task(1, TaskState::Pending, 2, "no suitable node (x)");
        assert!(
            matches!(standing(&service(1), std::slice::from_ref(&refused)), Standing::Unplaceable(reason) if reason.contains("(x)"))
        );
        let mut paused = service(1);
        paused.update_status = Some(UpdateStatus {
            state: UpdateState::Paused.into(),
            message: "task failed".into(),
            started_at: 10,
            ..Default::default()
        });
        assert!(
            matches!(standing(&paused, &[refused]), Standing::Failed(reason) if reason.contains("task failed"))
        );
    }

    fn failed(slot: u64, state: TaskState, err: &str) -> Task {
        Task {
            desired_state: TaskState::Shutdown.into(),
            meta: Some(Meta {
                updated_at: 20,
                ..Default::default()
            }),
            ..task(slot, state, 2, err)
        }
    }

    #[test]
    fn tasks_that_fail_for_ever_are_given_up() {
        let tasks = [
            failed(1, TaskState::Failed, "task: non-zero exit (1)"),
            task(1, TaskState::Ready, 2, ""),
        ];
        assert_eq!(standing_after(&service(1), &tasks, 3), Standing::Working);
        let reason = "task: non-zero exit (1)".to_owned();
        assert_eq!(standing_after(&service(1), &tasks, 4), Standing::Failing(reason));
        let mut updating = service(1);
        updating.update_status = Some(UpdateStatus {
            state: UpdateState::Updating.into(),
            ..Default::default()
        });
        assert_eq!(standing_after(&updating, &tasks, 4), Standing::Working);
        let running = [tasks[0].clone(), task(1, TaskState::Running, 2, "")];
        assert_eq!(standing_after(&service(1), &running, 4), Standing::Complete);
    }

    #[test]
    fn tasks_that_end_without_a_successor_are_told() {
        let tasks = [failed(1, TaskState::Complete, "")];
        assert!(
            matches!(standing_after(&service(1), &tasks, 1), Standing::Ended(reason) if reason.contains("exit code 0"))
        );
    }

    #[test]
    fn failures_before_the_change_do_not_count() {
        assert!(has_failed(&service(1), &failed(1, TaskState::Rejected, "x"), 20));
        assert!(!has_failed(&service(1), &failed(1, TaskState::Rejected, "x"), 21));
        assert!(!has_failed(&service(1), &failed(1, TaskState::Shutdown, "x"), 20));
    }
}
