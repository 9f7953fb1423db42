//! What must hold of every state and of every step from one to the next, by the plainest means: loops over all objects.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use pontoon_proto::v1::{
    Node, NodeState, PublishMode, Service, Task, TaskState, UpdateState, service_spec::Mode,
};
use pontoon_store::Snapshot;

use crate::operator;
use crate::rules::{self, is_live, suits};

pub(crate) use crate::rules::state;

/// Checks a step; tells what is wrong.
pub(crate) fn transition(before: &Snapshot, after: &Snapshot) -> Result<(), String> {
    for task in after.tasks() {
        let Some(old) = before.task(&task.id) else {
            continue;
        };
        let (was, is) = (state(old), state(task));
        if was > is || (was.is_terminal() && was != is) {
            return Err(format!("task {} went from {was:?} to {is:?}", task.id));
        }
        if old.desired_state > task.desired_state {
            return Err(format!("the desired state of task {} went back", task.id));
        }
        let placed = was >= TaskState::Assigned && !was.is_terminal();
        if placed && old.node_id != task.node_id {
            return Err(format!("task {} changed its node", task.id));
        }
        let (old, new) = (index(old.meta.as_ref()), index(task.meta.as_ref()));
        if old > new {
            return Err(format!(
                "the version of task {} went from {old} to {new}",
                task.id
            ));
        }
    }
    for service in after.services() {
        let Some(old) = before.service(&service.id) else {
            continue;
        };
        let (old_index, new_index) = (index(old.meta.as_ref()), index(service.meta.as_ref()));
        if old_index > new_index {
            return Err(format!("the version of service {} went back", service.id));
        }
    }
    nothing_twice(after)?;
    rules::check(before, after)
}

fn index(meta: Option<&pontoon_proto::v1::Meta>) -> u64 {
    meta.map_or(0, |meta| meta.version)
}

/// No address, port, name, network number or subnet is given twice; no slot has two tasks that shall run.
fn nothing_twice(view: &Snapshot) -> Result<(), String> {
    let mut owners: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut hold = |space: &str, what: &str, owner: &str| {
        if what.is_empty() {
            return Ok(());
        }
        let what = what.split('/').next().unwrap_or(what).to_owned();
        let key = (space.to_owned(), what);
        match owners.insert(key.clone(), owner.to_owned()) {
            Some(other) if other != owner => Err(format!("{key:?} was given to {other} and to {owner}")),
            _ => Ok(()),
        }
    };
    for network in view.networks() {
        for ipam in &network.ipam {
            hold(&network.id, &ipam.gateway, "the gateway")?;
        }
        if network.vni != 0 {
            hold("VNI", &network.vni.to_string(), &network.id)?;
        }
        let name = network.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
        hold(
            "network name",
            name.map_or("", |annotations| &annotations.name),
            &network.id,
        )?;
    }
    for task in view.tasks().filter(|task| !state(task).is_terminal()) {
        for attachment in &task.networks {
            hold(&attachment.network_id, &attachment.addr, &task.id)?;
        }
        if task.slot != 0 && task.desired_state() <= TaskState::Complete {
            let slot = format!("{} of version {}", task.slot, task.spec_version);
            hold(&task.service_id, &slot, &task.id)?;
        }
    }
    for node in view.nodes() {
        for attachment in &node.attachments {
            hold(&attachment.network_id, &attachment.addr, &node.id)?;
        }
        for container in &node.containers {
            hold(&container.network_id, &container.addr, &container.container_id)?;
        }
    }
    for service in view.services() {
        let name = service.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
        hold(
            "service name",
            name.map_or("", |annotations| &annotations.name),
            &service.id,
        )?;
        let Some(endpoint) = &service.endpoint else {
            continue;
        };
        for vip in &endpoint.virtual_ips {
            hold(&vip.network_id, &vip.addr, &service.id)?;
        }
        let mut number = 0;
        for port in &endpoint.ports {
            if port.publish_mode() == PublishMode::Ingress {
                number += 1;
                let port = format!("{:?} {}", port.protocol(), port.published_port);
                hold("port", &port, &format!("{} ({number})", service.id))?;
            }
        }
    }
    let subnets: Vec<IpNet> = view
        .networks()
        .flat_map(|network| &network.ipam)
        .filter_map(|ipam| ipam.subnet.parse().ok())
        .collect();
    for (at, a) in subnets.iter().enumerate() {
        if let Some(b) = subnets[at + 1..].iter().find(|b| a.contains(*b) || b.contains(a)) {
            return Err(format!("the subnets {a} and {b} overlap"));
        }
    }
    Ok(())
}

