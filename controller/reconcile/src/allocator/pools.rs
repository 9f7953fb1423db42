//! Who holds which VNI, subnet, address and port: followed from the objects, so that it is right whatever happened to
//! earlier transactions; and who waits for one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use pontoon_ipam::{AddressPool, IdPool, SubnetPool, default_gateway};
use pontoon_proto::v1::{Cluster, IpamConfig, Network, PortConfig, PublishMode, Task, TaskState};
use pontoon_store::{Id, Object, Snapshot};

use crate::defaults;
use crate::state::{is_live, state_of};

type Diff = [(Option<Object>, Option<Object>)];

/// What an object holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Holding {
    Vni(u32),
    Subnet(IpNet),
    Address(Id, IpAddr),
    /// Protocol, port, published in ingress mode (else host), service.
    Port(i32, u32, bool, Id),
}

/// The pools, and who waits for them.
#[derive(Debug, Clone)]
pub(crate) struct Allocations {
    pub(super) vnis: IdPool,
    pub(super) subnets: SubnetPool,
    /// Subnet kept for the ingress network as long as there is none.
    pub(super) ingress_subnet: Option<IpNet>,
    pub(super) addresses: BTreeMap<Id, Vec<AddressPool>>,
    /// Chosen ports, by protocol.
    pub(super) ports: BTreeMap<i32, IdPool>,
    /// Owners of published ports: (protocol, port) → (service, ingress).
    pub(super) owners: BTreeMap<(i32, u32), BTreeSet<(Id, bool)>>,
    pub(super) ingress: Option<Id>,
    pub(super) networks: BTreeSet<Id>,
    pub(super) services: BTreeSet<Id>,
    pub(super) nodes: BTreeSet<Id>,
    /// Nodes with containers that wait for an address.
    pub(super) containers: BTreeSet<Id>,
    /// New tasks by service.
    pub(super) tasks: BTreeMap<Id, BTreeSet<Id>>,
    /// Something is to be done, or something was released that others may have waited for.
    pub(crate) retry: bool,
}

impl Default for Allocations {
    fn default() -> Self {
        let mut allocations = Self {
            vnis: IdPool::vnis(),
            subnets: SubnetPool::overlay(),
            ingress_subnet: None,
            addresses: BTreeMap::new(),
            ports: BTreeMap::new(),
            owners: BTreeMap::new(),
            ingress: None,
            networks: BTreeSet::new(),
            services: BTreeSet::new(),
            nodes: BTreeSet::new(),
            containers: BTreeSet::new(),
            tasks: BTreeMap::new(),
            retry: false,
        };
        allocations.keep_ingress_subnet();
        allocations
    }
}

/// The subnet pools that a cluster's spec asks for. An unreadable one (the API refuses such) is left out.
fn subnet_pool(cluster: &Cluster) -> SubnetPool {
    let spec = cluster.spec.as_ref();
    let size = spec.map_or(0, |spec| spec.subnet_size);
    let size = u8::try_from(size)
        .ok()
        .filter(|size| *size > 0)
        .unwrap_or(defaults::SUBNET_SIZE);
    let asked = spec.map_or(&[][..], |spec| spec.default_address_pool.as_slice());
    let pools: Vec<_> = asked
        .iter()
        .filter_map(|pool| Some((pool.parse().ok()?, size)))
        .collect();
    let pools = if pools.is_empty() {
        vec![(
            IpNet::V4(ipnet::Ipv4Net::new_assert([10, 0, 0, 0].into(), 8)),
            size,
        )]
    } else {
        pools
    };
    SubnetPool::new(&pools).unwrap_or_else(|_| SubnetPool::overlay())
}

/// The address part of `10.0.1.5/24`, or of a bare address.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

/// The pools of a network's subnets.
pub(super) fn address_pools(ipam: &[IpamConfig]) -> Result<Vec<AddressPool>, String> {
    let pool = |config: &IpamConfig| -> Result<AddressPool, String> {
        let invalid = |what: &str, text: &str| format!("invalid {what} {text}");
        let subnet: IpNet = config
            .subnet
            .parse()
            .map_err(|_| invalid("subnet", &config.subnet))?;
        let range = match config.range.as_str() {
            "" => None,
            range => Some(range.parse().map_err(|_| invalid("range", range))?),
        };
        let gateway = match config.gateway.as_str() {
            "" => default_gateway(&subnet),
            gateway => gateway.parse().map_err(|_| invalid("gateway", gateway))?,
        };
        let mut pool = AddressPool::new(subnet, range, Some(gateway)).map_err(|error| error.to_string())?;
        // Somebody else's: they are never given. What makes no sense was refused when the network was made.
        let auxiliary = config.auxiliary_addresses.values();
        for address in auxiliary.filter_map(|text| text.parse().ok()) {
            drop(pool.reserve(address));
        }
        Ok(pool)
    };
    ipam.iter().map(pool).collect()
}

