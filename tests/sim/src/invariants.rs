//! What must hold of every state and of every step from one to the next, by the plainest means: loops over all objects.

use std::collections::BTreeMap;

use ipnet::IpNet;
use pontoon_proto::v1::{NodeState, PublishMode, Task, TaskState};
use pontoon_store::Snapshot;

/// A task's observed state.
pub(crate) fn state(task: &Task) -> TaskState {
    task.status
        .as_ref()
        .map_or(TaskState::New, |status| status.state())
}

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
    nothing_twice(after)
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
        if task.slot != 0 && task.desired_state() <= TaskState::Running {
            let slot = format!("{} of version {}", task.slot, task.spec_version);
            hold(&task.service_id, &slot, &task.id)?;
        }
    }
    for node in view.nodes() {
        for attachment in &node.attachments {
            hold(&attachment.network_id, &attachment.addr, &node.id)?;
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
        let ready = view.node(id).is_some_and(|node| {
            node.status
                .as_ref()
                .is_some_and(|status| status.state() == NodeState::Ready)
        });
        if !ready {
            return Some(format!("node {id} is not ready"));
        }
    }
    for service in view.services() {
        let wanted = match service.spec.as_ref().and_then(|spec| spec.mode.as_ref()) {
            Some(pontoon_proto::v1::service_spec::Mode::Replicated(mode)) => mode.replicas,
            _ => continue,
        };
        let running = view
            .tasks_by_service(&service.id)
            .filter(|task| {
                state(task) == TaskState::Running
                    && task.desired_state() == TaskState::Running
                    && task.spec_version == service.spec_version
            })
            .count() as u64;
        if running != wanted {
            return Some(format!(
                "service {} has {running} of {wanted} tasks of version {}:{}",
                service.id,
                service.spec_version,
                tasks_of(view, &service.id)
            ));
        }
    }
    view.tasks()
        .find(|task| task.desired_state() > TaskState::Running && !state(task).is_terminal())
        .map(|task| format!("task {} of node {} should have ended", task.id, task.node_id))
}
