//! Names a node for each task that has its addresses. Tasks of one service and spec version ask for the same, so they are
//! placed as a group: the filters run once over the nodes, then each task costs a step in a heap.
//!
//! - `queue`: who waits; `filter`: which nodes can take a task, and counts of why the others can't;
//! - `spread`: which of those takes it.
//!
//! A task that finds no node says why in its status and is tried again when something changed that could help.

mod filter;
mod queue;
mod spread;

pub(crate) use queue::Queue;

use std::sync::{Arc, LazyLock};

use pontoon_proto::v1::{Node, Task, TaskState};
use pontoon_store::{Id, Kind};

use crate::demand::{Demand, Usage};
use crate::generic;
use crate::pass::Pass;
use crate::reasons;
use filter::Refusals;
use spread::Score;

/// Of a node that no task was on yet.
static NOTHING_USED: LazyLock<Usage> = LazyLock::new(Usage::default);

/// Why a node can't take one more such task of a service; none: it can.
pub(crate) fn refusal(node: &Node, usage: &Usage, service: &Id, demand: &Demand) -> Option<String> {
    let mut refusals = Refusals::default();
    (!filter::fits(node, usage, service, demand, &mut refusals)).then(|| refusals.explain_one())
}

/// Places what can be placed.
pub(crate) fn run(pass: &mut Pass<'_, '_>) {
    if !pass.state.queue.retry {
        return;
    }
    pass.state.queue.retry = false;
    // Global services' tasks first: they have no choice of node.
    for id in pass.state.queue.preassigned.clone() {
        confirm(pass, &id);
    }
    let groups: Vec<_> = pass.state.queue.groups.keys().cloned().collect();
    for (service, version) in groups {
        place(pass, &service, version);
    }
    // Placing only takes room away: what was refused stays refused until something else happens.
}

/// Writes where a task goes, and which of the node's units are its own. The node has passed the filters just before.
fn assign(pass: &mut Pass<'_, '_>, id: &Id, node: &Node, demand: &Demand, message: &str) {
    let Some(task) = pass.tx.task(id) else { return };
    let mut task = Task::clone(task);
    let now = pass.now();
    reasons::waited(&mut task, now);
    task.node_id.clone_from(&node.id);
    if !demand.generic.is_empty() {
        let held = &usage_of(pass, &node.id).generic;
        let given = held.claim(generic::offered(node), &demand.generic);
        task.generic_resources = given.unwrap_or_default();
    }
    let status = task.status.get_or_insert_default();
    status.set_state(TaskState::Assigned);
    status.timestamp = now;
    message.clone_into(&mut status.message);
    status.err.clear();
    pass.state.count(pass.tx.view(), id, Some(&task));
    pass.put_task(task);
}

/// Writes why a task could not be placed.
fn refuse(pass: &mut Pass<'_, '_>, id: &Id, reason: &str) {
    let Some(task) = pass.tx.task(id) else { return };
    if task.status.as_ref().is_some_and(|status| status.err == reason) {
        return;
    }
    let mut task = Task::clone(task);
    reason.clone_into(&mut task.status.get_or_insert_default().err);
    pass.put_task(task);
}

/// Lets a task go to the node that it was made for.
fn confirm(pass: &mut Pass<'_, '_>, id: &Id) {
    let Some(task) = pass.tx.task(id).cloned() else {
        return;
    };
    if !pass.may_write(Kind::Task, id) {
        pass.state.queue.retry = true;
        return;
    }
    let demand = pass
        .state
        .demand(pass.tx.view(), &task.service_id, task.spec_version);
    let service = Id::from(task.service_id.as_str());
    let mut refusals = Refusals::default();
    let Some(node) = pass.tx.node(&task.node_id).cloned() else {
        refuse(pass, id, "its node was removed from the cluster");
        return;
    };
    let usage = usage_of(pass, &task.node_id);
    if filter::fits(&node, usage, &service, &demand, &mut refusals) {
        let message = "scheduler confirmed task can run on preassigned node";
        assign(pass, id, &node, &demand, message);
    } else {
        refuse(pass, id, &refusals.explain());
    }
}

/// What the tasks on a node use.
fn usage_of<'a>(pass: &'a Pass<'_, '_>, node: &str) -> &'a Usage {
    let nothing: &Usage = &NOTHING_USED;
    pass.state.usage.get(node.as_bytes()).unwrap_or(nothing)
}

/// Looks at every node beside what is used of it. Both are sorted by the node's id, so that none is looked up.
fn for_each_node(pass: &Pass<'_, '_>, mut look: impl FnMut(&Arc<Node>, &Usage)) {
    let nothing: &Usage = &NOTHING_USED;
    let mut usages = pass.state.usage.iter().peekable();
    for node in pass.tx.nodes() {
        while usages
            .next_if(|(id, _)| id.as_bytes() < node.id.as_bytes())
            .is_some()
        {}
        let own = usages.next_if(|(id, _)| id.as_bytes() == node.id.as_bytes());
        look(node, own.map_or(nothing, |(_, usage)| usage));
    }
}

/// Places the tasks of one service and version, which ask for the same. What cannot be written in this transaction waits for the
/// next; the first ones go first.
fn place(pass: &mut Pass<'_, '_>, service: &Id, version: u64) {
    let demand = pass.state.demand(pass.tx.view(), service, version);
    let mut tree = spread::Tree::default();
    let now = pass.now();
    for_each_node(pass, |node, usage| {
        tree.count(node, &demand.spread, usage.of_service(service));
        if filter::fits(node, usage, service, &demand, &mut Refusals::default()) {
            let score = Score::new(usage, service, version, now);
            tree.add(node, &demand.spread, score);
        }
    });
    let mut reason = tree.is_empty().then(|| left_over(pass, service, &demand));
    let key = (service.clone(), version);
    let Some(group) = pass.state.queue.groups.get(&key) else {
        return;
    };
    if reason.is_some() && group.refused == reason {
        return;
    }
    for id in group.tasks.iter().cloned().collect::<Vec<_>>() {
        if !pass.may_write(Kind::Task, &id) {
            pass.state.queue.retry = true;
            return;
        }
        let Some(node) = tree.pick() else {
            let reason = reason.get_or_insert_with(|| left_over(pass, service, &demand));
            refuse(pass, &id, reason);
            continue;
        };
        assign(pass, &id, &node, &demand, "scheduler assigned task to node");
        // Back among those that can take a task, if it still can.
        let usage = usage_of(pass, &node.id);
        if filter::fits(&node, usage, service, &demand, &mut Refusals::default()) {
            let score = Score::new(usage, service, version, now);
            tree.add(&node, &demand.spread, score);
        }
    }
    if let Some(group) = pass.state.queue.groups.get_mut(&key) {
        group.refused = reason;
    }
}

/// Why no node can take a task now.
fn left_over(pass: &Pass<'_, '_>, service: &Id, demand: &Demand) -> String {
    let mut refusals = Refusals::default();
    for_each_node(pass, |node, usage| {
        filter::fits(node, usage, service, demand, &mut refusals);
    });
    refusals.explain()
}
