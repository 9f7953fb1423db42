//! Makes, restarts, replaces and retires tasks, so that each service has the tasks its spec asks for.
//!
//! - `slot`: one slot: its tasks, one after the other; `restart`: whether an ended task gets a successor;
//! - `replicated`, `global`, `job`: how many slots there are; `update`: moving slots to a new spec version;
//! - `dependencies`: services that wait for others;
//! - `reaper`: the end of tasks; `enforcer`: nodes that left or no longer suit.
//!
//! Each service is looked at only where something changed (`ReconcileState::dirty_services`).

pub(crate) mod dependencies;
mod enforcer;
mod global;
mod job;
mod reaper;
mod replicated;
mod restart;
mod slot;
mod update;

use std::sync::Arc;

use pontoon_proto::v1::{Service, Task, TaskState};
use pontoon_store::{Id, Kind};

use crate::pass::Pass;
use crate::reasons;
use crate::state::{is_global, is_live, state_of};
use crate::timers::SlotKey;
use crate::{defaults, versions};

/// Looks at every node and service that something happened to.
pub(crate) fn run(pass: &mut Pass<'_, '_>) {
    while let Some(node) = pass.state.dirty_nodes.pop_first() {
        enforcer::node(pass, &node);
    }
    // The enforcer may have asked tasks to leave.
    pass.state.sync(pass.tx.view());
    let services: Vec<Id> = pass.state.dirty_services.iter().cloned().collect();
    for service in services {
        if pass.is_full() {
            break;
        }
        if orchestrate(pass, &service) {
            pass.state.dirty_services.remove(&service);
        }
    }
}

/// Looks at one service; false if the budget ended before all was done.
fn orchestrate(pass: &mut Pass<'_, '_>, id: &Id) -> bool {
    let Some(service) = pass.tx.service(id).cloned() else {
        return reaper::remove_service(pass, id);
    };
    let service = job::begin(pass, service);
    let service = dependencies::review(pass, service);
    let global = is_global(&service);
    let state = pass.state.services.entry(id.clone()).or_default();
    let full = std::mem::take(&mut state.full);
    if full {
        state.occupied.clear();
        state.ended.clear();
        let mut slots = pass.all_slots(&service);
        if global {
            let nodes = pass.tx.nodes().map(|node| (0, Id::from(node.id.as_str())));
            slots.extend(nodes);
        }
        pass.state
            .services
            .entry(id.clone())
            .or_default()
            .dirty
            .extend(slots);
    }
    let mut dirty = std::mem::take(&mut pass.state.services.entry(id.clone()).or_default().dirty);
    while let Some(slot) = dirty.pop_first() {
        if pass.is_full() {
            dirty.insert(slot);
            break;
        }
        let standing = slot::settle(pass, &service, &slot);
        pass.state
            .services
            .entry(id.clone())
            .or_default()
            .note(slot, standing);
    }
    let cut = !dirty.is_empty();
    pass.state
        .services
        .entry(id.clone())
        .or_default()
        .dirty
        .extend(dirty);
    if cut {
        return false;
    }
    let done = match job::of(&service) {
        _ if global => true,
        Some(mode) => job::fill(pass, &service, mode),
        None => replicated::scale(pass, &service),
    };
    if service.iteration().is_none() && (full || defaults::is_unfinished(&service)) {
        update::run(pass, &service);
    }
    drop_retained(pass, id);
    done
}

/// Forgets specs that neither a task runs nor the service has.
fn drop_retained(pass: &mut Pass<'_, '_>, id: &Id) {
    let Some(service) = pass.tx.service(id) else {
        return;
    };
    // Tasks made or deleted in this round are counted at the next look: a version without tasks marks the service.
    let versions = &pass.state.services.entry(id.clone()).or_default().versions;
    let used = |version: u64| versions.contains_key(&version);
    if service.retained.iter().all(|retained| used(retained.version)) {
        return;
    }
    let mut service = Service::clone(service);
    service.retained.retain(|retained| used(retained.version));
    pass.put_service(service);
}

