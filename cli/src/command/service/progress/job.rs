//! How far a job's run is, worked out from the service and its tasks. Called by [`View::of`](super::view::View::of).
//!
//! A job is done when each of its places (slots, or nodes) has a task that completed in this run. It has failed when none is live any
//! more before that.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_proto::v1::{Service, Task, TaskState, service_spec::Mode};

use super::view::{FAILURES_PER_TASK, Standing, View, error, refused, restart_delay, slot_line, state};

/// Looks at a job whose run was asked for at `since`, by the managers' clock; `failures` is how many tasks of that run have failed.
pub(super) fn view(service: &Service, tasks: &[&Task], since: i64, failures: u64) -> View {
    // A manager that has not heard of the run yet would show the one before, which is over.
    let is_behind = service.meta.unwrap_or_default().updated_at < since;
    let mut places: BTreeMap<(u64, &str), &Task> = BTreeMap::new();
    let of_this_run = tasks.iter().copied().filter(|task| service.is_of_this_run(task));
    for task in of_this_run {
        let node = if task.slot > 0 { "" } else { task.node_id.as_str() };
        let place = places.entry((task.slot, node)).or_insert(task);
        if rank(task) > rank(place) {
            *place = task;
        }
    }
    let mode = service.spec.as_ref().and_then(|spec| spec.mode.as_ref());
    let wanted = match mode {
        Some(Mode::ReplicatedJob(job)) => job.total_completions,
        _ => places.len() as u64,
    };
    let completed = places
        .values()
        .filter(|task| state(task) == TaskState::Complete)
        .count() as u64;
    let live: Vec<_> = places
        .values()
        .filter(|task| !state(task).is_terminal())
        .collect();
    let reason = tasks
        .iter()
        .filter(|task| has_failed(service, task))
        .max_by_key(|task| task.status.as_ref().map_or(0, |status| status.timestamp))
        .map(|task| failure(task));
    let waiting = live
        .iter()
        .map(|task| error(task))
        .find(|error| !error.is_empty());
    let note = waiting
        .or(reason.clone())
        .unwrap_or_else(|| service.allocation_error.clone());
    let standing = match reason {
        _ if is_behind => Standing::Working,
        _ if completed == wanted => Standing::Complete,
        Some(reason) if failures > FAILURES_PER_TASK * wanted.max(1) => Standing::Failing(reason),
        Some(reason) if live.is_empty() => Standing::Ended(reason),
        _ if !live.is_empty() && live.iter().all(|task| refused(task)) => Standing::Unplaceable(format!(
            "{} of {wanted} tasks can't be placed: {note}",
            live.len()
        )),
        _ => Standing::Working,
    };
    View {
        standing,
        // What has completed stays so.
        monitor: Duration::ZERO,
        slots: places.values().map(|task| slot_line(task, wanted)).collect(),
        restart_delay: restart_delay(service.spec.as_ref()),
        running: completed,
        wanted,
        note: if completed == wanted { String::new() } else { note },
        is_job: true,
    }
}

/// Of a place's tasks the one that has completed counts, then one that is live, then the newest.
fn rank(task: &Task) -> (u8, i64) {
    let class = match state(task) {
        TaskState::Complete => 2,
        state if !state.is_terminal() => 1,
        _ => 0,
    };
    (class, task.meta.unwrap_or_default().created_at)
}

/// Whether a task of a job's present run ended without having completed, by itself.
pub(super) fn has_failed(service: &Service, task: &Task) -> bool {
    let failed = matches!(state(task), TaskState::Failed | TaskState::Rejected);
    failed && service.is_of_this_run(task)
}

