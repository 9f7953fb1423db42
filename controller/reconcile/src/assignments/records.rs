//! Records of the overlay networks: peers, services, task names, and the routing mesh's ports. Worked out once for all
//! nodes, and again only for networks in which something changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pontoon_proto::v1::{
    IngressPort, Network, NetworkAttachment, Node, OverlayNetwork, OverlayPeer, PublishMode, Service,
    ServiceRecord, Task, TaskRecord, TaskState,
};
use pontoon_store::{Id, Object, Snapshot, task_name};

use crate::state::{is_live, state_of};
use crate::versions;

/// Who has to do with a network, and its record while that holds.
#[derive(Debug, Default)]
struct Entry {
    tasks: BTreeSet<Id>,
    services: BTreeSet<Id>,
    /// Those with containers of no task in it.
    nodes: BTreeSet<Id>,
    record: Option<Arc<OverlayNetwork>>,
}

/// Records of all overlay networks at the snapshot seen last. Start with `default()`; one for all sessions.
#[derive(Debug, Default)]
pub struct Records {
    seen: Snapshot,
    networks: BTreeMap<Id, Entry>,
    ingress_ports: Option<Arc<[IngressPort]>>,
}

/// The address part of `10.0.1.5/24`.
fn bare(addr: &str) -> &str {
    addr.split('/').next().unwrap_or(addr)
}

/// Whether the task has its addresses in use.
fn is_endpoint(task: &Task) -> bool {
    let state = state_of(task);
    state >= TaskState::Assigned && !state.is_terminal() && !task.node_id.is_empty()
}

/// What of a task is in its networks' records, besides its addresses.
pub(super) fn facts(task: &Task) -> (bool, bool, &str) {
    (is_endpoint(task), is_backend(task), &task.node_id)
}

/// Whether the task may be given traffic: it is ready for it, and neither the managers nor its agent mean to end it.
fn is_backend(task: &Task) -> bool {
    let leaving = task.status.as_ref().is_some_and(|status| status.leaving);
    state_of(task) == TaskState::Running && is_live(task) && !leaving
}

fn address_in<'a>(attachments: &'a [NetworkAttachment], network_id: &str) -> Option<&'a str> {
    let attachment = attachments
        .iter()
        .find(|attachment| attachment.network_id == network_id)?;
    Some(bare(&attachment.addr)).filter(|addr| !addr.is_empty())
}

/// The networks that a service is in.
fn networks_of(service: &Service) -> BTreeSet<Id> {
    let spec = service.spec.as_ref().and_then(|spec| spec.task.as_ref());
    let targets = spec
        .map_or(&[][..], |task| task.networks.as_slice())
        .iter()
        .map(|n| n.target.as_str());
    let vips = service
        .endpoint
        .as_ref()
        .map_or(&[][..], |endpoint| endpoint.virtual_ips.as_slice());
    targets
        .chain(vips.iter().map(|vip| vip.network_id.as_str()))
        .map(Id::from)
        .collect()
}

impl Records {
    /// Takes in what differs from the snapshot seen last.
    pub(super) fn advance(&mut self, snapshot: &Snapshot) {
        if self.seen.version() == snapshot.version() && self.seen.version() != 0 {
            return;
        }
        for (old, new) in snapshot.diff(&self.seen) {
            match (old, new) {
                (Some(Object::Task(old)), Some(Object::Task(new))) => self.task(Some(&old), Some(&new)),
                (None, Some(Object::Task(new))) => self.task(None, Some(&new)),
                (Some(Object::Task(old)), None) => self.task(Some(&old), None),
                (Some(Object::Service(old)), Some(Object::Service(new))) => {
                    self.service(Some(&old), Some(&new));
                }
                (None, Some(Object::Service(new))) => self.service(None, Some(&new)),
                (Some(Object::Service(old)), None) => self.service(Some(&old), None),
                (Some(Object::Node(old)), Some(Object::Node(new))) => self.node(Some(&old), Some(&new)),
                (None, Some(Object::Node(new))) => self.node(None, Some(&new)),
                (Some(Object::Node(old)), None) => self.node(Some(&old), None),
                (old, new) => {
                    if let Some(Object::Network(network)) = new.or(old) {
                        self.networks
                            .entry(network.id.as_str().into())
                            .or_default()
                            .record = None;
                    }
                }
            }
        }
        self.seen = snapshot.clone();
    }