fn tasks_of(view: &Snapshot, service_id: &str) -> String {
    let line = |task: &Task| {
        let node = view.node(&task.node_id).and_then(|node| node.status.as_ref());
        format!(
            "\n  {} slot {} version {} is {:?}, desired {:?}, since {}, on {} ({:?})",
            task.id,
            task.slot,
            task.spec_version,
            state(task),
            task.desired_state(),
            task.meta.map_or(0, |meta| meta.updated_at),
            task.node_id,
            node.map(|status| status.state()),
        )
    };
    view.tasks_by_service(service_id).map(|task| line(task)).collect()
}

/// What is not yet as users want it; empty once the cluster has converged.
pub(crate) fn unsettled(view: &Snapshot, nodes_up: &[String]) -> Option<String> {
    for id in nodes_up {
        let status = |node: &Node| node.status.as_ref().map(|status| status.state());
        let node = view.node(id);
        if node.and_then(|node| status(node)) != Some(NodeState::Ready) {
            return Some(format!("node {id} is not ready"));
        }
        if !node.is_some_and(|node| operator::is_healed(node)) {
            return Some(format!("node {id} does not take tasks"));
        }
    }
    if let Some(reason) = view.services().find_map(|service| unfinished(view, service)) {
        return Some(reason);
    }
    view.tasks()
        .find(|task| task.desired_state() > TaskState::Complete && !state(task).is_terminal())
        .map(|task| format!("task {} of node {} should have ended", task.id, task.node_id))
}

/// Whether the service's update has failed, so that it is left half done.
fn is_paused(service: &Service) -> bool {
    let state = service.update_status.as_ref().map(|status| status.state());
    matches!(state, Some(UpdateState::Paused | UpdateState::RollbackPaused))
}

/// Whether the service may wait for ever: for one whose update has failed, or that waits itself.
fn may_wait(view: &Snapshot, service: &Service) -> bool {
    let depends_on = service.spec.as_ref().map_or(&[][..], |spec| &spec.depends_on);
    let mut others = depends_on
        .iter()
        .filter_map(|dependency| view.service_by_name(&dependency.service));
    others.any(|other| is_paused(other) || may_wait(view, other))
}

/// What a service lacks.
fn unfinished(view: &Snapshot, service: &Service) -> Option<String> {
    if !service.waits_for.is_empty() && may_wait(view, service) {
        return None;
    }
    let spec = service.spec.as_ref()?;
    let placement = spec.task.as_ref().and_then(|task| task.placement.as_ref());
    let places = || -> BTreeSet<String> {
        let nodes = view.nodes().filter(|node| suits(node, placement));
        nodes.map(|node| node.id.clone()).collect()
    };
    let slots = |number: u64| -> BTreeSet<String> { (1..=number).map(|slot| slot.to_string()).collect() };
    let place = |task: &Task| match task.slot {
        0 => task.node_id.clone(),
        slot => slot.to_string(),
    };
    let tasks = || view.tasks_by_service(&service.id);
    let (wanted, count) = match spec.mode.as_ref()? {
        Mode::Replicated(mode) => (BTreeSet::new(), mode.replicas),
        Mode::Global(_) => (places(), 0),
        Mode::ReplicatedJob(job) => (slots(job.total_completions), 0),
        Mode::GlobalJob(_) => (places(), 0),
    };
    let done: BTreeSet<String> = if service.iteration().is_some() {
        let done =
            |task: &&std::sync::Arc<Task>| service.is_of_this_run(task) && state(task) == TaskState::Complete;
        tasks().filter(done).map(|task| place(task)).collect()
    } else {
        let runs = |task: &&std::sync::Arc<Task>| {
            let current = task.spec_version == service.spec_version || is_paused(service);
            current && is_live(task) && state(task) == TaskState::Running
        };
        tasks().filter(runs).map(|task| place(task)).collect()
    };
    // Slots of replicas have any number; a job's task may have completed on a node that does not suit any more.
    let is_done = if let Mode::Replicated(_) = spec.mode.as_ref()? {
        done.len() as u64 == count
    } else {
        done.is_superset(&wanted)
    };
    let status = service.update_status.as_ref().map(|status| status.state());
    let over = !matches!(status, Some(UpdateState::Updating | UpdateState::RollbackStarted));
    if is_done && over {
        return None;
    }
    Some(format!(
        "service {} of {:?} has {done:?} of version {} ({:?}: {status:?}; {}):{}",
        service.id,
        spec.mode,
        service.spec_version,
        service.iteration(),
        service.waits_for,
        tasks_of(view, &service.id)
    ))
}
