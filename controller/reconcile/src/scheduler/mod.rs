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

use std::sync::Arc;

use pontoon_proto::v1::{Node, Task, TaskState};
use pontoon_store::{Id, Kind};

use crate::demand::{Demand, Usage};
use crate::pass::Pass;
use filter::Refusals;

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
    let groups: Vec<_> = pass
        .state
        .queue
        .groups
        .iter()
        .map(|(key, tasks)| (key.clone(), tasks.clone()))
        .collect();
    for ((service, version), tasks) in groups {
        place(pass, &service, version, tasks.into_iter().collect());
    }
    // Placing only takes room away: what was refused stays refused until something else happens.
}

/// Writes where a task goes.
fn assign(pass: &mut Pass<'_, '_>, id: &Id, node: &str, message: &str) {
    let Some(task) = pass.tx.task(id) else { return };
    let mut task = Task::clone(task);
    let now = pass.now();
    node.clone_into(&mut task.node_id);
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
    let usage = pass.state.usage.entry(task.node_id.as_str().into()).or_default();
    if filter::fits(&node, usage, &service, &demand, &mut refusals) {
        assign(
            pass,
            id,
            &task.node_id,
            "scheduler confirmed task can run on preassigned node",
        );
    } else {
        refuse(pass, id, &refusals.explain());
    }
}

/// Places tasks that ask for the same.
fn place(pass: &mut Pass<'_, '_>, service: &Id, version: u64, mut tasks: Vec<Id>) {
    // What cannot be written in this transaction waits for the next; the first ones go first.
    let writable = tasks
        .iter()
        .take_while(|id| pass.may_write(Kind::Task, id))
        .count();
    if writable < tasks.len() {
        pass.state.queue.retry = true;
        tasks.truncate(writable);
    }
    let demand = pass.state.demand(pass.tx.view(), service, version);
    let mut refusals = Refusals::default();
    let mut tree = spread::Tree::default();
    let now = pass.now();
    for node in pass.tx.nodes() {
        let id = Id::from(node.id.as_str());
        let usage = pass.state.usage.entry(id).or_default();
        let fits = filter::fits(node, usage, service, &demand, &mut refusals);
        let running = usage.of_service(service);
        tree.count(node, &demand.spread, running);
        if fits {
            tree.add(node, &demand.spread, spread::rank(usage, service, version, now));
        }
    }
    let mut tasks = tasks.into_iter();
    for id in tasks.by_ref() {
        if pass.is_full() && !pass.tx.is_written(Kind::Task, &id) {
            pass.state.queue.retry = true;
            continue;
        }
        let Some(node) = tree.pick() else {
            let reason = left_over(pass, service, &demand);
            refuse(pass, &id, &reason);
            for id in tasks.by_ref() {
                refuse(pass, &id, &reason);
            }
            return;
        };
        assign(pass, &id, &node.id, "scheduler assigned task to node");
        offer_again(pass, &mut tree, &node, service, version, &demand);
    }
}

/// Puts a node back among those that can take a task, if it still can.
fn offer_again(
    pass: &mut Pass<'_, '_>,
    tree: &mut spread::Tree,
    node: &Arc<Node>,
    service: &Id,
    version: u64,
    demand: &Demand,
) {
    let now = pass.now();
    let usage: &Usage = pass.state.usage.entry(node.id.as_str().into()).or_default();
    if filter::fits(node, usage, service, demand, &mut Refusals::default()) {
        tree.add(node, &demand.spread, spread::rank(usage, service, version, now));
    }
}

/// Why no node can take a task now.
fn left_over(pass: &mut Pass<'_, '_>, service: &Id, demand: &Demand) -> String {
    let mut refusals = Refusals::default();
    for node in pass.tx.nodes() {
        let usage = pass.state.usage.entry(node.id.as_str().into()).or_default();
        filter::fits(node, usage, service, demand, &mut refusals);
    }
    refusals.explain()
}
