//! Which sessions a change of the state concerns, so that a cluster of thousands does not recompute every node's
//! assignments at each entry. Runs at the leader as one task.

use std::collections::BTreeSet;
use std::sync::Arc;

use pontoon_proto::v1::{Network, Node, Service, Task};
use pontoon_store::{Event, Object, Snapshot};

use crate::core::Core;
use crate::leader::Leading;

/// Runs until leadership is lost.
pub(crate) async fn run(core: Arc<Core>, leading: Arc<Leading>) {
    let mut versions = core.replica.versions();
    let mut last = core.snapshot();
    loop {
        tokio::select! {
            biased;
            () = leading.stop.cancelled() => return,
            changed = versions.changed() => if changed.is_err() { return },
        }
        versions.borrow_and_update();
        let now = core.snapshot();
        match core.replica.store().changes_since(last.version()) {
            Ok(changes) => {
                let mut concern = Concern::default();
                for event in changes.iter().flat_map(|applied| &applied.events) {
                    concern.add(event, &last, &now);
                }
                leading.sessions.wake(&concern.nodes, &concern.networks);
            }
            Err(_) => leading.sessions.wake_all(),
        }
        last = now;
    }
}

/// Whom a set of changes concerns.
#[derive(Debug, Default, PartialEq, Eq)]
struct Concern {
    nodes: BTreeSet<String>,
    /// Nodes that have an endpoint in one of these.
    networks: BTreeSet<String>,
}

impl Concern {
    fn add(&mut self, event: &Event, last: &Snapshot, now: &Snapshot) {
        match event.object() {
            Object::Task(task) => {
                self.task(task, now);
                if let Some(before) = last.task(&task.id) {
                    self.task(before, now);
                }
            }
            Object::Node(node) => self.node(node, last, now),
            Object::Service(service) => {
                self.service(service, now);
                if let Some(before) = last.service(&service.id) {
                    self.service(before, now);
                }
                // Names, labels and specs are in the assignments of its tasks.
                let tasks = now
                    .tasks_by_service(&service.id)
                    .filter(|task| !task.node_id.is_empty());
                self.nodes.extend(tasks.map(|task| task.node_id.clone()));
            }
            Object::Network(network) => {
                self.networks.insert(network.id.clone());
            }
            Object::Cluster(_) => {}
        }
    }

    fn task(&mut self, task: &Task, now: &Snapshot) {
        if !task.node_id.is_empty() {
            self.nodes.insert(task.node_id.clone());
        }
        self.networks.extend(
            task.networks
                .iter()
                .map(|attachment| attachment.network_id.clone()),
        );
        // A backend of published ports is one on every node that takes part in the ingress network.
        if let Some(service) = now.service(&task.service_id) {
            self.service(service, now);
        }
    }

    fn service(&mut self, service: &Service, now: &Snapshot) {
        let Some(endpoint) = &service.endpoint else { return };
        self.networks
            .extend(endpoint.virtual_ips.iter().map(|vip| vip.network_id.clone()));
        // Every node in the routing mesh knows every published port.
        if !endpoint.ports.is_empty() {
            let is_ingress = |network: &&Arc<Network>| network.spec.as_ref().is_some_and(|spec| spec.ingress);
            self.networks
                .extend(now.networks().find(is_ingress).map(|network| network.id.clone()));
        }
    }

    /// A node's address is in the records of every network that it has an endpoint or a leg in.
    fn node(&mut self, node: &Node, last: &Snapshot, now: &Snapshot) {
        self.nodes.insert(node.id.clone());
        let before = last.node(&node.id);
        let address = |node: &Node| node.description.as_ref().map(|d| d.data_path_addr.clone());
        let legs = |node: &Node| node.attachments.clone();
        let same =
            before.is_some_and(|before| address(before) == address(node) && legs(before) == legs(node));
        if same && now.node(&node.id).is_some() {
            return;
        }
        let legs = before
            .into_iter()
            .flat_map(|before| &before.attachments)
            .chain(&node.attachments);
        let endpoints = now.tasks_by_node(&node.id).flat_map(|task| &task.networks);
        self.networks.extend(
            legs.chain(endpoints)
                .map(|attachment| attachment.network_id.clone()),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pontoon_proto::v1::{Endpoint, NetworkAttachment, NodeDescription, VirtualIp};
    use pontoon_store::Tx;

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    fn task(node: &str, network: &str) -> Task {
        Task {
            id: "t1".into(),
            service_id: "s1".into(),
            node_id: node.into(),
            networks: vec![NetworkAttachment {
                network_id: network.into(),
                ..NetworkAttachment::default()
            }],
            ..Task::default()
        }
    }

    #[test]
    fn a_task_concerns_its_nodes_and_its_networks() {
        let mut before = Tx::new(Snapshot::default());
        before.put_task(task("n1", "net1")).unwrap();
        let endpoint = Endpoint {
            virtual_ips: vec![VirtualIp {
                network_id: "ingress".into(),
                addr: String::new(),
            }],
            ..Endpoint::default()
        };
        before
            .put_service(Service {
                id: "s1".into(),
                endpoint: Some(endpoint),
                ..Service::default()
            })
            .unwrap();
        let moved = Event::Put(Object::Task(Arc::new(task("n2", "net2"))));
        let mut concern = Concern::default();
        concern.add(&moved, &before, &before);
        assert_eq!(concern.nodes, set(&["n1", "n2"]));
        assert_eq!(concern.networks, set(&["net1", "net2", "ingress"]));

        let mut concern = Concern::default();
        let service = before.service("s1").unwrap().clone();
        concern.add(&Event::Put(Object::Service(service)), &before, &before);
        assert_eq!(concern.nodes, set(&["n1"]));
    }

    #[test]
    fn a_new_address_concerns_the_networks_of_the_node_and_a_status_does_not() {
        let leg = NetworkAttachment {
            network_id: "ingress".into(),
            ..NetworkAttachment::default()
        };
        let node = |addr: &str| Node {
            id: "n1".into(),
            description: Some(NodeDescription {
                data_path_addr: addr.into(),
                ..NodeDescription::default()
            }),
            attachments: vec![leg.clone()],
            ..Node::default()
        };
        let mut before = Tx::new(Snapshot::default());
        before.put_node(node("10.0.0.1")).unwrap();
        before.put_task(task("n1", "net1")).unwrap();
        for (addr, networks) in [("10.0.0.1", &[][..]), ("10.0.0.2", &["ingress", "net1"])] {
            let mut concern = Concern::default();
            concern.add(&Event::Put(Object::Node(Arc::new(node(addr)))), &before, &before);
            assert_eq!(concern.networks, set(networks));
            assert_eq!(concern.nodes, set(&["n1"]));
        }
    }
}
