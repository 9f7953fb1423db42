//! How many slots a replicated service has: new ones get the lowest free numbers; those that go are such as don't run,
//! then such on nodes with most tasks of the service, then the highest numbers.

use std::collections::{BTreeMap, BinaryHeap};

use pontoon_proto::v1::{Service, TaskState, service_spec::Mode};
use pontoon_store::Id;

use super::{reaper, slot};
use crate::pass::Pass;
use crate::state::{Standing, is_live, state_of};

/// Number of replicas asked for.
fn replicas(service: &Service) -> usize {
    match service.spec.as_ref().and_then(|spec| spec.mode.as_ref()) {
        Some(Mode::Replicated(mode)) => usize::try_from(mode.replicas).unwrap_or(usize::MAX),
        // A spec without a mode is a replicated one, with Docker's default.
        _ => 1,
    }
}

/// Makes or retires slots until their number is right; false if the budget ended before.
pub(super) fn scale(pass: &mut Pass<'_, '_>, service: &Service) -> bool {
    let id = Id::from(service.id.as_str());
    let wanted = replicas(service);
    let occupied = &pass.state.services.entry(id.clone()).or_default().occupied;
    if occupied.len() > wanted {
        let surplus = occupied.len() - wanted;
        let slots: Vec<u64> = occupied.iter().map(|(slot, _)| *slot).collect();
        for slot in choose(pass, &id, &slots, surplus) {
            if pass.is_full() {
                return false;
            }
            let key = (slot, Id::from(""));
            reaper::remove_slot(pass, &id, &key);
            pass.state
                .services
                .entry(id.clone())
                .or_default()
                .note(key, Standing::Free);
        }
        return true;
    }
    let missing = wanted - occupied.len();
    open(pass, service, missing)
}

/// Makes the next task in so many free slots, the lowest first; false if the budget ended before.
pub(super) fn open(pass: &mut Pass<'_, '_>, service: &Service, mut missing: usize) -> bool {
    let id = Id::from(service.id.as_str());
    let occupied = &pass.state.services.entry(id.clone()).or_default().occupied;
    // Slots are dense most of the time: then the next number is free.
    let dense = occupied
        .last()
        .is_none_or(|(last, _)| *last == occupied.len() as u64);
    let mut number = if dense { occupied.len() as u64 } else { 0 };
    while missing > 0 {
        if pass.is_full() {
            return false;
        }
        number += 1;
        let key = (number, Id::from(""));
        if pass
            .state
            .services
            .entry(id.clone())
            .or_default()
            .occupied
            .insert(key.clone())
        {
            slot::start(pass, service, &key, 0);
            missing -= 1;
        }
    }
    true
}

/// The `count` slots that can best be spared.
fn choose(pass: &Pass<'_, '_>, service_id: &str, slots: &[u64], count: usize) -> Vec<u64> {
    let mut idle = Vec::new();
    let mut by_node: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for &slot in slots {
        let mut tasks = pass.tx.tasks_by_slot(service_id, slot);
        match tasks.find(|task| is_live(task) && state_of(task) == TaskState::Running) {
            Some(task) => by_node.entry(task.node_id.clone()).or_default().push(slot),
            None => idle.push(slot),
        }
    }
    let mut chosen: Vec<u64> = idle.into_iter().rev().take(count).collect();
    let mut nodes: BinaryHeap<(usize, u64, String)> = BinaryHeap::new();
    for (node, slots) in &by_node {
        nodes.extend(slots.last().map(|last| (slots.len(), *last, node.clone())));
    }
    while chosen.len() < count {
        let Some((_, slot, node)) = nodes.pop() else { break };
        chosen.push(slot);
        let rest = by_node.entry(node.clone()).or_default();
        rest.pop();
        nodes.extend(rest.last().map(|last| (rest.len(), *last, node)));
    }
    chosen
}