    fn task(&mut self, old: Option<&Task>, new: Option<&Task>) {
        let Some(task) = new.or(old) else { return };
        if let (Some(old), Some(new)) = (old, new)
            && facts(old) == facts(new)
            && old.networks == new.networks
        {
            return;
        }
        let id = Id::from(task.id.as_str());
        let networks = |task: Option<&Task>| -> BTreeSet<Id> {
            let endpoint = task.filter(|task| is_endpoint(task));
            endpoint
                .into_iter()
                .flat_map(|t| &t.networks)
                .map(|a| a.network_id.as_str().into())
                .collect()
        };
        let (before, now) = (networks(old), networks(new));
        for network in before.union(&now) {
            let entry = self.networks.entry(network.clone()).or_default();
            entry.record = None;
            if now.contains(network) {
                entry.tasks.insert(id.clone());
            } else {
                entry.tasks.remove(&id);
            }
        }
        self.ingress_ports = None;
    }

    fn service(&mut self, old: Option<&Service>, new: Option<&Service>) {
        let Some(service) = new.or(old) else { return };
        let facts = |service: &Service| {
            let networks = service
                .spec
                .as_ref()
                .and_then(|s| s.task.as_ref())
                .map(|t| t.networks.clone());
            (
                versions::name(service).to_owned(),
                networks,
                service.endpoint.clone(),
            )
        };
        if old.map(facts) == new.map(facts) {
            return;
        }
        let id = Id::from(service.id.as_str());
        let before = old.map(networks_of).unwrap_or_default();
        let now = new.map(networks_of).unwrap_or_default();
        for network in before.union(&now) {
            let entry = self.networks.entry(network.clone()).or_default();
            entry.record = None;
            if now.contains(network) {
                entry.services.insert(id.clone());
            } else {
                entry.services.remove(&id);
            }
        }
        self.ingress_ports = None;
    }

    fn node(&mut self, old: Option<&Node>, new: Option<&Node>) {
        let vtep = |node: &Node| node.description.as_ref().map(|d| d.data_path_addr.clone());
        if old.map(vtep) != new.map(vtep) {
            for entry in self.networks.values_mut() {
                entry.record = None;
            }
        }
        let legs = |node: Option<&Node>| node.map(|node| node.attachments.clone()).unwrap_or_default();
        let (before, now) = (legs(old), legs(new));
        if before != now {
            for leg in before.iter().chain(&now) {
                self.networks
                    .entry(leg.network_id.as_str().into())
                    .or_default()
                    .record = None;
            }
        }
        self.containers(old, new);
    }

    /// Follows which nodes have containers of no task in which network.
    fn containers(&mut self, old: Option<&Node>, new: Option<&Node>) {
        let Some(node) = new.or(old) else { return };
        let of = |node: Option<&Node>| node.map(|node| node.containers.clone()).unwrap_or_default();
        let (before, now) = (of(old), of(new));
        if before == now {
            return;
        }
        for container in before.iter().chain(&now) {
            let network = container.network_id.as_str();
            let entry = self.networks.entry(network.into()).or_default();
            entry.record = None;
            if now.iter().any(|other| other.network_id == network) {
                entry.nodes.insert(node.id.as_str().into());
            } else {
                entry.nodes.remove(node.id.as_bytes());
            }
        }
    }

    /// The record of a network; none if it does not exist, or has no subnet yet.
    pub(super) fn network(&mut self, snapshot: &Snapshot, id: &str) -> Option<Arc<OverlayNetwork>> {
        let network = snapshot.network(id).filter(|network| network.vni != 0)?;
        let entry = self.networks.entry(id.into()).or_default();
        if entry.record.is_none() {
            entry.record = Some(Arc::new(build(snapshot, network, entry)));
        }
        entry.record.clone()
    }

    /// The published ports with those who answer.
    pub(super) fn ingress_ports(&mut self, snapshot: &Snapshot) -> Arc<[IngressPort]> {
        let ports = self
            .ingress_ports
            .take()
            .unwrap_or_else(|| ingress_ports(snapshot));
        self.ingress_ports = Some(ports.clone());
        ports
    }
}

