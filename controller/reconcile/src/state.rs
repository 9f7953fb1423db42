//! Caches derived from the objects: what is on each node, which slots must be looked at, which tasks wait for addresses or
//! for a node. Kept between calls of the reconciler; [`ReconcileState::sync`] compares the objects with those it saw
//! last, so that a new leader, a dropped transaction or a restart need nothing special: the difference is larger, that is all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pontoon_proto::v1::{Cluster, Node, Service, ServiceSpec, Task, TaskState};
use pontoon_store::{Id, Object, Snapshot};

use crate::allocator::Allocations;
use crate::demand::{Demand, Share};
use crate::orchestrator::dependencies;
use crate::scheduler::{Queue, Roster, Shapes};
use crate::timers::{SlotKey, Timers};
use crate::{defaults, versions};

/// What the reconciler remembers of a service.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServiceState {
    /// All slots must be looked at, and `occupied` be counted anew.
    pub(crate) full: bool,
    /// Slots to look at.
    pub(crate) dirty: BTreeSet<SlotKey>,
    /// Slots that have a live task, or one that is not to be restarted.
    pub(crate) occupied: BTreeSet<SlotKey>,
    /// Those of them whose task has ended.
    pub(crate) ended: BTreeSet<SlotKey>,
    /// Number of tasks by spec version.
    pub(crate) versions: BTreeMap<u64, usize>,
    demands: BTreeMap<u64, Arc<Demand>>,
}

/// What a slot is to its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has no task that counts.
    Free,
    /// It has a live task.
    Live,
    /// Its last task ended and gets no successor.
    Ended,
}

impl ServiceState {
    /// Notes what a slot is by now.
    pub(crate) fn note(&mut self, slot: SlotKey, standing: Standing) {
        if standing == Standing::Ended {
            self.ended.insert(slot.clone());
        } else {
            self.ended.remove(&slot);
        }
        if standing == Standing::Free {
            self.occupied.remove(&slot);
        } else {
            self.occupied.insert(slot);
        }
    }
}

/// What the reconciler remembers from call to call. Holds nothing that the objects don't tell: losing it costs one
/// slower call. Start with `default()`.
#[derive(Debug, Clone, Default)]
pub struct ReconcileState {
    seen: Snapshot,
    pub(crate) services: BTreeMap<Id, ServiceState>,
    pub(crate) globals: BTreeSet<Id>,
    /// By name of a service, those that wait for it.
    waiters: BTreeMap<Id, BTreeSet<Id>>,
    pub(crate) dirty_services: BTreeSet<Id>,
    pub(crate) dirty_nodes: BTreeSet<Id>,
    pub(crate) roster: Roster,
    pub(crate) shapes: Shapes,
    pub(crate) timers: Timers,
    pub(crate) alloc: Allocations,
    pub(crate) queue: Queue,
}

/// Whether a service has its tasks by nodes: a global one, or a global job.
pub(crate) fn is_global(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(ServiceSpec::is_per_node)
}

/// What is desired of a service's task once it may start.
pub(crate) fn goal(service: &Service) -> TaskState {
    if service.iteration().is_some() {
        TaskState::Complete
    } else {
        TaskState::Running
    }
}

/// The slot that a task belongs to.
pub(crate) fn slot_key(task: &Task) -> SlotKey {
    let node = if task.slot == 0 { task.node_id.as_str() } else { "" };
    (task.slot, node.into())
}

/// A task's state; a task without a status is new.
pub(crate) fn state_of(task: &Task) -> TaskState {
    task.status
        .as_ref()
        .map_or(TaskState::New, |status| status.state())
}

/// When the task ended, by the managers' clock: a task is written last when its end is reported. Agents' clocks may be
/// wrong by any amount and decide nothing.
pub(crate) fn ended_at(task: &Task) -> i64 {
    task.meta.as_ref().map_or(0, |meta| meta.updated_at)
}

/// Whether the task is to run (or to get ready for it). A job's is to complete, and is over when it has ended.
pub(crate) fn is_live(task: &Task) -> bool {
    match task.desired_state() {
        TaskState::Complete => !state_of(task).is_terminal(),
        desired => desired <= TaskState::Running,
    }
}

