//! Rolling updates and rollbacks: slots move to the service's newest spec version, so many at a time. Worked out anew at
//! each look from the tasks and the update status, so that a new leader goes on where the old one was.
//!
//! ```text
//!            no slot left, monitor over               too many failed
//! (none) → UPDATING ───────────→ COMPLETED     UPDATING ─┬→ PAUSED
//!          ROLLBACK_STARTED ───→ ROLLBACK_COMPLETED      ├→ (goes on)
//!              └── too many failed → ROLLBACK_PAUSED     └→ ROLLBACK_STARTED, with the previous spec
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

#[cfg(feature = "planted-bugs")]
use pontoon_proto::planted;
use pontoon_proto::v1::{
    Service, Task, TaskState, UpdateFailureAction, UpdateOrder, UpdateState, UpdateStatus,
};
use pontoon_store::Id;

use super::restart::ended_itself;
use super::{created_at, dependencies, slot};
use crate::pass::Pass;
use crate::state::{ended_at, is_live, slot_key, state_of};
use crate::timers::{SlotKey, Subject};
use crate::{defaults, reasons, versions};

/// Where a slot stands in the update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Runs an older version and waits its turn; `up`: it has a running task.
    Waiting { up: bool },
    /// Is being moved.
    Moving,
    /// Was moved at that time.
    Moved { at: i64 },
    /// Was on the newest version all along.
    Untouched,
}

/// One slot's part in the update.
struct Slot<'a> {
    key: &'a SlotKey,
    tasks: &'a [Arc<Task>],
    stage: Stage,
    /// Live tasks of the newest and of another version are in it: one of them is to go.
    mixed: bool,
}

/// Takes the service's update one step further.
pub(super) fn run(pass: &mut Pass<'_, '_>, service: &Arc<Service>) {
    let Some(service) = pass.tx.service(&service.id).cloned() else {
        return;
    };
    let subject = Subject::Service(Id::from(service.id.as_str()));
    pass.state.timers.clear(&subject);
    let mut tasks: BTreeMap<SlotKey, Vec<Arc<Task>>> = BTreeMap::new();
    for task in pass.tx.tasks_by_service(&service.id) {
        tasks.entry(slot_key(task)).or_default().push(task.clone());
    }
    for tasks in tasks.values_mut() {
        tasks.sort_by(|a, b| (created_at(a), &a.id).cmp(&(created_at(b), &b.id)));
    }
    let occupied = &pass
        .state
        .services
        .entry(service.id.as_str().into())
        .or_default()
        .occupied;
    tasks.retain(|key, _| occupied.contains(key));
    let slots: Vec<Slot<'_>> = tasks
        .iter()
        .map(|(key, tasks)| Slot {
            key,
            tasks,
            stage: stage(pass, &service, tasks),
            mixed: is_mixed(&service, tasks),
        })
        .collect();
    let waiting = slots
        .iter()
        .filter(|slot| matches!(slot.stage, Stage::Waiting { .. }))
        .count();
    let started = match defaults::update_state(&service) {
        UpdateState::Updating | UpdateState::RollbackStarted => true,
        UpdateState::Paused | UpdateState::RollbackPaused => {
            return finish_start_first(pass, &service, &slots);
        }
        _ => false,
    };
    if !started {
        // Without a slot that waits, one may be left half moved by an update that was taken back.
        if waiting > 0 || slots.iter().any(|slot| slot.mixed) {
            set_status(pass, &service, UpdateState::Updating, &progress(&service));
        }
        return;
    }
    tell_progress(pass, &service);
    if let Some(failed) = too_many_failed(&service, &slots)
        && fail(pass, &service, &failed)
    {
        return;
    }
    finish_start_first(pass, &service, &slots);
    if waiting == 0 {
        complete(pass, &service, &slots);
    } else if dependencies::is_released(&service) {
        go_on(pass, &service, slots);
    }
}

/// What is said of an update that is under way.
fn progress(service: &Service) -> String {
    if dependencies::is_released(service) || service.waits_for.is_empty() {
        "update in progress".to_owned()
    } else {
        format!("update in progress: {}", service.waits_for)
    }
}

/// Keeps up what is said of an update while it waits for other services, and when it no longer does.
fn tell_progress(pass: &mut Pass<'_, '_>, service: &Service) {
    let said = service.update_status.clone().unwrap_or_default();
    let progress = progress(service);
    if said.state() == UpdateState::Updating && said.message != progress {
        let mut service = service.clone();
        service.update_status = Some(UpdateStatus {
            message: progress,
            ..said
        });
        pass.put_service(service);
    }
}

fn is_mixed(service: &Service, tasks: &[Arc<Task>]) -> bool {
    let live = |current: bool| {
        let same = |task: &&Arc<Task>| (task.spec_version == service.spec_version) == current;
        tasks.iter().filter(same).any(|task| is_live(task))
    };
    live(true) && live(false)
}

