//! Services: a virtual IP in each of their networks, and published ports.

use std::net::IpAddr;

use pontoon_ipam::IdPool;
use pontoon_proto::v1::{
    Endpoint, EndpointMode, EndpointSpec, PortConfig, PublishMode, Service, ServiceSpec, VirtualIp,
};
use pontoon_store::{Id, Snapshot};

use super::{Allocations, NODE_NETWORKS};
use crate::pass::Pass;
use crate::versions;

/// What was taken for a service that in the end could not be served.
#[derive(Default)]
struct Taken {
    addresses: Vec<(String, IpAddr)>,
    ports: Vec<(i32, u32)>,
}

/// Gives the service what its spec asks for; false if it has to wait.
pub(super) fn allocate(pass: &mut Pass<'_, '_>, id: &Id) -> bool {
    let Some(service) = pass.tx.service(id).cloned() else {
        return true;
    };
    let mut taken = Taken::default();
    let mut changed = Service::clone(&service);
    match endpoint(pass, &service, &mut taken) {
        Ok(endpoint) => {
            pass.state.alloc.hold_ports(id, &endpoint.ports);
            changed.endpoint = Some(endpoint);
            changed.allocation_error.clear();
        }
        Err(reason) => {
            for (network, address) in taken.addresses {
                pass.state.alloc.give_back(&network, address);
            }
            for (protocol, port) in taken.ports {
                if let Some(ports) = pass.state.alloc.ports.get_mut(&protocol) {
                    ports.release(port);
                }
            }
            changed.allocation_error = reason;
        }
    }
    let served = changed.allocation_error.is_empty();
    pass.put_service(changed);
    served
}

fn endpoint(pass: &mut Pass<'_, '_>, service: &Service, taken: &mut Taken) -> Result<Endpoint, String> {
    let spec = service.spec.clone().unwrap_or_default();
    let wished = spec.endpoint.clone().unwrap_or_default();
    let had = service.endpoint.clone().unwrap_or_default();
    if let Some(reason) = conflict(pass.tx.view(), &service.id, &wished, |port| {
        pass.state.alloc.other_owner(port, &service.id)
    }) {
        return Err(reason);
    }
    let virtual_ips = virtual_ips(pass, &spec, &wished, &had, taken)?;
    let ports = ports(&mut pass.state.alloc, &wished, &had, taken)?;
    Ok(Endpoint {
        spec: spec.endpoint,
        ports,
        virtual_ips,
    })
}

fn virtual_ips(
    pass: &mut Pass<'_, '_>,
    spec: &ServiceSpec,
    wished: &EndpointSpec,
    had: &Endpoint,
    taken: &mut Taken,
) -> Result<Vec<VirtualIp>, String> {
    let networks = spec
        .task
        .as_ref()
        .map_or(&[][..], |task| task.networks.as_slice());
    let mut targets: Vec<String> = networks.iter().map(|network| network.target.clone()).collect();
    targets.retain(|target| !NODE_NETWORKS.contains(&target.as_str()));
    if versions::uses_ingress(spec) {
        let ingress = pass.state.alloc.ingress.as_ref();
        let ingress =
            ingress.ok_or("the name ingress belongs to a network that is not the routing mesh's")?;
        targets.push(ingress.as_ref().to_owned());
    }
    let mut vips = Vec::new();
    for target in targets {
        let network = pass
            .tx
            .network(&target)
            .cloned()
            .ok_or_else(|| format!("network {target} not found"))?;
        if wished.mode() == EndpointMode::Dnsrr || vips.iter().any(|vip: &VirtualIp| vip.network_id == target)
        {
            continue;
        }
        if let Some(vip) = had.virtual_ips.iter().find(|vip| vip.network_id == target) {
            vips.push(vip.clone());
            continue;
        }
        let (address, _) = pass.state.alloc.take_address(&network)?;
        taken.addresses.push((target.clone(), address));
        vips.push(VirtualIp {
            network_id: target,
            addr: address.to_string(),
        });
    }
    Ok(vips)
}

fn ports(
    alloc: &mut Allocations,
    wished: &EndpointSpec,
    had: &Endpoint,
    taken: &mut Taken,
) -> Result<Vec<PortConfig>, String> {
    let mut given: Vec<PortConfig> = Vec::new();
    for port in &wished.ports {
        let mut port = *port;
        if port.published_port == 0 && port.publish_mode() == PublishMode::Ingress {
            let same = |old: &&PortConfig| {
                let as_asked = PortConfig {
                    published_port: 0,
                    ..**old
                } == port;
                let named = wished.ports.iter().any(|w| shares_port(w, old));
                as_asked && !named && !given.contains(old)
            };
            port.published_port = match had.ports.iter().find(same) {
                Some(old) => old.published_port,
                None => {
                    let pool = alloc.ports.entry(port.protocol).or_insert_with(IdPool::ports);
                    let chosen = pool.allocate().map_err(|error| error.to_string())?;
                    taken.ports.push((port.protocol, chosen));
                    chosen
                }
            };
        }
        given.push(port);
    }
    Ok(given)
}

/// Whether both publish the same port number of the same protocol.
pub(crate) fn shares_port(a: &PortConfig, b: &PortConfig) -> bool {
    a.published_port != 0 && a.published_port == b.published_port && a.protocol == b.protocol
}

/// Why the ports can't be published: another service has one of them. An ingress port is open on every node, so it
/// leaves no room for anybody; host ports of two services can share a number (the scheduler keeps them apart).
pub(crate) fn conflict(
    view: &Snapshot,
    service_id: &str,
    endpoint: &EndpointSpec,
    owner: impl Fn(&PortConfig) -> Option<(Id, bool)>,
) -> Option<String> {
    let clash = |port: &PortConfig| {
        let (other, ingress) = owner(port)?;
        let mode = if ingress { "an ingress" } else { "a host-published" };
        let name = view.service(&other).map_or("", |service| versions::name(service));
        let number = port.published_port;
        (other.as_ref() != service_id).then(|| {
            format!("port '{number}' is already in use by service '{name}' ({other}) as {mode} port")
        })
    };
    endpoint
        .ports
        .iter()
        .filter(|port| port.published_port != 0)
        .find_map(clash)
}

impl Allocations {
    /// Another service that has this port already in a way that excludes this one.
    pub(crate) fn other_owner(&self, port: &PortConfig, service_id: &str) -> Option<(Id, bool)> {
        let owners = self.owners.get(&(port.protocol, port.published_port))?;
        let ingress = port.publish_mode() == PublishMode::Ingress;
        owners
            .iter()
            .find(|(owner, theirs)| owner.as_ref() != service_id && (ingress || *theirs))
            .cloned()
    }
}
