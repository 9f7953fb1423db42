//! From a task to a container: name, labels, settings, networks, ports. Pure.

use std::collections::BTreeMap;

use pontoon_proto::v1::{
    ContainerNetwork, ContainerSpec, CreateContainerRequest, HostConfig, PortBinding, TaskAssignment,
};

/// Label with a task's id, by which its container is found again.
pub(super) const TASK_ID: &str = "com.docker.swarm.task.id";
/// Label with the node's id.
pub(super) const NODE_ID: &str = "com.docker.swarm.node.id";

/// `service.slot.taskid`; for a global service `service.nodeid.taskid`.
pub(super) fn task_name(task: &TaskAssignment) -> String {
    let place = if task.slot > 0 {
        task.slot.to_string()
    } else {
        task.node_id.clone()
    };
    format!("{}.{place}.{}", task.service_name, task.task_id)
}

/// What the engine is asked for. `rank` orders the networks: the first gives the default route.
pub(super) fn create(task: &TaskAssignment, rank: impl Fn(&str) -> u8) -> CreateContainerRequest {
    let spec = task.spec.clone().unwrap_or_default();
    let resources = spec.resources.unwrap_or_default();
    let mut config = spec.container.unwrap_or_default();
    add_labels(&mut config, task);
    let mut networks: Vec<ContainerNetwork> = task
        .networks
        .iter()
        .map(|attachment| ContainerNetwork {
            network: attachment.network_id.clone(),
            ip_address: attachment.addr.split('/').next().unwrap_or_default().to_owned(),
            // Aliases are the service's names, which the cluster's records lead to its virtual address, or to those of its tasks that
            // serve. The container does not bear them: its node would lead to it past those, before it serves and when it leaves.
            aliases: Vec::new(),
            ..ContainerNetwork::default()
        })
        .collect();
    networks.sort_by_key(|network| rank(&network.network));
    let port_bindings = task
        .host_ports
        .iter()
        .map(|port| PortBinding {
            protocol: port.protocol,
            container_port: port.target_port,
            host_port: port.published_port,
            ..PortBinding::default()
        })
        .collect();
    CreateContainerRequest {
        name: task_name(task),
        config: Some(config),
        host: Some(HostConfig {
            resources: resources.limits,
            memory_reservation: resources.reservations.map_or(0, |reserved| reserved.memory_bytes),
            log: spec.log_driver,
            port_bindings,
            ..HostConfig::default()
        }),
        networks,
        ..CreateContainerRequest::default()
    }
}

/// What tells the program which of the node's generic resources are its own: `DOCKER_RESOURCE_GPU=uuid1,uuid2`, or a number.
pub(super) fn resource_environment(task: &TaskAssignment) -> Vec<String> {
    let mut kinds: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for unit in &task.generic_resources {
        let value = match unit.name.as_str() {
            "" => unit.count.to_string(),
            name => name.to_owned(),
        };
        kinds.entry(unit.kind.to_uppercase()).or_default().push(value);
    }
    let variable =
        |(kind, values): (String, Vec<String>)| format!("DOCKER_RESOURCE_{kind}={}", values.join(","));
    kinds.into_iter().map(variable).collect()
}

fn add_labels(config: &mut ContainerSpec, task: &TaskAssignment) {
    let own = [
        (NODE_ID, task.node_id.clone()),
        ("com.docker.swarm.service.id", task.service_id.clone()),
        ("com.docker.swarm.service.name", task.service_name.clone()),
        (TASK_ID, task.task_id.clone()),
        ("com.docker.swarm.task.name", task_name(task)),
        ("com.docker.swarm.task", String::new()),
    ];
    config
        .labels
        .extend(own.map(|(key, value)| (key.to_owned(), value)));
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{GenericResource, NetworkAttachment, PortConfig};

    use super::*;

    #[test]
    fn a_task_is_told_which_units_it_has() {
        let unit = |kind: &str, name: &str, count| GenericResource {
            kind: kind.into(),
            name: name.into(),
            count,
        };
        let task = TaskAssignment {
            generic_resources: vec![
                unit("nvidia-gpu", "uuid2", 0),
                unit("ssd", "", 3),
                unit("nvidia-gpu", "uuid5", 0),
            ],
            ..TaskAssignment::default()
        };
        assert_eq!(
            resource_environment(&task),
            ["DOCKER_RESOURCE_NVIDIA-GPU=uuid2,uuid5", "DOCKER_RESOURCE_SSD=3"]
        );
        assert!(resource_environment(&TaskAssignment::default()).is_empty());
    }

    #[test]
    fn names_labels_and_networks() {
        let attachment = |id: &str, addr: &str| NetworkAttachment {
            network_id: id.into(),
            addr: addr.into(),
            aliases: vec!["web".into()],
        };
        let mut task = TaskAssignment {
            task_id: "t".into(),
            service_name: "web".into(),
            slot: 2,
            node_id: "n".into(),
            networks: vec![
                attachment("ingress", "10.0.0.4/24"),
                attachment("app", "10.0.1.4/24"),
            ],
            host_ports: vec![PortConfig {
                target_port: 80,
                published_port: 8080,
                ..PortConfig::default()
            }],
            ..TaskAssignment::default()
        };
        let request = create(&task, |network| u8::from(network == "ingress"));
        assert_eq!(request.name, "web.2.t");
        assert_eq!(request.networks[0].network, "app");
        assert_eq!(request.networks[0].ip_address, "10.0.1.4");
        assert!(request.networks[0].aliases.is_empty());
        assert_eq!(request.host.unwrap().port_bindings[0].host_port, 8080);
        assert_eq!(request.config.unwrap().labels[TASK_ID], "t");
        task.slot = 0;
        assert_eq!(task_name(&task), "web.n.t");
    }
}
