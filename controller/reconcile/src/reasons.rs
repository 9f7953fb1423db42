//! Why things happen to tasks. What a task's newest status can't tell any more is kept with it as steps: why it was made, what it
//! waited for, why it was sent away. Written by the orchestrator, allocator and scheduler; shown by `inspect` and `explain`.

use std::sync::Arc;

use pontoon_proto::v1::{Service, Task, TaskState, TaskStep};

use crate::defaults;
use crate::state::{is_live, state_of};

/// Steps that a task keeps.
const MOST: usize = 8;
/// Characters of a reason: some are what an agent says.
const LONGEST: usize = 512;
/// Characters of an error that a successor's reason quotes.
const QUOTED: usize = 120;

/// Notes that something happened to a task for a reason; the same twice in a row is noted once. Of many the first stays,
/// which says why the task was made, and the newest.
pub(crate) fn note(task: &mut Task, now: i64, mut reason: String) {
    if let Some((end, _)) = reason.char_indices().nth(LONGEST) {
        reason.truncate(end);
    }
    if task.steps.last().is_some_and(|step| step.reason == reason) {
        return;
    }
    if task.steps.len() >= MOST {
        task.steps.remove(1);
    }
    task.steps.push(TaskStep {
        at: now,
        state: state_of(task).into(),
        reason,
    });
}

/// Notes what a task has waited for, which its status is about to forget.
pub(crate) fn waited(task: &mut Task, now: i64) {
    let reason = task.status.as_ref().map_or("", |status| status.err.as_str());
    if !reason.is_empty() {
        let reason = format!("waited: {reason}");
        note(task, now, reason);
    }
}

/// Why a slot's next task, of this version, is made; `tasks` are the slot's, oldest first. Empty: it is the slot's first.
pub(crate) fn made(service: &Service, version: u64, tasks: &[Arc<Task>]) -> String {
    let Some(before) = tasks.last() else {
        return String::new();
    };
    if before.spec_version != version {
        let (id, from) = (&before.id, before.spec_version);
        return format!("{} of task {id}: version {from} to {version}", change(service));
    }
    format!("replaces task {}, which {}", before.id, fate(before))
}

/// Why a task is sent away in favour of one of the service's newest version.
pub(crate) fn outdated(service: &Service) -> String {
    format!("{} to version {}", change(service), service.spec_version)
}

fn change(service: &Service) -> &'static str {
    if defaults::is_rollback(service) {
        "rollback"
    } else {
        "update"
    }
}

/// What became of a task: `failed (task: non-zero exit (1))`.
pub(crate) fn fate(task: &Task) -> String {
    let state = state_of(task);
    let error = task.status.as_ref().map_or("", |status| status.err.as_str());
    let what = match state {
        TaskState::Complete => "ended by itself",
        TaskState::Failed => "failed",
        TaskState::Rejected => "was rejected",
        TaskState::Orphaned => "was given up",
        _ if is_live(task) => return format!("is {}", state.name()),
        // The last step of a task that was sent away says why.
        _ => {
            return task.steps.last().map_or_else(
                || "was sent away".to_owned(),
                |step| format!("was sent away ({})", step.reason),
            );
        }
    };
    if error.is_empty() {
        return what.to_owned();
    }
    let quoted: String = error.chars().take(QUOTED).collect();
    let cut = if quoted.len() < error.len() { "…" } else { "" };
    format!("{what} ({quoted}{cut})")
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::TaskStatus;

    use super::*;

    fn task(state: TaskState, desired: TaskState, err: &str) -> Task {
        Task {
            id: "t1".to_owned(),
            spec_version: 1,
            desired_state: desired.into(),
            status: Some(TaskStatus {
                state: state.into(),
                err: err.to_owned(),
                ..TaskStatus::default()
            }),
            ..Task::default()
        }
    }

    #[test]
    fn the_first_step_and_the_newest_stay() {
        let mut task = task(TaskState::Pending, TaskState::Running, "");
        for at in 0..20 {
            note(&mut task, at, format!("reason {at}"));
            note(&mut task, at, format!("reason {at}"));
        }
        let times: Vec<i64> = task.steps.iter().map(|step| step.at).collect();
        assert_eq!(times, [0, 13, 14, 15, 16, 17, 18, 19]);
        note(&mut task, 20, "ä".repeat(LONGEST + 1));
        assert_eq!(task.steps[7].reason, "ä".repeat(LONGEST));
    }

    #[test]
    fn successors_tell_what_became_of_the_one_before() {
        let service = Service::default();
        assert_eq!(made(&service, 1, &[]), "");
        let failed = Arc::new(task(
            TaskState::Failed,
            TaskState::Shutdown,
            "task: non-zero exit (1)",
        ));
        assert_eq!(
            made(&service, 1, std::slice::from_ref(&failed)),
            "replaces task t1, which failed (task: non-zero exit (1))"
        );
        assert_eq!(made(&service, 2, &[failed]), "update of task t1: version 1 to 2");
        let mut sent = task(TaskState::Running, TaskState::Shutdown, "");
        note(&mut sent, 1, "node is being drained".to_owned());
        assert_eq!(fate(&sent), "was sent away (node is being drained)");
        let long = task(TaskState::Rejected, TaskState::Shutdown, &"ä".repeat(200));
        assert_eq!(fate(&long), format!("was rejected ({}…)", "ä".repeat(QUOTED)));
    }
}