fn holdings(object: Option<&Object>) -> Vec<Holding> {
    let attached = |list: &[pontoon_proto::v1::NetworkAttachment]| -> Vec<Holding> {
        let held = |a: &pontoon_proto::v1::NetworkAttachment| {
            Some(Holding::Address(a.network_id.as_str().into(), address(&a.addr)?))
        };
        list.iter().filter_map(held).collect()
    };
    match object {
        Some(Object::Network(network)) => {
            let subnets = network
                .ipam
                .iter()
                .filter_map(|config| config.subnet.parse().ok());
            let vni = (network.vni != 0).then_some(Holding::Vni(network.vni));
            subnets.map(Holding::Subnet).chain(vni).collect()
        }
        Some(Object::Service(service)) => {
            let endpoint = service.endpoint.as_ref();
            let vips = endpoint
                .map_or(&[][..], |e| e.virtual_ips.as_slice())
                .iter()
                .filter_map(|vip| {
                    Some(Holding::Address(
                        vip.network_id.as_str().into(),
                        address(&vip.addr)?,
                    ))
                });
            let ports = endpoint.map_or(&[][..], |e| e.ports.as_slice()).iter();
            let ports = ports.filter(|port| port.published_port != 0).map(|port| {
                let ingress = port.publish_mode() == PublishMode::Ingress;
                Holding::Port(
                    port.protocol,
                    port.published_port,
                    ingress,
                    service.id.as_str().into(),
                )
            });
            vips.chain(ports).collect()
        }
        Some(Object::Task(task)) if !state_of(task).is_terminal() => attached(&task.networks),
        Some(Object::Node(node)) => {
            let containers = node.containers.iter();
            let held = containers
                .filter_map(|c| Some(Holding::Address(c.network_id.as_str().into(), address(&c.addr)?)));
            attached(&node.attachments).into_iter().chain(held).collect()
        }
        _ => Vec::new(),
    }
}

impl Allocations {
    /// Takes in what changed: first all that was released, then all that is held, so that what went from one object to
    /// another ends up held.
    pub(crate) fn sync(&mut self, view: &Snapshot, diff: &Diff) {
        for (old, new) in diff {
            if let (_, Some(Object::Cluster(cluster))) = (old, new) {
                self.new_pools(view, cluster);
            }
            self.note(view, old.as_ref(), new.as_ref());
        }
        let pairs: Vec<_> = diff
            .iter()
            .map(|(old, new)| (holdings(old.as_ref()), holdings(new.as_ref())))
            .collect();
        for (before, now) in &pairs {
            for gone in before.iter().filter(|holding| !now.contains(holding)) {
                self.release(gone);
                self.retry = true;
            }
        }
        for (before, now) in &pairs {
            for held in now.iter().filter(|holding| !before.contains(holding)) {
                self.hold(held);
            }
        }
    }

    fn new_pools(&mut self, view: &Snapshot, cluster: &Cluster) {
        let held = view.networks().flat_map(|network| &network.ipam);
        let held = held.filter_map(|config| config.subnet.parse().ok());
        self.subnets = subnet_pool(cluster).with_used(held);
        self.ingress_subnet = None;
        self.keep_ingress_subnet();
        self.retry = true;
    }

    /// Keeps the first free subnet for the ingress network: 10.0.0.0/24, as in Swarm, whenever it is made.
    pub(super) fn keep_ingress_subnet(&mut self) {
        if self.ingress.is_none() && self.ingress_subnet.is_none() {
            self.ingress_subnet = self.subnets.allocate().ok();
        }
    }

    /// Notes who may have to be given something.
    fn note(&mut self, view: &Snapshot, old: Option<&Object>, new: Option<&Object>) {
        match (old, new) {
            (_, Some(Object::Network(network))) => {
                let id = Id::from(network.id.as_str());
                if network.spec.as_ref().is_some_and(|spec| spec.ingress) {
                    self.ingress = Some(id.clone());
                    self.nodes
                        .extend(view.nodes().map(|node| Id::from(node.id.as_str())));
                }
                self.add_pools(&id, network);
                if network.vni == 0 {
                    self.networks.insert(id);
                }
                self.retry = true;
            }
            (Some(Object::Network(network)), None) => {
                let id = Id::from(network.id.as_str());
                self.addresses.remove(&id);
                self.networks.remove(&id);
                if self.ingress.take_if(|ingress| *ingress == id).is_some() {
                    self.nodes
                        .extend(view.nodes().map(|node| Id::from(node.id.as_str())));
                }
                self.retry = true;
            }
            (_, Some(Object::Service(service))) => {
                self.services.insert(service.id.as_str().into());
                self.retry = true;
            }
            (Some(Object::Service(service)), None) => {
                self.services.remove(service.id.as_bytes());
            }
            (_, Some(Object::Node(node))) => {
                self.nodes.insert(node.id.as_str().into());
                if node.containers.iter().any(super::container::waits) {
                    self.containers.insert(node.id.as_str().into());
                }
                self.retry = true;
            }
            (Some(Object::Node(node)), None) => {
                self.nodes.remove(node.id.as_bytes());
                self.containers.remove(node.id.as_bytes());
            }
            _ => {}
        }
    }