impl ReconcileState {
    pub(crate) fn mark_slot(&mut self, service: &Id, slot: SlotKey) {
        self.services
            .entry(service.clone())
            .or_default()
            .dirty
            .insert(slot);
        self.dirty_services.insert(service.clone());
    }

    pub(crate) fn mark_service(&mut self, service: &Id) {
        self.services.entry(service.clone()).or_default().full = true;
        self.dirty_services.insert(service.clone());
    }

    pub(crate) fn mark_node(&mut self, node: &Id) {
        self.dirty_nodes.insert(node.clone());
    }

    /// Whether nothing is left that could be done now.
    pub(crate) fn is_clean(&self) -> bool {
        self.dirty_services.is_empty()
            && self.dirty_nodes.is_empty()
            && !self.alloc.retry
            && !self.queue.retry
    }

    /// Takes in what differs from the objects seen last. [`reconcile`](crate::reconcile) begins with it; called by itself only where
    /// that is measured.
    pub fn sync(&mut self, view: &Snapshot) {
        let diff = view.diff(&self.seen);
        if diff.is_empty() {
            return;
        }
        self.seen = view.clone();
        self.alloc.sync(view, &diff);
        for (old, new) in &diff {
            match (old, new) {
                (None, Some(Object::Cluster(_))) | (Some(Object::Cluster(_)), None) => {}
                (Some(Object::Cluster(old)), Some(Object::Cluster(new))) => self.cluster_changed(old, new),
                (Some(Object::Node(old)), None) => self.node_changed(&old.id, None),
                (None, Some(Object::Node(new))) => self.node_changed(&new.id, Some(new)),
                (Some(Object::Node(old)), Some(Object::Node(new))) => {
                    let mut same = Node::clone(old);
                    same.meta = new.meta;
                    if &same != new.as_ref() {
                        self.node_changed(&new.id, Some(new));
                    }
                }
                (old, Some(Object::Service(new))) => {
                    let old = old
                        .as_ref()
                        .and_then(|o| if let Object::Service(s) = o { Some(s) } else { None });
                    self.service_changed(old.map(Arc::as_ref), new);
                }
                (Some(Object::Service(old)), None) => {
                    let id = Id::from(old.id.as_str());
                    self.globals.remove(&id);
                    self.track_waiter(&id, None);
                    self.wake_waiters(versions::name(old));
                    self.roster.failures.forget(&id);
                    self.mark_service(&id);
                }
                (old, Some(Object::Task(new))) => {
                    let old = old
                        .as_ref()
                        .and_then(|o| if let Object::Task(t) = o { Some(t) } else { None });
                    self.task_changed(view, old.map(Arc::as_ref), Some(new));
                }
                (Some(Object::Task(old)), None) => self.task_changed(view, Some(old), None),
                _ => {}
            }
        }
    }

    fn cluster_changed(&mut self, old: &Cluster, new: &Cluster) {
        if defaults::task_history_limit(Some(old)) != defaults::task_history_limit(Some(new)) {
            let services: Vec<Id> = self.services.keys().cloned().collect();
            for service in services {
                self.mark_service(&service);
            }
        }
    }

    fn node_changed(&mut self, id: &str, node: Option<&Arc<Node>>) {
        self.dirty_nodes.insert(id.into());
        self.roster.set_node(id, node);
        self.queue.retry = true;
    }

    fn service_changed(&mut self, old: Option<&Service>, new: &Service) {
        let id = Id::from(new.id.as_str());
        if is_global(new) {
            self.globals.insert(id.clone());
        } else {
            self.globals.remove(&id);
        }
        self.track_waiter(&id, Some(new));
        let relevant = |s: &Service| {
            (
                s.spec.clone(),
                s.spec_version,
                s.update_status.clone(),
                s.iteration(),
                dependencies::is_released(s),
            )
        };
        if old.map(relevant) != Some(relevant(new)) {
            self.mark_service(&id);
            self.wake_waiters(versions::name(new));
        }
    }

    /// Keeps who waits for whom: services whose newest version is not released.
    fn track_waiter(&mut self, id: &Id, service: Option<&Service>) {
        self.waiters.retain(|_, waiting| {
            waiting.remove(id);
            !waiting.is_empty()
        });
        let waits = service.filter(|service| !dependencies::is_released(service));
        for dependency in waits
            .iter()
            .flat_map(|service| dependencies::of(service.spec.as_ref()))
        {
            let name = Id::from(dependency.service.as_str());
            self.waiters.entry(name).or_default().insert(id.clone());
        }
    }

