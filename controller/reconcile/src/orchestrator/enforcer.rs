//! Nodes that left or no longer suit: tasks on them are replaced at once; tasks of a node that stays down for a day, or
//! was removed, are given up (ORPHANED), which frees their addresses.

use pontoon_proto::v1::{Availability, Node, NodeState, Service, Task, TaskState};
use pontoon_store::Id;

use crate::demand::{Demand, Usage, capacity};
use crate::generic::{self, Held};
use crate::pass::Pass;
use crate::state::{is_live, slot_key, state_of};
use crate::timers::Subject;
use crate::{defaults, reasons, versions};

/// Whether the node is known to be down.
pub(super) fn is_down(node: &Node) -> bool {
    node.status
        .as_ref()
        .is_some_and(|status| status.state() == NodeState::Down)
}

/// Whether a task stays with its node although that is down: the service has it so, for ever or until its grace is over.
pub(super) fn is_waited_for(pass: &mut Pass<'_, '_>, service: &Service, task: &Task, node: &Node) -> bool {
    let Some(patience) = defaults::disconnect_patience(service) else {
        return true;
    };
    let since = node.status.as_ref().map_or(0, |status| status.since);
    let at = since.saturating_add(patience);
    if at <= pass.now() {
        return false;
    }
    let subject = Subject::Slot(Id::from(service.id.as_str()), slot_key(task));
    pass.state.timers.set(at, subject);
    true
}

/// Whether the task was on a node that exists no more.
pub(super) fn is_gone(pass: &Pass<'_, '_>, task: &Task) -> bool {
    !task.node_id.is_empty() && pass.tx.node(&task.node_id).is_none()
}

/// Why a live task can't stay on its node.
pub(super) fn misplaced(pass: &mut Pass<'_, '_>, service: &Service, task: &Task) -> Option<&'static str> {
    if task.node_id.is_empty() {
        return None;
    }
    let Some(node) = pass.tx.node(&task.node_id).cloned() else {
        return Some("node was removed from the cluster");
    };
    if is_down(&node) && !is_waited_for(pass, service, task, &node) {
        return Some("node is down");
    }
    let spec = node.spec.as_ref();
    if spec.is_some_and(|spec| spec.availability() == Availability::Drain) {
        return Some("node is being drained");
    }
    // A task of a spec version that nobody knows any more has no constraints to break.
    versions::spec_of(Some(service), task.spec_version)?;
    let demand = pass.state.demand(pass.tx.view(), &service.id, task.spec_version);
    (!demand.meets_constraints(&node)).then_some("assigned node no longer meets constraints")
}

/// Gives a task up whose node was removed, or has been down for a day; true if it did.
pub(super) fn orphan(pass: &mut Pass<'_, '_>, task: &Task) -> bool {
    let state = state_of(task);
    if state < TaskState::Assigned || state.is_terminal() {
        return false;
    }
    let since = match pass.tx.node(&task.node_id) {
        Some(node) if !is_down(node) => return false,
        Some(node) => Some(node.clone()),
        None => None,
    };
    if let (Some(node), true) = (&since, is_live(task))
        && let Some(service) = pass.tx.service(&task.service_id).cloned()
        && is_waited_for(pass, &service, task, node)
    {
        return false;
    }
    let since = since.map(|node| node.status.as_ref().map_or(0, |status| status.since));
    let reason = match since {
        None => "its node was removed from the cluster",
        Some(since) if since.saturating_add(defaults::ORPHAN_AFTER) <= pass.now() => {
            "its node has been down for 24 hours"
        }
        Some(_) => {
            orphan_later(pass, task);
            return false;
        }
    };
    let (mut task, now) = (task.clone(), pass.now());
    if task.desired_state() < TaskState::Shutdown {
        task.set_desired_state(TaskState::Shutdown);
    }
    let status = task.status.get_or_insert_default();
    status.set_state(TaskState::Orphaned);
    status.timestamp = now;
    status.message = "given up".to_owned();
    status.err = reason.to_owned();
    pass.put_task(task);
    true
}

