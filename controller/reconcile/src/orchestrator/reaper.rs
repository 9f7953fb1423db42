//! The end of tasks: those that are to be removed go once they have ended; ended ones are kept as history, up to the
//! cluster's limit a slot. With a task its container and its logs go.

use pontoon_proto::v1::{Service, Task, TaskState};
use pontoon_store::Id;

use super::enforcer;
use crate::defaults;
use crate::pass::Pass;
use crate::state::{is_live, state_of};
use crate::timers::SlotKey;

/// Whether no node has or will have anything to do with the task.
fn is_over(task: &Task) -> bool {
    let state = state_of(task);
    state.is_terminal() || state < TaskState::Assigned
}

/// Asks for the removal of a slot's tasks, and removes those that have ended already.
pub(super) fn remove_slot(pass: &mut Pass<'_, '_>, service_id: &str, slot: &SlotKey) {
    for task in pass.slot_tasks(service_id, slot) {
        remove(pass, &task, "the service was scaled down");
    }
}

fn remove(pass: &mut Pass<'_, '_>, task: &Task, reason: &str) {
    if is_over(task) || enforcer::is_gone(pass, task) {
        pass.delete_task(&task.id);
    } else {
        pass.send_away(task, TaskState::Remove, reason);
        enforcer::orphan_later(pass, task);
    }
}

/// Removes the tasks of a service that was removed; false if the budget ended before.
pub(super) fn remove_service(pass: &mut Pass<'_, '_>, id: &Id) -> bool {
    let tasks: Vec<_> = pass.tx.tasks_by_service(id).cloned().collect();
    let state = pass.state.services.entry(id.clone()).or_default();
    state.full = false;
    state.dirty.clear();
    for task in tasks {
        if pass.is_full() {
            return false;
        }
        if !enforcer::orphan(pass, &task) {
            remove(pass, &task, "the service was removed");
        }
    }
    if pass.tx.service_task_count(id) == 0 {
        pass.state.services.remove(id);
    }
    true
}

/// Whether the task is what a job's present run has come to in its slot.
fn is_result(service: &Service, task: &Task) -> bool {
    let is_job = service.iteration().is_some() && service.is_of_this_run(task);
    is_job && state_of(task) == TaskState::Complete
}

/// Removes a slot's tasks that are over: those desired so, those that never got to a node, and history beyond the
/// limit, of which at least `keep` stay.
pub(super) fn reap(pass: &mut Pass<'_, '_>, service: &Service, slot: &SlotKey, keep: usize) {
    let mut history = Vec::new();
    for task in pass.slot_tasks(&service.id, slot) {
        let removed = task.desired_state() >= TaskState::Remove;
        if is_over(&task) && (removed || (!is_live(&task) && !state_of(&task).is_terminal())) {
            pass.delete_task(&task.id);
        } else if state_of(&task).is_terminal() && !is_result(service, &task) {
            history.push(task);
        }
    }
    let mut limit = defaults::task_history_limit(pass.tx.cluster().map(|cluster| cluster.as_ref())).max(keep);
    let attempts = defaults::restart(service.spec.as_ref()).max_attempts;
    if attempts > 0 {
        // Counting the attempts needs them, also after a change of leader.
        limit = limit.max(usize::try_from(attempts).unwrap_or(usize::MAX).saturating_add(1));
    }
    if defaults::is_updating(service) {
        // So do an update's failures.
        limit = limit.max(1);
    }
    let surplus = history.len().saturating_sub(limit);
    for task in history.into_iter().take(surplus) {
        pass.delete_task(&task.id);
    }
}
