//! Global services and jobs: one slot a node. A node that comes gets a task at once; one that no longer matches loses it.

use pontoon_proto::v1::{Availability, NodeState, Service, TaskState};

use super::enforcer;
use crate::pass::Pass;
use crate::state::{is_live, state_of};
use crate::timers::SlotKey;

/// Whether the service is to have a task on the node.
pub(super) fn wants(pass: &mut Pass<'_, '_>, service: &Service, node_id: &str) -> bool {
    let Some(node) = pass.tx.node(node_id).cloned() else {
        return false;
    };
    let demand = pass
        .state
        .demand(pass.tx.view(), &service.id, service.spec_version);
    let availability = node
        .spec
        .as_ref()
        .map_or(Availability::Active, |spec| spec.availability());
    if availability == Availability::Drain || !demand.meets_constraints(&node) {
        return false;
    }
    let live = |pass: &Pass<'_, '_>| {
        let tasks = pass.slot_tasks(&service.id, &(0, node_id.into()));
        tasks.into_iter().find(|task| is_live(task))
    };
    if enforcer::is_down(&node) {
        return live(pass).is_some_and(|task| enforcer::is_waited_for(pass, service, &task, &node));
    }
    // A node that is paused, or not heard of for a moment, keeps what it has but gets nothing new.
    let state = node
        .status
        .as_ref()
        .map_or(NodeState::Unknown, |status| status.state());
    if availability == Availability::Active && state == NodeState::Ready {
        return true;
    }
    live(pass).is_some()
}

/// Takes the service off a node that it is not to be on.
pub(super) fn leave(pass: &mut Pass<'_, '_>, service: &Service, slot: &SlotKey) {
    let gone = pass.tx.node(&slot.1).is_none();
    let (desired, reason) = if gone {
        (TaskState::Remove, "the node was removed from the cluster")
    } else {
        (TaskState::Shutdown, "the node does not suit the service any more")
    };
    for task in pass.slot_tasks(&service.id, slot) {
        if gone || !state_of(&task).is_terminal() {
            pass.send_away(&task, desired, reason);
        }
    }
}
