//! How far one service is, worked out from the service and its tasks. Called by [`super`] after each change.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_proto::v1::{Service, ServiceSpec, Task, TaskState, UpdateState, service_spec::Mode};

use super::Waiting;

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
const FAILURES_PER_TASK: u64 = 3;

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
    /// How many tasks run, of how many.
    pub running: u64,
    /// See `running`.
    pub wanted: u64,
    /// What stands in the way.
    pub note: String,
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
        let spec = service.spec.as_ref();
        let monitor = spec
            .and_then(|spec| spec.update)
            .and_then(|update| update.monitor)
            .unwrap_or(5_000_000_000);
        let current: Vec<&Task> = tasks
            .iter()
            .filter(|task| {
                task.desired_state() <= TaskState::Running && task.spec_version == service.spec_version
            })
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
        let is_running =
            |task: &&&Task| state(task) == TaskState::Running && task.desired_state() == TaskState::Running;
        let running = places.values().filter(is_running).count() as u64;
        let mut view = Self {
            standing: Standing::Working,
            monitor: Duration::from_nanos(u64::try_from(monitor).unwrap_or(0)),
            slots: places.values().map(|task| slot_line(task, wanted)).collect(),
            restart_delay: restart_delay(spec),
            running,
            wanted,
            note: service.allocation_error.clone(),
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
                with_reason(&update.message, tasks, waiting.since),
            )),
            UpdateState::RollbackCompleted if is_new && !waiting.rollback => {
                let text = with_reason("the update failed and was rolled back", tasks, waiting.since);
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
        let Some(reason) = newest_failure(tasks, waiting.since) else {
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
        let error = |task: &Task| {
            task.status
                .as_ref()
                .map(|status| status.err.clone())
                .unwrap_or_default()
        };
        if let Some(first) = missing
            .iter()
            .map(|task| error(task))
            .find(|error| !error.is_empty())
        {
            self.note = first;
        }
        let refused = |task: &&&Task| state(task) <= TaskState::Pending && !error(task).is_empty();
        if !missing.is_empty() && missing.iter().all(refused) {
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
        format!(
            "overall progress: {} out of {} tasks{note}",
            self.running, self.wanted
        )
    }
}

/// A message with the reason of the newest task that failed since a time.
fn with_reason(message: &str, tasks: &[&Task], since: i64) -> String {
    match newest_failure(tasks, since) {
        Some(reason) => format!("{message}: {reason}"),
        None => message.to_owned(),
    }
}

/// True for a task that ended by itself since a time: the restart policy replaces it. The time is the managers', as `since` is.
pub fn has_failed(task: &Task, since: i64) -> bool {
    let ended = matches!(
        state(task),
        TaskState::Complete | TaskState::Failed | TaskState::Rejected
    );
    ended && task.meta.is_some_and(|meta| meta.updated_at >= since)
}

fn restart_delay(spec: Option<&ServiceSpec>) -> Duration {
    let policy = spec
        .and_then(|spec| spec.task.as_ref())
        .and_then(|task| task.restart.as_ref());
    let delay = policy.and_then(|policy| policy.delay).unwrap_or(5_000_000_000);
    Duration::from_nanos(u64::try_from(delay).unwrap_or(0))
}

/// Why the newest of the tasks that failed since a time did.
fn newest_failure(tasks: &[&Task], since: i64) -> Option<String> {
    let failed = tasks.iter().filter(|task| has_failed(task, since));
    let status = failed
        .filter_map(|task| task.status.as_ref())
        .max_by_key(|status| status.timestamp)?;
    Some(match status.state() {
        TaskState::Complete => "task: its command ended, with exit code 0".to_owned(),
        _ if status.err.is_empty() => format!("task: {}", status.state().name()),
        _ => status.err.clone(),
    })
}

fn state(task: &Task) -> TaskState {
    task.status
        .as_ref()
        .map_or(TaskState::New, |status| status.state())
}

fn slot_line(task: &Task, wanted: u64) -> String {
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
    use pontoon_proto::v1::{Meta, ReplicatedMode, TaskStatus, UpdateStatus};

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
        assert!(has_failed(&failed(1, TaskState::Rejected, "x"), 20));
        assert!(!has_failed(&failed(1, TaskState::Rejected, "x"), 21));
        assert!(!has_failed(&failed(1, TaskState::Shutdown, "x"), 20));
    }
}