/// One that has not begun has tried nothing yet: a task of its version that failed long ago was another update's try.
fn started_at(service: &Service) -> i64 {
    service
        .update_status
        .as_ref()
        .map_or(i64::MAX, |status| status.started_at)
}

fn stage(pass: &Pass<'_, '_>, service: &Service, tasks: &[Arc<Task>]) -> Stage {
    let is_current = |task: &&Arc<Task>| task.spec_version == service.spec_version;
    let current = tasks.iter().rev().find(|task| is_current(task) && is_live(task));
    let old_live: Vec<_> = tasks
        .iter()
        .filter(|task| !is_current(task) && is_live(task))
        .collect();
    // Tries of this update; what ran the version before it began does not count.
    let tried = |task: &&Arc<Task>| is_current(task) && created_at(task) >= started_at(service);
    let ended = tasks
        .iter()
        .filter(tried)
        .filter(|task| ended_itself(task))
        .map(|task| ended_at(task))
        .max();
    let keeps_history = defaults::task_history_limit(pass.tx.cluster().map(Arc::as_ref)) > 0;
    // A slot that is older than the update was moved, even if what tells it is gone: an outdated task that never ran is not kept.
    let is_older = tasks.iter().any(|task| created_at(task) < started_at(service));
    let was_other = is_older || tasks.iter().any(|task| !is_current(&task)) || !keeps_history;
    if current.is_none() && tasks.last().is_some_and(|task| is_current(&task)) && old_live.is_empty() {
        // Ended, and not to be restarted.
        return ended.map_or(Stage::Untouched, |at| Stage::Moved { at });
    }
    let Some(current) = current else {
        let up = old_live.iter().any(|task| state_of(task) == TaskState::Running);
        return match ended {
            // Start-first: the new task failed beside the old one, and is not tried again.
            Some(at) if !old_live.is_empty() => Stage::Moved { at },
            _ => Stage::Waiting { up },
        };
    };
    if !tried(&current) && current.running_at == 0 && tasks.iter().any(|task| !is_current(&task)) {
        // An update that this one took the place of was moving it, and it is not up yet: it counts.
        return Stage::Moving;
    }
    if !tried(&current) || !was_other {
        return Stage::Untouched;
    }
    let running = state_of(current) == TaskState::Running;
    let stopping = tasks
        .iter()
        .any(|task| !is_current(&task) && !is_live(task) && pass.may_run(task));
    match ended {
        // A failed try must not hold the others up for ever; the failure ratio decides.
        Some(at) => Stage::Moved {
            at: at.max(current.running_at),
        },
        None if running && old_live.is_empty() && !stopping => Stage::Moved {
            at: current.running_at,
        },
        None => Stage::Moving,
    }
}