    /// Has those looked at that wait for a service to which something happened.
    fn wake_waiters(&mut self, name: &str) {
        if let Some(waiting) = self.waiters.get(name.as_bytes()) {
            self.dirty_services.extend(waiting.iter().cloned());
        }
    }

    fn task_changed(&mut self, view: &Snapshot, old: Option<&Task>, new: Option<&Task>) {
        let Some(task) = new.or(old) else { return };
        let (id, service_id) = (Id::from(task.id.as_str()), Id::from(task.service_id.as_str()));
        let service = view.service(&service_id);
        if !self.waiters.is_empty()
            && let Some(service) = service
        {
            self.wake_waiters(versions::name(service));
        }
        let updating = service.is_some_and(|s| defaults::is_unfinished(s));
        let state = self.services.entry(service_id.clone()).or_default();
        if let Some(old) = old
            && let Some(count) = state.versions.get_mut(&old.spec_version)
        {
            *count -= 1;
            if *count == 0 {
                state.versions.remove(&old.spec_version);
                state.demands.remove(&old.spec_version);
                self.dirty_services.insert(service_id.clone());
            }
        }
        if let Some(new) = new {
            *state.versions.entry(new.spec_version).or_default() += 1;
        }
        // What the orchestrator has just made it need not look at again.
        let made = |new: &Task| {
            let starts = matches!(new.desired_state(), TaskState::Running | TaskState::Complete);
            starts && state_of(new) < TaskState::Assigned
        };
        let is_made = old.is_none() && new.is_some_and(made) && state.occupied.contains(&slot_key(task));
        if !is_made && matters(old, new, updating) {
            self.mark_slot(&service_id, slot_key(task));
        }
        if let Some(new) = new
            && matches!(state_of(new), TaskState::Failed | TaskState::Rejected)
            && old.is_none_or(|old| !state_of(old).is_terminal())
        {
            let (seat, at) = (self.roster.seat(&new.node_id), ended_at(new));
            self.roster.failures.add(&service_id, new.spec_version, seat, at);
        }
        self.count(view, &id, new);
        self.alloc.queue(&id, &service_id, new);
        self.queue.track(&id, new);
    }

    /// What tasks of this version ask of a node.
    pub(crate) fn demand(&mut self, view: &Snapshot, service_id: &str, version: u64) -> Arc<Demand> {
        let state = self.services.entry(service_id.into()).or_default();
        if let Some(demand) = state.demands.get(&version) {
            return demand.clone();
        }
        let service = view.service(service_id).map(Arc::as_ref);
        let Some(spec) = versions::spec_of(service, version) else {
            // A removed service's task that was never seen before: it is about to stop.
            return Arc::new(Demand::unknown(service_id));
        };
        let demand = Arc::new(Demand::new(service_id, spec));
        state.demands.insert(version, demand.clone());
        demand
    }

    /// Counts a task as it is now on its node, in place of how it was counted before.
    fn count(&mut self, view: &Snapshot, id: &Id, task: Option<&Task>) {
        let counted = self.roster.share(id);
        if let (Some((node, share)), Some(task)) = (counted, task)
            && node.as_ref() == task.node_id
            && share.is_still(task)
        {
            return;
        }
        let known = counted.map(|(_, share)| share.demand.clone());
        // Something became free: those that found no node may try again.
        self.queue.retry |= self.roster.take(id);
        let Some(task) = task else { return };
        let share = Share::of(task, || {
            known.unwrap_or_else(|| self.demand(view, &task.service_id, task.spec_version))
        });
        if let Some(share) = share {
            let seat = self.roster.seat(&task.node_id);
            self.roster.add(id.clone(), seat, share);
        }
    }
}

/// Whether a task's change concerns its slot. That a task goes its way towards RUNNING matters to updates only.
fn matters(old: Option<&Task>, new: Option<&Task>, updating: bool) -> bool {
    let (Some(old), Some(new)) = (old, new) else {
        return true;
    };
    let (before, now) = (state_of(old), state_of(new));
    old.desired_state != new.desired_state
        || before.is_terminal() != now.is_terminal()
        || old.start_not_before != new.start_not_before
        || (updating && before != now)
}
