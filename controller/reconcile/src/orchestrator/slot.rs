//! One slot: its tasks in the order in which they were made, of which the newest counts. Ended tasks get a successor,
//! tasks in the wrong place are replaced, waiting ones are let start. Everything follows from the tasks themselves.

use std::sync::Arc;

use pontoon_proto::v1::{Service, Task, TaskState};
use pontoon_store::Id;

use super::{created_at, enforcer, global, reaper, restart};
use crate::pass::Pass;
use crate::state::{is_global, is_live, state_of};
use crate::timers::{SlotKey, Subject};
use crate::{defaults, versions};

/// Looks at one slot; true if it is occupied: by a live task, or by an ended one that is not to be restarted.
pub(super) fn settle(pass: &mut Pass<'_, '_>, service: &Arc<Service>, slot: &SlotKey) -> bool {
    let subject = Subject::Slot(Id::from(service.id.as_str()), slot.clone());
    pass.state.timers.clear(&subject);
    if is_global(service) != (slot.0 == 0) {
        // The service's mode was changed, which the API refuses; the tasks of the other mode go.
        reaper::remove_slot(pass, &service.id, slot);
        return false;
    }
    for task in pass.slot_tasks(&service.id, slot) {
        retire(pass, service, &task);
    }
    let eligible = slot.0 != 0 || global::wants(pass, service, &slot.1);
    if !eligible {
        global::leave(pass, service, slot);
    }
    let tasks = pass.slot_tasks(&service.id, slot);
    let live = tasks.iter().any(|task| is_live(task));
    let occupied = match restart::next(service, &tasks) {
        _ if live => {
            retry_start_first(pass, service, slot, &tasks);
            true
        }
        restart::Next::Nothing if slot.0 == 0 && eligible => {
            start(pass, service, slot, 0);
            true
        }
        restart::Next::Nothing => false,
        restart::Next::Finished => true,
        restart::Next::Replace { .. } if !eligible => false,
        restart::Next::Replace { delay } => {
            restart_when_due(pass, service, slot, &tasks, delay);
            true
        }
    };
    promote(pass, service, slot);
    let keep = usize::from(occupied && !live);
    reaper::reap(pass, service, slot, keep);
    occupied
}

/// Makes a slot's next task: at once if it can start at once, else as READY until then.
pub(super) fn start(pass: &mut Pass<'_, '_>, service: &Service, slot: &SlotKey, delay: i64) {
    let waits = delay > 0 || blocker(pass, &service.id, slot, "").is_some();
    let desired = if waits {
        TaskState::Ready
    } else {
        TaskState::Running
    };
    let start_not_before = if delay > 0 {
        pass.now().saturating_add(delay)
    } else {
        0
    };
    pass.new_task(service, slot, desired, start_not_before);
}

/// Takes a task out of service that has ended, or that can't stay where it is.
fn retire(pass: &mut Pass<'_, '_>, service: &Service, task: &Task) {
    let state = state_of(task);
    if state.is_terminal() {
        pass.desire(task, TaskState::Shutdown);
        return;
    }
    if enforcer::orphan(pass, task) || !is_live(task) {
        return;
    }
    let Some(reason) = enforcer::misplaced(pass, service, task) else {
        return;
    };
    let mut task = task.clone();
    task.set_desired_state(TaskState::Shutdown);
    if let Some(status) = &mut task.status {
        reason.clone_into(&mut status.err);
    }
    pass.put_task(task);
}

/// A start-first update whose new task ended beside the old one tries again, as the restart policy says.
fn retry_start_first(pass: &mut Pass<'_, '_>, service: &Service, slot: &SlotKey, tasks: &[Arc<Task>]) {
    let current = |task: &Arc<Task>| task.spec_version == service.spec_version;
    if tasks.iter().any(|task| is_live(task) && current(task)) || !defaults::is_updating(service) {
        return;
    }
    let newest = tasks
        .last()
        .filter(|task| current(task) && state_of(task).is_terminal());
    if newest.is_none() || created_before_update(service, newest) {
        return;
    }
    if let restart::Next::Replace { delay } = restart::next(service, tasks) {
        restart_when_due(pass, service, slot, tasks, delay);
    }
}

/// Makes the successor of a slot's last task. One that ended before it was due to start (its image is missing, say) has
/// its successor wait for that time: else the two would follow each other without any delay.
fn restart_when_due(
    pass: &mut Pass<'_, '_>,
    service: &Service,
    slot: &SlotKey,
    tasks: &[Arc<Task>],
    delay: i64,
) {
    let due = tasks.last().map_or(0, |task| task.start_not_before);
    if due > pass.now() {
        let subject = Subject::Slot(Id::from(service.id.as_str()), slot.clone());
        pass.state.timers.set(due, subject);
    } else {
        start(pass, service, slot, delay);
    }
}

fn created_before_update(service: &Service, task: Option<&Arc<Task>>) -> bool {
    let started = service
        .update_status
        .as_ref()
        .map_or(0, |status| status.started_at);
    task.is_some_and(|task| created_at(task) < started)
}

/// A task of the slot that must stop before `but` may start.
pub(super) fn blocker(pass: &Pass<'_, '_>, service_id: &str, slot: &SlotKey, but: &str) -> Option<Arc<Task>> {
    let tasks = pass.slot_tasks(service_id, slot);
    tasks
        .into_iter()
        .find(|task| task.id != but && !is_live(task) && pass.may_run(task))
}

/// Lets waiting tasks start whose time has come and whose predecessors have stopped.
fn promote(pass: &mut Pass<'_, '_>, service: &Service, slot: &SlotKey) {
    let now = pass.now();
    for task in pass.slot_tasks(&service.id, slot) {
        if task.desired_state() != TaskState::Ready || state_of(&task).is_terminal() {
            continue;
        }
        let mut due = task.start_not_before;
        if let Some(old) = blocker(pass, &service.id, slot, &task.id) {
            let patience = grace_period(service, &old).saturating_add(defaults::OLD_TASK_TIMEOUT);
            due = due.max(created_at(&task).saturating_add(patience));
        }
        if due <= now {
            pass.desire(&task, TaskState::Running);
        } else {
            let service = Id::from(service.id.as_str());
            pass.state.timers.set(due, Subject::Slot(service, slot.clone()));
        }
    }
}

fn grace_period(service: &Service, task: &Task) -> i64 {
    let spec = versions::spec_of(Some(service), task.spec_version);
    let container = spec
        .and_then(|spec| spec.task.as_ref())
        .and_then(|t| t.container.as_ref());
    let grace = container.map_or(0, |container| container.stop_grace_period);
    if grace > 0 {
        grace
    } else {
        defaults::STOP_GRACE_PERIOD
    }
}
