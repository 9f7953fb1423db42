//! One slot: its tasks in the order in which they were made, of which the newest counts. Ended tasks get a successor,
//! tasks in the wrong place are replaced, waiting ones are let start. Everything follows from the tasks themselves.

use std::sync::Arc;

use pontoon_proto::v1::{Service, Task, TaskState};
use pontoon_store::Id;

use super::{created_at, dependencies, enforcer, global, job, reaper, restart};
use crate::pass::Pass;
use crate::state::{Standing, goal, is_global, is_live, state_of};
use crate::timers::{SlotKey, Subject};
use crate::{defaults, reasons, versions};

/// Looks at one slot, and does what it needs.
pub(super) fn settle(pass: &mut Pass<'_, '_>, service: &Arc<Service>, slot: &SlotKey) -> Standing {
    let subject = Subject::Slot(Id::from(service.id.as_str()), slot.clone());
    pass.state.timers.clear(&subject);
    // The service's mode was changed, which the API refuses, or a job's run has fewer slots than the one before.
    if is_global(service) != (slot.0 == 0) || job::is_beyond(service, slot) {
        for task in pass.slot_tasks(&service.id, slot) {
            enforcer::orphan(pass, &task);
        }
        reaper::remove_slot(pass, &service.id, slot);
        return job::leaving(pass, service, slot);
    }
    for task in pass.slot_tasks(&service.id, slot) {
        retire(pass, service, &task);
    }
    let eligible = slot.0 != 0 || global::wants(pass, service, &slot.1);
    if !eligible {
        global::leave(pass, service, slot);
    }
    let mut tasks = pass.slot_tasks(&service.id, slot);
    tasks.retain(|task| service.is_of_this_run(task));
    let live = tasks.iter().any(|task| is_live(task));
    let standing = match restart::next(service, &tasks) {
        _ if live => {
            retry_start_first(pass, service, slot, &tasks);
            Standing::Live
        }
        restart::Next::Nothing if slot.0 == 0 && eligible => {
            start(pass, service, slot, 0);
            Standing::Live
        }
        restart::Next::Nothing => job::leaving(pass, service, slot),
        restart::Next::Finished => Standing::Ended,
        restart::Next::Replace { .. } if !eligible => Standing::Free,
        restart::Next::Replace { delay } => {
            restart_when_due(pass, service, slot, &tasks, delay);
            Standing::Live
        }
    };
    promote(pass, service, slot);
    let keep = usize::from(standing != Standing::Free && !live);
    reaper::reap(pass, service, slot, keep);
    standing
}

/// Makes a slot's next task: at once if it can start at once, else as READY until then.
pub(super) fn start(pass: &mut Pass<'_, '_>, service: &Service, slot: &SlotKey, delay: i64) {
    let version = next_version(pass, service, slot);
    let held = version == service.spec_version && !dependencies::is_released(service);
    let waits = held || delay > 0 || blocker(pass, &service.id, slot, "").is_some();
    let desired = if waits { TaskState::Ready } else { goal(service) };
    let start_not_before = if delay > 0 {
        pass.now().saturating_add(delay)
    } else {
        0
    };
    pass.new_task(service, slot, version, desired, start_not_before);
}

/// The version of a slot's next task: the newest, but as long as that waits for other services the one that the slot had.
fn next_version(pass: &Pass<'_, '_>, service: &Service, slot: &SlotKey) -> u64 {
    let newest = service.spec_version;
    if dependencies::is_released(service) {
        return newest;
    }
    let tasks = pass.slot_tasks(&service.id, slot);
    let mut had = tasks.iter().rev().map(|task| task.spec_version);
    let known = |version: &u64| *version != newest && versions::spec_of(Some(service), *version).is_some();
    had.find(known).unwrap_or(newest)
}

/// Takes a task out of service that has ended, or that can't stay where it is.
fn retire(pass: &mut Pass<'_, '_>, service: &Service, task: &Task) {
    let state = state_of(task);
    if state.is_terminal() {
        // A job's that has completed is what it was to be.
        if state != TaskState::Complete || task.desired_state() != TaskState::Complete {
            pass.desire(task, TaskState::Shutdown);
        }
        return;
    }
    if enforcer::orphan(pass, task) || !is_live(task) {
        return;
    }
    if !service.is_of_this_run(task) {
        pass.send_away(task, TaskState::Shutdown, "the job was run anew");
        return;
    }
    let Some(reason) = enforcer::misplaced(pass, service, task) else {
        return;
    };
    let mut task = task.clone();
    reasons::note(&mut task, pass.now(), reason.to_owned());
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

/// Lets waiting tasks start whose time has come, whose predecessors have stopped, and whose service is released.
fn promote(pass: &mut Pass<'_, '_>, service: &Service, slot: &SlotKey) {
    let now = pass.now();
    for task in pass.slot_tasks(&service.id, slot) {
        if task.desired_state() != TaskState::Ready || state_of(&task).is_terminal() {
            continue;
        }
        if task.spec_version == service.spec_version && !dependencies::is_released(service) {
            continue;
        }
        let mut due = task.start_not_before;
        if let Some(old) = blocker(pass, &service.id, slot, &task.id) {
            let patience = grace_period(service, &old).saturating_add(defaults::OLD_TASK_TIMEOUT);
            due = due.max(created_at(&task).saturating_add(patience));
        }
        if due <= now {
            pass.desire(&task, goal(service));
        } else {
            let service = Id::from(service.id.as_str());
            pass.state.timers.set(due, Subject::Slot(service, slot.clone()));
        }
    }
}

/// How long a task may take to leave: it drains, then its program has time to end.
pub(super) fn grace_period(service: &Service, task: &Task) -> i64 {
    let spec = versions::spec_of(Some(service), task.spec_version).and_then(|spec| spec.task.as_ref());
    let drain = spec
        .and_then(|spec| spec.drain_period)
        .unwrap_or(defaults::DRAIN_PERIOD);
    let container = spec.and_then(|spec| spec.container.as_ref());
    let grace = container.map_or(0, |container| container.stop_grace_period);
    let grace = if grace > 0 {
        grace
    } else {
        defaults::STOP_GRACE_PERIOD
    };
    grace.saturating_add(drain)
}