    pub(super) fn add_pools(&mut self, id: &Id, network: &Network) {
        if network.vni != 0
            && !self.addresses.contains_key(id)
            && let Ok(pools) = address_pools(&network.ipam)
        {
            self.addresses.insert(id.clone(), pools);
        }
    }

    /// Follows which tasks wait for addresses.
    pub(crate) fn queue(&mut self, id: &Id, service: &Id, task: Option<&Task>) {
        if task.is_some_and(|task| state_of(task) == TaskState::New && is_live(task)) {
            self.retry |= self.tasks.entry(service.clone()).or_default().insert(id.clone());
        } else if let Some(waiting) = self.tasks.get_mut(service) {
            waiting.remove(id);
            if waiting.is_empty() {
                self.tasks.remove(service);
            }
        }
    }

    fn hold(&mut self, holding: &Holding) {
        match holding {
            // What the objects say is so, even if the pool would not have given it.
            Holding::Vni(vni) => drop(self.vnis.reserve(*vni)),
            Holding::Subnet(subnet) => drop(self.subnets.reserve(*subnet)),
            Holding::Address(network, address) => {
                #[cfg(feature = "planted-bugs")]
                if pontoon_proto::planted::is_planted(pontoon_proto::planted::Bug::ForgetAddresses) {
                    return;
                }
                for pool in self.addresses.get_mut(network).into_iter().flatten() {
                    drop(pool.reserve(*address));
                }
            }
            Holding::Port(protocol, port, ingress, service) => {
                let ports = self.ports.entry(*protocol).or_insert_with(IdPool::ports);
                drop(ports.reserve(*port));
                self.owners
                    .entry((*protocol, *port))
                    .or_default()
                    .insert((service.clone(), *ingress));
            }
        }
    }

    /// Notes at once which ports a service got: the next one of the same round may ask for them too.
    pub(super) fn hold_ports(&mut self, service: &Id, ports: &[PortConfig]) {
        for port in ports.iter().filter(|port| port.published_port != 0) {
            let ingress = port.publish_mode() == PublishMode::Ingress;
            self.hold(&Holding::Port(
                port.protocol,
                port.published_port,
                ingress,
                service.clone(),
            ));
        }
    }

    fn release(&mut self, holding: &Holding) {
        match holding {
            Holding::Vni(vni) => drop(self.vnis.release(*vni)),
            Holding::Subnet(subnet) => drop(self.subnets.release(*subnet)),
            Holding::Address(network, address) => {
                for pool in self.addresses.get_mut(network).into_iter().flatten() {
                    pool.release(*address);
                }
            }
            Holding::Port(protocol, port, ingress, service) => {
                let Some(owners) = self.owners.get_mut(&(*protocol, *port)) else {
                    return;
                };
                owners.remove(&(service.clone(), *ingress));
                if owners.is_empty() {
                    self.owners.remove(&(*protocol, *port));
                    if let Some(ports) = self.ports.get_mut(protocol) {
                        ports.release(*port);
                    }
                }
            }
        }
    }

    /// A free address of the network, with its prefix length.
    pub(super) fn take_address(&mut self, network: &Network) -> Result<(IpAddr, u8), String> {
        let name = network
            .spec
            .as_ref()
            .and_then(|spec| spec.annotations.as_ref())
            .map_or("", |a| &a.name);
        let Some(pools) = self.addresses.get_mut(network.id.as_bytes()) else {
            let why = match network.allocation_error.as_str() {
                "" => "it has no subnet yet",
                error => error,
            };
            return Err(format!("network {name} can't be used: {why}"));
        };
        let mut refused = format!("network {name} has no subnet");
        for pool in pools {
            match pool.allocate() {
                Ok(address) => return Ok((address, pool.subnet().prefix_len())),
                Err(error) => refused = format!("network {name}: {error}"),
            }
        }
        Err(refused)
    }

    /// Gives back an address that was taken in vain.
    pub(super) fn give_back(&mut self, network: &str, address: IpAddr) {
        self.release(&Holding::Address(network.into(), address));
    }
}
