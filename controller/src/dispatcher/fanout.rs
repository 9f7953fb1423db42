//! Which sessions a change of the state concerns, so that a cluster of thousands does not recompute every node's
//! assignments at each entry; all of them, when the managers change. Runs at the leader as one task.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pontoon_proto::v1::{Network, Node, Service, Task};
use pontoon_reconcile::assignments::{matters_to_networks, matters_to_node};
use pontoon_store::{Event, Object, Snapshot};

use crate::core::Core;
use crate::leader::Leading;

/// Runs until leadership is lost.
pub(crate) async fn run(core: Arc<Core>, leading: Arc<Leading>) {
    let mut versions = core.replica.versions();
    let mut members = core.log.members_watch();
    let mut last = core.snapshot();
    loop {
        tokio::select! {
            biased;
            () = leading.stop.cancelled() => return,
            changed = versions.changed() => if changed.is_err() { return },
            changed = members.changed() => {
                if changed.is_err() {
                    return;
                }
                members.borrow_and_update();
                leading.sessions.wake_each();
                continue;
            }
        }
        versions.borrow_and_update();
        let now = core.snapshot();
        match core.replica.store().changes_since(last.version()) {
            Ok(changes) => {
                let mut concern = Concern::default();
                for event in changes.iter().flat_map(|applied| &applied.events) {
                    concern.add(event, &last, &now);
                }
                leading.sessions.tell(concern, now.version());
            }
            Err(_) => leading.sessions.wake_all(),
        }
        last = now;
    }
}

/// Whom a set of changes concerns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Concern {
    /// By node, the tasks that it has to look at; none: only at itself.
    pub(crate) nodes: BTreeMap<String, BTreeSet<String>>,
    /// Nodes that take part in a network that they did not before, or the other way round.
    pub(crate) legs: BTreeSet<String>,
    /// Nodes that have an endpoint in one of these.
    pub(crate) networks: BTreeSet<String>,
}

impl Concern {
    fn add(&mut self, event: &Event, last: &Snapshot, now: &Snapshot) {
        match event.object() {
            Object::Task(task) => {
                let is_put = matches!(event, Event::Put(_));
                let before = last.task(&task.id).map(Arc::as_ref);
                let compared = before.filter(|_| is_put);
                if compared.is_none_or(|before| matters_to_node(before, task)) {
                    self.on_node(task);
                    before.into_iter().for_each(|before| self.on_node(before));
                }
                if compared.is_none_or(|before| matters_to_networks(before, task)) {
                    self.in_networks(task, now);
                    before
                        .into_iter()
                        .for_each(|before| self.in_networks(before, now));
                }
            }
            Object::Node(node) => self.node(node, last, now),
            Object::Service(service) => {
                self.service(service, now);
                if let Some(before) = last.service(&service.id) {
                    self.service(before, now);
                }
                // Labels and specs are in the assignments of its tasks, and that it is gone.
                let is_put = matches!(event, Event::Put(_));
                let same = last
                    .service(&service.id)
                    .filter(|_| is_put)
                    .is_some_and(|before| {
                        before.spec == service.spec
                            && before.spec_version == service.spec_version
                            && before.retained == service.retained
                    });
                if !same {
                    now.tasks_by_service(&service.id)
                        .for_each(|task| self.on_node(task));
                }
            }
            Object::Network(network) => {
                self.networks.insert(network.id.clone());
            }
            Object::Cluster(_) => {}
        }
    }

    fn on_node(&mut self, task: &Task) {
        if !task.node_id.is_empty() {
            let tasks = self.nodes.entry(task.node_id.clone()).or_default();
            tasks.insert(task.id.clone());
        }
    }

    fn in_networks(&mut self, task: &Task, now: &Snapshot) {
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
        self.nodes.entry(node.id.clone()).or_default();
        let before = last.node(&node.id);
        let address = |node: &Node| node.description.as_ref().map(|d| d.data_path_addr.clone());
        let same = before.is_some_and(|before| {
            address(before) == address(node)
                && before.attachments == node.attachments
                && before.containers == node.containers
        });
        if same && now.node(&node.id).is_some() {
            return;
        }
        self.legs.insert(node.id.clone());
        let containers = before.into_iter().map(Arc::as_ref).chain([node]);
        self.networks.extend(
            containers
                .flat_map(|node| &node.containers)
                .map(|container| container.network_id.clone()),
        );
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
    use pontoon_proto::v1::{Endpoint, NetworkAttachment, NodeDescription, TaskState, TaskStatus, VirtualIp};
    use pontoon_store::Tx;

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    fn on(nodes: &[&str], tasks: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
        nodes
            .iter()
            .map(|node| ((*node).to_owned(), set(tasks)))
            .collect()
    }

    #[test]
    fn what_an_agent_reports_is_no_news_to_it() {
        let running = |state: TaskState| Task {
            desired_state: TaskState::Running.into(),
            status: Some(TaskStatus {
                state: state.into(),
                ..TaskStatus::default()
            }),
            ..task("n1", "net1")
        };
        let mut before = Tx::new(Snapshot::default());
        before.put_task(running(TaskState::Preparing)).unwrap();
        for (state, nodes, networks) in [
            (TaskState::Starting, &[][..], &[][..]),
            // Others may send to it now.
            (TaskState::Running, &[], &["net1"]),
            (TaskState::Failed, &["n1"], &["net1"]),
        ] {
            let mut concern = Concern::default();
            let now = Event::Put(Object::Task(Arc::new(running(state))));
            concern.add(&now, &before, &before);
            assert_eq!(concern.nodes, on(nodes, &["t1"]), "{state:?}");
            assert_eq!(concern.networks, set(networks), "{state:?}");
        }
        let mut concern = Concern::default();
        let gone = Event::Delete(Object::Task(Arc::new(running(TaskState::Preparing))));
        concern.add(&gone, &before, &before);
        assert_eq!(concern.nodes, on(&["n1"], &["t1"]));
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
        assert_eq!(concern.nodes, on(&["n1", "n2"], &["t1"]));
        assert_eq!(concern.networks, set(&["net1", "net2", "ingress"]));

        let mut concern = Concern::default();
        let mut service = Service::clone(before.service("s1").unwrap());
        let put = |service: &Service| Event::Put(Object::Service(Arc::new(service.clone())));
        concern.add(&put(&service), &before, &before);
        assert_eq!(concern.nodes, BTreeMap::new());
        service.spec_version = 7;
        concern.add(&put(&service), &before, &before);
        assert_eq!(concern.nodes, on(&["n1"], &["t1"]));
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
            // The node itself is in none of them yet, as far as its session knows.
            assert_eq!(concern.legs.contains("n1"), !networks.is_empty());
            assert_eq!(concern.nodes, on(&["n1"], &[]));
        }
    }
}