/// A task whose failure is one too many, if the update has failed.
fn too_many_failed(service: &Service, slots: &[Slot<'_>]) -> Option<Arc<Task>> {
    let config = defaults::update(service);
    let failed = |task: &&Arc<Task>| {
        let early = task.running_at == 0 || ended_at(task) - task.running_at < config.monitor;
        let tried = task.spec_version == service.spec_version && created_at(task) >= started_at(service);
        tried && ended_itself(task) && !service.has_finished(task) && early
    };
    let failures: Vec<_> = slots
        .iter()
        .filter_map(|slot| slot.tasks.iter().find(failed))
        .collect();
    #[allow(clippy::cast_precision_loss)] // A ratio of counts: the 24th bit does not matter.
    let ratio = failures.len() as f32 / slots.len().max(1) as f32;
    let last = failures.into_iter().max_by_key(|task| ended_at(task))?;
    (ratio > config.max_failure_ratio).then(|| last.clone())
}

/// Does what the failure action says; false if the update goes on.
fn fail(pass: &mut Pass<'_, '_>, service: &Arc<Service>, task: &Task) -> bool {
    let why = format!("due to failure or early termination of task {}", task.id);
    let rollback = defaults::is_rollback(service);
    match defaults::update(service).failure_action {
        UpdateFailureAction::Continue => return false,
        UpdateFailureAction::Rollback if !rollback && service.previous_spec.is_some() => {
            let message = format!("update rolled back {why}");
            let mut service = Service::clone(service);
            roll_back(pass, &mut service);
            set_status(pass, &service, UpdateState::RollbackStarted, &message);
        }
        _ if rollback => {
            set_status(
                pass,
                service,
                UpdateState::RollbackPaused,
                &format!("rollback paused {why}"),
            );
        }
        _ => set_status(
            pass,
            service,
            UpdateState::Paused,
            &format!("update paused {why}"),
        ),
    }
    true
}

/// Takes the previous spec; there is none to go back to after that.
fn roll_back(pass: &Pass<'_, '_>, service: &mut Service) {
    let Some(previous) = service.previous_spec.take() else {
        return;
    };
    let tasks: Vec<_> = pass.tx.tasks_by_service(&service.id).cloned().collect();
    versions::advance(service, previous, tasks.iter().map(Arc::as_ref));
}

fn set_status(pass: &mut Pass<'_, '_>, service: &Service, state: UpdateState, message: &str) {
    let mut service = service.clone();
    let now = pass.now();
    let before = service.update_status.take();
    let (mut started_at, mut completed_at) = (before.as_ref().map_or(now, |status| status.started_at), 0);
    match state {
        UpdateState::Updating | UpdateState::RollbackStarted => started_at = now,
        UpdateState::Completed | UpdateState::RollbackCompleted => completed_at = now,
        _ => {}
    }
    let message = message.to_owned();
    service.update_status = Some(UpdateStatus {
        state: state.into(),
        started_at,
        completed_at,
        message,
    });
    pass.put_service(service);
}

/// Start-first: where the new task runs, or has done what it was to, the old one goes.
fn finish_start_first(pass: &mut Pass<'_, '_>, service: &Service, slots: &[Slot<'_>]) {
    for slot in slots {
        let current = |task: &&Arc<Task>| task.spec_version == service.spec_version && is_live(task);
        let finished = |task: &Arc<Task>| {
            let tried = task.spec_version == service.spec_version && created_at(task) >= started_at(service);
            tried && service.has_finished(task)
        };
        let runs = slot
            .tasks
            .iter()
            .any(|t| (current(&t) && state_of(t) == TaskState::Running) || finished(t));
        #[cfg(feature = "planted-bugs")]
        let runs = match planted::is_planted(planted::Bug::LeaveEarly) {
            true => slot.tasks.iter().any(|task| current(&task)),
            false => runs,
        };
        for old in slot
            .tasks
            .iter()
            .filter(|task| runs && is_live(task) && !current(task))
        {
            pass.send_away(old, TaskState::Shutdown, &reasons::outdated(service));
        }
    }
}

/// Declares the update done once the last slot's monitor period is over.
fn complete(pass: &mut Pass<'_, '_>, service: &Arc<Service>, slots: &[Slot<'_>]) {
    let config = defaults::update(service);
    let mut last = started_at(service);
    for slot in slots {
        match slot.stage {
            _ if slot.mixed => return,
            Stage::Moving | Stage::Waiting { .. } => return,
            Stage::Moved { at } => last = last.max(at),
            Stage::Untouched => {}
        }
    }
    let watches = config.failure_action != UpdateFailureAction::Continue;
    let touched = slots.iter().any(|slot| matches!(slot.stage, Stage::Moved { .. }));
    let due = if watches && touched {
        last.saturating_add(config.monitor.max(0))
    } else {
        last
    };
    if due > pass.now() {
        pass.state
            .timers
            .set(due, Subject::Service(Id::from(service.id.as_str())));
    } else if defaults::is_rollback(service) {
        set_status(
            pass,
            service,
            UpdateState::RollbackCompleted,
            "rollback completed",
        );
    } else {
        set_status(pass, service, UpdateState::Completed, "update completed");
    }
}

/// Starts to move as many slots as may be moved now: first those that are down anyway.
fn go_on(pass: &mut Pass<'_, '_>, service: &Arc<Service>, slots: Vec<Slot<'_>>) {
    let config = defaults::update(service);
    let now = pass.now();
    let mut busy = 0;
    for slot in &slots {
        match slot.stage {
            Stage::Moving => busy += 1,
            Stage::Moved { at } if at.saturating_add(config.delay) > now => {
                busy += 1;
                let due = at.saturating_add(config.delay);
                pass.state
                    .timers
                    .set(due, Subject::Service(Id::from(service.id.as_str())));
            }
            _ => {}
        }
    }
    #[cfg(feature = "planted-bugs")]
    if planted::is_planted(planted::Bug::ForgetBudget) {
        busy = 0;
    }
    let mut waiting: Vec<_> = slots
        .iter()
        .filter(|s| matches!(s.stage, Stage::Waiting { .. }))
        .collect();
    waiting.sort_by_key(|slot| slot.stage == Stage::Waiting { up: true });
    let free = config
        .parallelism
        .map_or(usize::MAX, |parallelism| parallelism.saturating_sub(busy));
    for slot in waiting.into_iter().take(free) {
        if pass.is_full() {
            // What is left comes in the next transaction.
            pass.state.mark_service(&service.id.as_str().into());
            return;
        }
        move_slot(pass, service, slot, config.order);
    }
}

fn move_slot(pass: &mut Pass<'_, '_>, service: &Service, slot: &Slot<'_>, order: UpdateOrder) {
    let start_first = order == UpdateOrder::StartFirst && slot.stage == Stage::Waiting { up: true };
    if start_first {
        pass.new_task(service, slot.key, service.spec_version, TaskState::Running, 0);
        return;
    }
    for old in slot.tasks.iter().filter(|task| is_live(task)) {
        pass.send_away(old, TaskState::Shutdown, &reasons::outdated(service));
    }
    slot::start(pass, service, slot.key, 0);
}
