//! What a node is told: its tasks, the overlay networks that it has an endpoint in, the routing mesh. The dispatcher keeps a [`Told`]
//! for each session: the full set first, then what differs. [`for_node`] and [`diff`] say the same the plain way: tests compare.
//!
//! Ended tasks stay in the set until the reaper takes them: the agent keeps their containers and logs as long. Networks'
//! records are the same for all nodes and come from [`Records`], which follows the store from version to version.

mod records;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pontoon_proto::v1::{
    Assignments, IngressConfig, NetworkAttachment, Node, OverlayNetwork, PublishMode, Service, Task,
    TaskAssignment, TaskState,
};
use pontoon_store::Snapshot;

pub use records::Records;
pub use told::{Changes, Told, matters_to_networks, matters_to_node};

use crate::state::state_of;
use crate::versions;

/// Whether the task is its node's business: assigned, not given up, and not removed and ended.
fn concerns_node(task: &Task) -> bool {
    let state = state_of(task);
    let removed = task.desired_state() >= TaskState::Remove && state.is_terminal();
    state >= TaskState::Assigned && state != TaskState::Orphaned && !removed
}

/// What a task's agent is to bring it to. Agents know of no jobs: theirs are run as others are, and one that has ended is not to run again
/// on a node that forgot it.
fn desired(task: &Task) -> TaskState {
    match task.desired_state() {
        TaskState::Complete if state_of(task).is_terminal() => TaskState::Shutdown,
        TaskState::Complete => TaskState::Running,
        desired => desired,
    }
}

fn assignment(service: Option<&Service>, task: &Task) -> TaskAssignment {
    let spec = versions::spec_of(service, task.spec_version);
    let endpoint = spec.and_then(|spec| spec.endpoint.as_ref());
    let annotations = service
        .and_then(|s| s.spec.as_ref())
        .and_then(|spec| spec.annotations.as_ref());
    // A removed service's tasks have no spec to go by any more; all that is left to do with them is to stop them.
    let desired = if service.is_none() {
        TaskState::Remove
    } else {
        desired(task)
    };
    TaskAssignment {
        task_id: task.id.clone(),
        service_id: task.service_id.clone(),
        service_name: task.service_name.clone(),
        slot: task.slot,
        spec_version: task.spec_version,
        desired_state: desired.into(),
        spec: spec.and_then(|spec| spec.task.clone()),
        networks: task.networks.clone(),
        host_ports: versions::ports(endpoint, PublishMode::Host).copied().collect(),
        service_labels: annotations
            .map(|annotations| annotations.labels.clone())
            .unwrap_or_default(),
        node_id: task.node_id.clone(),
        generic_resources: task.generic_resources.clone(),
    }
}

/// The networks in which containers of a node have addresses that belong to no task.
fn container_networks(node: Option<&Node>) -> impl Iterator<Item = &str> {
    let containers = node.map_or(&[][..], |node| node.containers.as_slice()).iter();
    containers
        .filter(|container| !container.addr.is_empty())
        .map(|container| container.network_id.as_str())
}

/// A node's leg in the routing mesh: the network, and the address in it.
fn mesh<'a>(snapshot: &Snapshot, legs: &'a [NetworkAttachment]) -> Option<(&'a str, &'a str)> {
    legs.iter().find_map(|leg| {
        let network = snapshot.network(&leg.network_id)?;
        network.spec.as_ref().filter(|spec| spec.ingress)?;
        Some((leg.network_id.as_str(), leg.addr.as_str()))
    })
}

/// Everything that the node must run and know, at the snapshot's version. `records` is kept from call to call, for all
/// nodes alike; it takes in what changed since the version that it saw last.
pub fn for_node(snapshot: &Snapshot, records: &mut Records, node_id: &str) -> Assignments {
    records.advance(snapshot);
    let tasks: Vec<_> = snapshot
        .tasks_by_node(node_id)
        .filter(|task| concerns_node(task))
        .collect();
    let node = snapshot.node(node_id);
    let legs = node.map_or(&[][..], |node| node.attachments.as_slice());
    let attached = tasks
        .iter()
        .filter(|task| !state_of(task).is_terminal())
        .flat_map(|task| &task.networks);
    let networks: BTreeSet<&str> = attached
        .chain(legs)
        .map(|a| a.network_id.as_str())
        .chain(container_networks(node.map(Arc::as_ref)))
        .collect();
    let ingress = mesh(snapshot, legs).map(|(network_id, node_addr)| IngressConfig {
        network_id: network_id.to_owned(),
        node_addr: node_addr.to_owned(),
        ports: records.ingress_ports(snapshot).to_vec(),
    });
    let networks = networks
        .into_iter()
        .filter_map(|id| records.network(snapshot, id));
    Assignments {
        full: true,
        version: snapshot.version(),
        networks: networks.map(|network| OverlayNetwork::clone(&network)).collect(),
        tasks: tasks
            .into_iter()
            .map(|task| assignment(snapshot.service(&task.service_id).map(Arc::as_ref), task))
            .collect(),
        ingress,
        ..Default::default()
    }
}

/// What leads from one full set to another; none if they say the same. A routing mesh that the node no longer takes
/// part in is told by an [`IngressConfig`] without a network.
#[must_use]
pub fn diff(old: &Assignments, new: &Assignments) -> Option<Assignments> {
    let had: BTreeMap<&str, _> = old
        .tasks
        .iter()
        .map(|task| (task.task_id.as_str(), task))
        .collect();
    let has: BTreeSet<&str> = new.tasks.iter().map(|task| task.task_id.as_str()).collect();
    let had_networks: BTreeMap<&str, _> = old.networks.iter().map(|n| (n.id.as_str(), n)).collect();
    let has_networks: BTreeSet<&str> = new.networks.iter().map(|n| n.id.as_str()).collect();
    let ingress = match (&old.ingress, &new.ingress) {
        (Some(_), None) => Some(IngressConfig::default()),
        (old, new) if old == new => None,
        (_, new) => new.clone(),
    };
    let changes = Assignments {
        full: false,
        version: new.version,
        tasks: new
            .tasks
            .iter()
            .filter(|t| had.get(t.task_id.as_str()) != Some(t))
            .cloned()
            .collect(),
        removed_tasks: had
            .into_keys()
            .filter(|id| !has.contains(id))
            .map(str::to_owned)
            .collect(),
        networks: new
            .networks
            .iter()
            .filter(|n| had_networks.get(n.id.as_str()) != Some(n))
            .cloned()
            .collect(),
        removed_networks: had_networks
            .into_keys()
            .filter(|id| !has_networks.contains(id))
            .map(str::to_owned)
            .collect(),
        ingress,
    };
    let nothing = changes.tasks.is_empty()
        && changes.removed_tasks.is_empty()
        && changes.networks.is_empty()
        && changes.removed_networks.is_empty()
        && changes.ingress.is_none();
    (!nothing).then_some(changes)
}