fn failure(task: &Task) -> String {
    match error(task) {
        error if error.is_empty() => format!("task: {}", state(task).name()),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{GlobalJobMode, JobStatus, Meta, ReplicatedJobMode, ServiceSpec, TaskStatus};

    use super::*;

    fn job(mode: Mode) -> Service {
        Service {
            spec: Some(ServiceSpec {
                mode: Some(mode),
                ..ServiceSpec::default()
            }),
            job_status: Some(JobStatus {
                iteration: 1,
                last_execution: 1,
            }),
            ..Service::default()
        }
    }

    fn three() -> Service {
        job(Mode::ReplicatedJob(ReplicatedJobMode {
            max_concurrent: 1,
            total_completions: 3,
        }))
    }

    fn task(slot: u64, iteration: u64, state: TaskState, err: &str) -> Task {
        Task {
            slot,
            job_iteration: Some(iteration),
            meta: Some(Meta {
                created_at: i64::try_from(slot).unwrap(),
                ..Meta::default()
            }),
            status: Some(TaskStatus {
                state: state.into(),
                err: err.to_owned(),
                ..TaskStatus::default()
            }),
            ..Task::default()
        }
    }

    fn standing(service: &Service, tasks: &[Task], failures: u64) -> Standing {
        view(service, &tasks.iter().collect::<Vec<_>>(), 0, failures).standing
    }

    #[test]
    fn done_when_all_of_this_run_have_completed() {
        use TaskState::{Complete, Failed, Running};
        let mut tasks = vec![
            task(1, 1, Complete, ""),
            task(2, 1, Complete, ""),
            task(3, 0, Complete, ""),
        ];
        assert_eq!(standing(&three(), &tasks, 0), Standing::Working);
        tasks.push(task(3, 1, Failed, "task: non-zero exit (1)"));
        tasks.push(task(3, 1, Running, ""));
        assert_eq!(standing(&three(), &tasks, 1), Standing::Working);
        tasks.push(task(3, 1, Complete, ""));
        assert_eq!(standing(&three(), &tasks, 1), Standing::Complete);
        let shown = view(&three(), &tasks.iter().collect::<Vec<_>>(), 0, 1);
        assert_eq!(shown.summary(), "job progress: 3 out of 3 complete");
        assert_eq!(shown.monitor, Duration::ZERO);
        // The run that is waited for is not known here yet.
        let early = view(&three(), &tasks.iter().collect::<Vec<_>>(), 5, 1);
        assert_eq!(early.standing, Standing::Working);
    }

    #[test]
    fn a_job_that_can_get_no_further_has_failed() {
        use TaskState::{Complete, Failed, Running};
        let reason = "task: non-zero exit (1)";
        let failed = task(2, 1, Failed, reason);
        let tasks = [task(1, 1, Complete, ""), failed.clone(), task(3, 1, Running, "")];
        assert_eq!(standing(&three(), &tasks, 1), Standing::Working);
        let tasks = [task(1, 1, Complete, ""), failed.clone(), task(3, 1, Complete, "")];
        assert_eq!(standing(&three(), &tasks, 1), Standing::Ended(reason.to_owned()));
        let tasks = [failed, task(2, 1, Running, "")];
        assert_eq!(
            standing(&three(), &tasks, 10),
            Standing::Failing(reason.to_owned())
        );
    }

    #[test]
    fn what_fits_on_no_node_is_told() {
        let tasks = [task(1, 1, TaskState::Pending, "no suitable node (x)")];
        assert!(
            matches!(standing(&three(), &tasks, 0), Standing::Unplaceable(reason) if reason.contains("(x)"))
        );
    }

    #[test]
    fn a_global_job_is_done_when_each_of_its_nodes_is() {
        let on = |node: &str, state| Task {
            node_id: node.to_owned(),
            ..task(0, 1, state, "")
        };
        let everywhere = job(Mode::GlobalJob(GlobalJobMode {}));
        let tasks = [on("a", TaskState::Complete), on("b", TaskState::Running)];
        assert_eq!(standing(&everywhere, &tasks, 0), Standing::Working);
        let tasks = [on("a", TaskState::Complete), on("b", TaskState::Complete)];
        assert_eq!(standing(&everywhere, &tasks, 0), Standing::Complete);
    }
}
