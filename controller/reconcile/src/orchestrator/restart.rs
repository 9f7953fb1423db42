//! Whether an ended task gets a successor: the restart policy, worked out from the slot's history alone. The reaper
//! keeps as much history as counting the attempts needs.

use std::sync::Arc;

use pontoon_proto::v1::{RestartCondition, Service, Task, TaskState};

use super::created_at;
use crate::state::{ended_at, state_of};
use crate::{defaults, versions};

/// What a slot without a live task needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It was given up (scaled down), or never used.
    Nothing,
    /// Its last task ended and is not to be restarted.
    Finished,
    /// A new task, after this many nanoseconds.
    Replace { delay: i64 },
}

/// Whether the task ended by itself, not because it was asked to.
pub(super) fn ended_itself(task: &Task) -> bool {
    matches!(
        state_of(task),
        TaskState::Complete | TaskState::Failed | TaskState::Rejected
    )
}

/// What a slot without a live task needs; `tasks` are the slot's (of a job: of its present run), oldest first.
pub(super) fn next(service: &Service, tasks: &[Arc<Task>]) -> Next {
    let Some(newest) = tasks
        .last()
        .filter(|task| task.desired_state() < TaskState::Remove)
    else {
        return Next::Nothing;
    };
    let is_complete = |task: &Arc<Task>| state_of(task) == TaskState::Complete;
    if service.iteration().is_some() && tasks.iter().any(is_complete) {
        // Whatever the policy: a job runs to its end once.
        return Next::Finished;
    }
    let spec = versions::spec_of(Some(service), newest.spec_version).or(service.spec.as_ref());
    let policy = defaults::restart(spec);
    if !ended_itself(newest) {
        // Taken away from its node: somewhere else at once, unless it is not to run twice.
        let once = policy.condition == RestartCondition::None && newest.running_at > 0;
        return if once {
            Next::Finished
        } else {
            Next::Replace { delay: 0 }
        };
    }
    let wanted = match policy.condition {
        RestartCondition::Any => true,
        RestartCondition::OnFailure => state_of(newest) != TaskState::Complete,
        RestartCondition::None => false,
    };
    let limited = policy.max_attempts > 0;
    if !wanted || (limited && attempts_used(&policy, newest, tasks) >= policy.max_attempts) {
        return Next::Finished;
    }
    Next::Replace {
        delay: delay(&policy, newest),
    }
}

/// How long the successor of a task that has ended waits. With a longest delay: twice as long as that task had waited itself, unless it
/// held out for the longest delay before it ended.
fn delay(policy: &defaults::Restart, newest: &Task) -> i64 {
    let first = policy.delay.max(0);
    let Some(longest) = policy.max_delay else {
        return first;
    };
    let held = newest.running_at > 0 && ended_at(newest).saturating_sub(newest.running_at) >= longest;
    if held || newest.start_not_before == 0 {
        return first;
    }
    let waited = newest.start_not_before.saturating_sub(created_at(newest));
    waited.saturating_mul(2).max(first).min(longest.max(first))
}

/// Restarts of the newest task's version in this slot (within the window, if the policy has one).
fn attempts_used(policy: &defaults::Restart, newest: &Task, tasks: &[Arc<Task>]) -> u64 {
    let same = tasks
        .iter()
        .rev()
        .skip(1)
        .take_while(|task| task.spec_version == newest.spec_version);
    let since = ended_at(newest).saturating_sub(policy.window);
    let counted = same.filter(|task| ended_itself(task) && (policy.window == 0 || ended_at(task) > since));
    counted.count() as u64
}
