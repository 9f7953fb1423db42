//! Names a node for each task that has its addresses. Tasks of one service and spec version ask for the same, so they are
//! placed as a group.
//!
//! - `queue`: who waits; `roster`: the nodes, what is used of them, and what happened to them lately; `failures`: where tasks failed;
//! - `filter`: which nodes can take a task, and counts of why the others can't; `shape`: an index of that for who asks for the same;
//! - `spread`: which of those takes it; `plan`: what was decided, until it is written.
//!
//! A task that finds no node says why in its status and is tried again when something changed that could help.

mod failures;
mod filter;
mod plan;
mod queue;
mod roster;
mod shape;
mod spread;

pub use plan::Plan;
pub(crate) use queue::Queue;
pub(crate) use roster::Roster;
pub(crate) use shape::Shapes;

use std::sync::Arc;

use pontoon_proto::v1::Node;
use pontoon_store::Id;

use crate::demand::{Demand, Usage};
use crate::pass::Pass;
use filter::Refusals;
use plan::Order;
use shape::Shape;
use spread::Picker;

/// Why a node can't take one more such task of a service that has `of_service` there; none: it can.
pub(crate) fn refusal(node: &Node, usage: &Usage, of_service: usize, demand: &Demand) -> Option<String> {
    let refused = filter::refuses_one(node, usage, of_service, demand)?;
    Some(refused.explain_one())
}

/// Places what can be placed.
pub(crate) fn run(pass: &mut Pass<'_, '_>) {
    let plan = choose(pass);
    plan.write(pass);
}

/// Decides on all that wait, as if it were written already.
pub(crate) fn choose(pass: &mut Pass<'_, '_>) -> Plan {
    let mut plan = Plan::default();
    if !pass.state.queue.retry {
        return plan;
    }
    pass.state.queue.retry = false;
    // Global services' tasks first: they have no choice of node.
    let roster = &pass.state.roster;
    let asked = pass.state.queue.preassigned.iter().filter(|(_, task)| {
        let refused = task.refused;
        refused.is_none_or(|then| roster.is_touched(&task.node, then))
    });
    for id in asked.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
        confirm(pass, &mut plan, &id);
    }
    let groups: Vec<_> = pass.state.queue.groups.keys().cloned().collect();
    for (service, version) in groups {
        place(pass, &mut plan, &service, version);
    }
    // Placing only takes room away: what was refused stays refused until something else happens.
    plan
}

/// Lets a task go to the node that it was made for.
fn confirm(pass: &mut Pass<'_, '_>, plan: &mut Plan, id: &Id) {
    let Some(task) = pass.tx.task(id).cloned() else {
        return;
    };
    let demand = pass
        .state
        .demand(pass.tx.view(), &task.service_id, task.spec_version);
    let service = Id::from(task.service_id.as_str());
    let roster = &mut pass.state.roster;
    let seat = roster.seat(&task.node_id);
    let of_service = roster.of_service(&service, seat);
    let entry = roster.entry(seat);
    let reason = match &entry.node {
        None => "its node was removed from the cluster".to_owned(),
        Some(node) => match filter::refuses_one(node, &entry.usage, of_service, &demand) {
            None => {
                if !plan.has_room(pass, id) {
                    pass.state.queue.retry = true;
                    return;
                }
                let order = Order {
                    demand: &demand,
                    message: "scheduler confirmed task can run on preassigned node",
                };
                plan.place(&mut pass.state.roster, id.clone(), seat, &order);
                return;
            }
            Some(filter) => {
                let mut refusals = Refusals::default();
                refusals.count(filter);
                refusals.explain()
            }
        },
    };
    if !plan.refuse(pass, id.clone(), &reason.into()) {
        pass.state.queue.retry = true;
        return;
    }
    let now = pass.state.roster.now();
    if let Some(task) = pass.state.queue.preassigned.get_mut(id) {
        task.refused = Some(now);
    }
}

/// Places the tasks of one service and version. Those for whom there is no room in this transaction wait for the next; the first
/// ones go first.
fn place(pass: &mut Pass<'_, '_>, plan: &mut Plan, service: &Id, version: u64) {
    let demand = pass.state.demand(pass.tx.view(), service, version);
    let mut shape = pass.state.shapes.take(&demand, &pass.state.roster);
    let key = (service.clone(), version);
    let refused = place_group(pass, plan, &key, &demand, &mut shape);
    if let (Some(refused), Some(group)) = (refused, pass.state.queue.groups.get_mut(&key)) {
        group.refused = refused;
    }
    pass.state.shapes.put(shape);
}

/// Returns why those wait who are left, if all were looked at.
fn place_group(
    pass: &mut Pass<'_, '_>,
    plan: &mut Plan,
    (service, version): &(Id, u64),
    demand: &Arc<Demand>,
    shape: &mut Shape,
) -> Option<Option<String>> {
    let now = pass.now();
    let roster = &pass.state.roster;
    let failures = roster.failures.of(service, *version, now);
    let mut picker = Picker::new(shape, roster, service, demand.max_replicas, failures);
    let mut best = picker.pick();
    let group = pass.state.queue.groups.get(&(service.clone(), *version))?;
    if best.is_none()
        && group
            .refused
            .as_ref()
            .is_some_and(|said| *said == shape.explain())
    {
        return None;
    }
    let order = Order {
        demand,
        message: "scheduler assigned task to node",
    };
    let mut tasks = group.tasks.iter().cloned().collect::<Vec<_>>().into_iter();
    while let Some(seat) = best {
        let Some(id) = tasks.next() else { return Some(None) };
        if !plan.has_room(pass, &id) {
            pass.state.queue.retry = true;
            return None;
        }
        let roster = &mut pass.state.roster;
        plan.place(roster, id, seat, &order);
        // Back among those that can take a task, if it still can.
        picker.offer(roster, seat);
        best = picker.pick();
    }
    drop(picker);
    let mut tasks = tasks.peekable();
    if tasks.peek().is_none() {
        return Some(None);
    }
    shape.catch_up(&pass.state.roster);
    let reason = shape.explain();
    let said: Arc<str> = reason.as_str().into();
    for id in tasks {
        if !plan.refuse(pass, id, &said) {
            pass.state.queue.retry = true;
            return None;
        }
    }
    Some(Some(reason))
}