/// Comes back to the task when its node has been down for a day.
pub(super) fn orphan_later(pass: &mut Pass<'_, '_>, task: &Task) {
    let Some(node) = pass.tx.node(&task.node_id).filter(|node| is_down(node)) else {
        return;
    };
    let since = node.status.as_ref().map_or(0, |status| status.since);
    let at = since.saturating_add(defaults::ORPHAN_AFTER);
    if at > pass.now() {
        pass.state
            .timers
            .set(at, Subject::Node(Id::from(task.node_id.as_str())));
    }
}

/// Looks at everything that has to do with a node which changed.
pub(super) fn node(pass: &mut Pass<'_, '_>, id: &Id) {
    pass.state.timers.clear(&Subject::Node(id.clone()));
    evict(pass, id);
    let slots: Vec<_> = pass
        .tx
        .tasks_by_node(id)
        .map(|task| (task.service_id.clone(), slot_key(task)))
        .collect();
    for (service, slot) in slots {
        pass.state.mark_slot(&service.as_str().into(), slot);
    }
    let globals: Vec<Id> = pass.state.globals.iter().cloned().collect();
    for service in globals {
        pass.state.mark_slot(&service, (0, id.clone()));
    }
}

/// What the tasks on a node reserve beyond what it has.
struct Excess {
    nano_cpus: i64,
    memory: i64,
    generic: Held,
}

impl Excess {
    fn new(node: &Node, usage: &Usage) -> Self {
        let limits = capacity(node);
        Self {
            nano_cpus: usage.nano_cpus - limits.nano_cpus,
            memory: usage.memory - limits.memory_bytes,
            generic: usage.generic.excess(generic::offered(node)),
        }
    }

    fn is_nothing(&self) -> bool {
        self.nano_cpus <= 0 && self.memory <= 0 && self.generic.is_nothing()
    }

    /// Counts a task as gone; false if that helps nothing.
    fn relieve(&mut self, task: &Task, demand: &Demand) -> bool {
        let units = self.generic.take(&task.generic_resources);
        let cpus = self.nano_cpus > 0 && demand.nano_cpus > 0;
        let memory = self.memory > 0 && demand.memory > 0;
        if !(units || cpus || memory) {
            return false;
        }
        self.nano_cpus -= demand.nano_cpus;
        self.memory -= demand.memory;
        true
    }
}

/// Sends tasks away, newest first, until the rest's reservations fit what the node has now.
fn evict(pass: &mut Pass<'_, '_>, id: &Id) {
    let (Some(node), Some(usage)) = (pass.tx.node(id), pass.state.roster.usage(id)) else {
        return;
    };
    let mut excess = Excess::new(node, usage);
    if excess.is_nothing() {
        return;
    }
    let mut tasks: Vec<_> = pass.tx.tasks_by_node(id).cloned().collect();
    tasks.sort_by(|a, b| (super::created_at(b), &b.id).cmp(&(super::created_at(a), &a.id)));
    // Those that leave already first: they make room without anybody being sent away.
    let (staying, leaving): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|task| is_live(task));
    for task in leaving.into_iter().chain(staying) {
        if excess.is_nothing() || !pass.may_run(&task) {
            continue;
        }
        let demand = pass
            .state
            .demand(pass.tx.view(), &task.service_id, task.spec_version);
        if excess.relieve(&task, &demand) && is_live(&task) {
            let mut task = Task::clone(&task);
            let reason = "assigned node no longer meets constraints: insufficient resources";
            reasons::note(&mut task, pass.now(), reason.to_owned());
            task.set_desired_state(TaskState::Shutdown);
            let status = task.status.get_or_insert_default();
            reason.clone_into(&mut status.err);
            pass.put_task(task);
        }
    }
}