fn build(snapshot: &Snapshot, network: &Network, entry: &Entry) -> OverlayNetwork {
    let spec = network.spec.clone().unwrap_or_default();
    let vtep = |node_id: &str| -> String {
        let description = snapshot.node(node_id).and_then(|node| node.description.as_ref());
        description.map_or_else(String::new, |description| description.data_path_addr.clone())
    };
    let mut peers = Vec::new();
    let mut tasks = Vec::new();
    let mut backends: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for task in entry.tasks.iter().filter_map(|id| snapshot.task(id)) {
        let Some(addr) = address_in(&task.networks, &network.id) else {
            continue;
        };
        // A node that is gone answers nobody.
        if snapshot.node(&task.node_id).is_some() {
            peers.push(OverlayPeer {
                addr: addr.to_owned(),
                vtep: vtep(&task.node_id),
            });
        }
        tasks.push(TaskRecord {
            name: task_name(task),
            addr: addr.to_owned(),
        });
        if is_backend(task) {
            backends
                .entry(&task.service_id)
                .or_default()
                .push(addr.to_owned());
        }
    }
    for node in entry.nodes.iter().filter_map(|id| snapshot.node(id)) {
        let here = node.containers.iter().filter(|c| c.network_id == network.id);
        for container in here.filter(|c| !c.addr.is_empty()) {
            let addr = bare(&container.addr).to_owned();
            tasks.extend(container.names.iter().map(|name| TaskRecord {
                name: name.clone(),
                addr: addr.clone(),
            }));
            peers.push(OverlayPeer {
                addr,
                vtep: vtep(&node.id),
            });
        }
    }
    let mut services = Vec::new();
    if spec.ingress {
        // Names are not resolved through the routing mesh: it joins services that have nothing else in common.
        tasks.clear();
        for node in snapshot.nodes() {
            if let Some(addr) = address_in(&node.attachments, &network.id) {
                peers.push(OverlayPeer {
                    addr: addr.to_owned(),
                    vtep: vtep(&node.id),
                });
            }
        }
    } else {
        for service in entry.services.iter().filter_map(|id| snapshot.service(id)) {
            let backends = backends.remove(service.id.as_str()).unwrap_or_default();
            services.push(service_record(service, &network.id, backends));
        }
    }
    let settings = snapshot.cluster().and_then(|cluster| cluster.spec.as_ref());
    OverlayNetwork {
        id: network.id.clone(),
        spec: Some(spec),
        vni: network.vni,
        ipam: network.ipam.clone(),
        peers,
        services,
        tasks,
        // Fixed when the cluster is made, so that no record has an older one.
        data_path_port: settings.map_or(0, |spec| spec.data_path_port),
    }
}

fn service_record(service: &Service, network_id: &str, backends: Vec<String>) -> ServiceRecord {
    let task = service.spec.as_ref().and_then(|spec| spec.task.as_ref());
    let networks = task.map_or(&[][..], |task| task.networks.as_slice());
    let aliases = networks.iter().find(|network| network.target == network_id);
    let vips = service
        .endpoint
        .as_ref()
        .map_or(&[][..], |endpoint| endpoint.virtual_ips.as_slice());
    let vip = vips.iter().find(|vip| vip.network_id == network_id);
    ServiceRecord {
        name: versions::name(service).to_owned(),
        aliases: aliases.map(|network| network.aliases.clone()).unwrap_or_default(),
        vip: vip.map(|vip| vip.addr.clone()).unwrap_or_default(),
        backends,
    }
}

fn ingress_ports(snapshot: &Snapshot) -> Arc<[IngressPort]> {
    let is_ingress = |network: &&Arc<Network>| network.spec.as_ref().is_some_and(|spec| spec.ingress);
    let Some(ingress) = snapshot.networks().find(is_ingress) else {
        return Arc::default();
    };
    let mut found = Vec::new();
    for service in snapshot.services() {
        let ports = service
            .endpoint
            .as_ref()
            .map_or(&[][..], |endpoint| endpoint.ports.as_slice());
        let ports = ports
            .iter()
            .filter(|p| p.publish_mode() == PublishMode::Ingress && p.published_port != 0);
        let mut ports = ports.peekable();
        if ports.peek().is_none() {
            continue;
        }
        let tasks = snapshot
            .tasks_by_service(&service.id)
            .filter(|task| is_backend(task));
        let backends = tasks.filter_map(|task| address_in(&task.networks, &ingress.id));
        let backends: Vec<String> = backends.map(str::to_owned).collect();
        found.extend(ports.map(|port| IngressPort {
            protocol: port.protocol,
            published_port: port.published_port,
            target_port: port.target_port,
            backends: backends.clone(),
            service_name: versions::name(service).to_owned(),
        }));
    }
    found.into()
}
