//! From a task to a container: name, labels, settings, networks, ports. Pure.

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
    let mut config = spec.container.unwrap_or_default();
    add_labels(&mut config, task);
    let mut networks: Vec<ContainerNetwork> = task
        .networks
        .iter()
        .map(|attachment| ContainerNetwork {
            network: attachment.network_id.clone(),
            ip_address: attachment.addr.split('/').next().unwrap_or_default().to_owned(),
            aliases: attachment.aliases.clone(),
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
            resources: spec.resources.and_then(|resources| resources.limits),
            memory_reservation: spec
                .resources
                .and_then(|resources| resources.reservations)
                .map_or(0, |reserved| reserved.memory_bytes),
            log: spec.log_driver,
            port_bindings,
            ..HostConfig::default()
        }),
        networks,
        ..CreateContainerRequest::default()
    }
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
    use pontoon_proto::v1::{NetworkAttachment, PortConfig};

    use super::*;

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
        assert_eq!(request.host.unwrap().port_bindings[0].host_port, 8080);
        assert_eq!(request.config.unwrap().labels[TASK_ID], "t");
        task.slot = 0;
        assert_eq!(task_name(&task), "web.n.t");
    }
}