impl Pass<'_, '_> {
    /// The slots that a service has tasks in.
    fn all_slots(&self, service: &Service) -> std::collections::BTreeSet<SlotKey> {
        self.tx
            .tasks_by_service(&service.id)
            .map(|task| crate::state::slot_key(task))
            .collect()
    }

    /// A slot's tasks, oldest first.
    fn slot_tasks(&self, service_id: &str, slot: &SlotKey) -> Vec<Arc<Task>> {
        let mut tasks: Vec<_> = if slot.0 == 0 {
            let on_node = self.tx.tasks_by_node(&slot.1);
            on_node
                .filter(|task| task.service_id == service_id && task.slot == 0)
                .cloned()
                .collect()
        } else {
            self.tx.tasks_by_slot(service_id, slot.0).cloned().collect()
        };
        tasks.sort_by(|a, b| (created_at(a), &a.id).cmp(&(created_at(b), &b.id)));
        tasks
    }

    /// Makes a task of a version of the service's spec in a slot.
    fn new_task(
        &mut self,
        service: &Service,
        slot: &SlotKey,
        version: u64,
        desired: TaskState,
        start_not_before: i64,
    ) {
        let now = self.now();
        let reason = reasons::made(service, version, &self.slot_tasks(&service.id, slot));
        #[cfg(feature = "planted-bugs")]
        let reason = match pontoon_proto::planted::is_planted(pontoon_proto::planted::Bug::ForgetCause) {
            true => String::new(),
            false => reason,
        };
        let mut task = Task {
            id: (self.env.ids)(),
            meta: Some(pontoon_proto::v1::Meta {
                version: 0,
                created_at: now,
                updated_at: now,
            }),
            service_id: service.id.clone(),
            spec_version: version,
            slot: slot.0,
            node_id: slot.1.as_ref().to_owned(),
            desired_state: desired.into(),
            status: Some(pontoon_proto::v1::TaskStatus {
                state: TaskState::New.into(),
                timestamp: now,
                message: "created".to_owned(),
                ..Default::default()
            }),
            start_not_before,
            service_name: versions::name(service).to_owned(),
            job_iteration: service.iteration(),
            ..Default::default()
        };
        if !reason.is_empty() {
            reasons::note(&mut task, now, reason);
        }
        self.put_task(task);
    }

    /// Sets what is desired of a task; never back to an earlier state.
    fn desire(&mut self, task: &Task, desired: TaskState) {
        if task.desired_state() >= desired {
            return;
        }
        let mut task = task.clone();
        task.set_desired_state(desired);
        self.put_task(task);
    }

    /// Asks a task to leave and notes why; never back to an earlier state. Of one that leaves already the reason is known.
    fn send_away(&mut self, task: &Task, desired: TaskState, reason: &str) {
        if task.desired_state() >= desired {
            return;
        }
        let (mut task, now) = (task.clone(), self.now());
        if is_live(&task) {
            reasons::note(&mut task, now, reason.to_owned());
        }
        task.set_desired_state(desired);
        self.put_task(task);
    }

    /// Whether a task still runs somewhere, as far as anybody can know: it is on a node, has not ended, and the node
    /// is not known to be down.
    fn may_run(&self, task: &Task) -> bool {
        let state = state_of(task);
        if state < TaskState::Assigned || state.is_terminal() {
            return false;
        }
        self.tx
            .node(&task.node_id)
            .is_some_and(|node| !enforcer::is_down(node))
    }

    fn delete_task(&mut self, id: &str) {
        self.tx.delete(Kind::Task, id);
    }
}

/// When a task was made.
pub(crate) fn created_at(task: &Task) -> i64 {
    task.meta.as_ref().map_or(0, |meta| meta.created_at)
}
