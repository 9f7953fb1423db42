//! Networks: VNI and subnets; the ingress network, made when the first service publishes a port through it; and the
//! nodes' own addresses in it (their legs).

use ipnet::IpNet;
use pontoon_ipam::default_gateway;
use pontoon_proto::v1::{
    Annotations, IpamConfig, Meta, Network, NetworkAttachment, NetworkSpec, Node, NodeState,
};
use pontoon_store::{Id, Kind};

use super::Allocations;
use crate::pass::Pass;
use crate::{defaults, versions};

/// Gives networks what they wait for, makes the ingress network, gives nodes their legs.
pub(super) fn run(pass: &mut Pass<'_, '_>) {
    ensure_ingress(pass);
    let waiting: Vec<Id> = pass.state.alloc.networks.iter().cloned().collect();
    for id in waiting {
        let Some(network) = pass.tx.network(&id).cloned() else {
            continue;
        };
        if network.vni != 0 {
            continue;
        }
        if !pass.may_write(Kind::Network, &id) {
            pass.state.alloc.retry = true;
            return;
        }
        let mut network = Network::clone(&network);
        network.allocation_error = allocate(&mut pass.state.alloc, &mut network)
            .err()
            .unwrap_or_default();
        if network.allocation_error.is_empty() {
            pass.state.alloc.networks.remove(&id);
            pass.state.alloc.add_pools(&id, &network);
        }
        pass.put_network(network);
    }
    legs(pass);
}

/// Makes the ingress network if a service needs it.
fn ensure_ingress(pass: &mut Pass<'_, '_>) {
    let alloc = &pass.state.alloc;
    if alloc.ingress.is_some() {
        return;
    }
    let wants = |id: &Id| {
        let spec = pass.tx.service(id).and_then(|service| service.spec.as_ref());
        spec.is_some_and(versions::uses_ingress)
    };
    if !alloc.services.iter().any(wants) {
        return;
    }
    let now = pass.now();
    let annotations = Annotations {
        name: defaults::INGRESS_NAME.to_owned(),
        ..Default::default()
    };
    let network = Network {
        id: (pass.env.ids)(),
        meta: Some(Meta {
            version: 0,
            created_at: now,
            updated_at: now,
        }),
        spec: Some(NetworkSpec {
            annotations: Some(annotations),
            driver: "overlay".to_owned(),
            ingress: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    let id = Id::from(network.id.as_str());
    // A user's network of this name stands in the way: the services say so until it is gone.
    if pass.tx.put_network(network).is_ok() {
        pass.state.alloc.ingress = Some(id.clone());
        pass.state.alloc.networks.insert(id);
        let nodes: Vec<Id> = pass.tx.nodes().map(|node| node.id.as_str().into()).collect();
        pass.state.alloc.nodes.extend(nodes);
    }
}

/// Chooses the subnets: those asked for, unless they overlap others, or one of the pools'.
fn subnets(alloc: &mut Allocations, spec: &NetworkSpec) -> Result<Vec<IpamConfig>, String> {
    if spec.ipam.is_empty() {
        let kept = alloc.ingress_subnet.filter(|_| spec.ingress);
        let subnet = match kept {
            Some(subnet) => subnet,
            None => alloc.subnets.allocate().map_err(|error| error.to_string())?,
        };
        if spec.ingress {
            alloc.ingress_subnet = None;
        }
        return Ok(vec![with_gateway(subnet, &IpamConfig::default())]);
    }
    let mut taken: Vec<IpNet> = Vec::new();
    let mut configs = Vec::new();
    for config in &spec.ipam {
        let subnet = specific(alloc, config);
        match subnet {
            Ok(subnet) => {
                taken.push(subnet);
                configs.push(with_gateway(subnet, config));
            }
            Err(reason) => {
                for subnet in taken {
                    alloc.subnets.release(subnet);
                }
                return Err(reason);
            }
        }
    }
    Ok(configs)
}

fn specific(alloc: &mut Allocations, config: &IpamConfig) -> Result<IpNet, String> {
    if config.subnet.is_empty() {
        return alloc.subnets.allocate().map_err(|error| error.to_string());
    }
    let subnet: IpNet = config
        .subnet
        .parse()
        .map_err(|_| format!("invalid subnet {}", config.subnet))?;
    // The subnet kept for ingress is not anybody's yet: a user may have it.
    if let Some(kept) = alloc.ingress_subnet
        && (kept.contains(&subnet) || subnet.contains(&kept))
    {
        alloc.subnets.release(kept);
        alloc.ingress_subnet = None;
    }
    let result = alloc
        .subnets
        .allocate_specific(subnet)
        .map_err(|error| error.to_string());
    alloc.keep_ingress_subnet();
    result.map(|()| subnet.trunc())
}

fn with_gateway(subnet: IpNet, asked: &IpamConfig) -> IpamConfig {
    let gateway = match asked.gateway.as_str() {
        "" => default_gateway(&subnet).to_string(),
        gateway => gateway.to_owned(),
    };
    IpamConfig {
        subnet: subnet.to_string(),
        range: asked.range.clone(),
        gateway,
        auxiliary_addresses: asked.auxiliary_addresses.clone(),
    }
}

fn allocate(alloc: &mut Allocations, network: &mut Network) -> Result<(), String> {
    let spec = network.spec.clone().unwrap_or_default();
    let ipam = subnets(alloc, &spec)?;
    let vni =
        super::pools::address_pools(&ipam).and_then(|_| alloc.vnis.allocate().map_err(|e| e.to_string()));
    match vni {
        Ok(vni) => {
            network.vni = vni;
            network.ipam = ipam;
            Ok(())
        }
        Err(reason) => {
            for subnet in ipam.iter().filter_map(|config| config.subnet.parse().ok()) {
                alloc.subnets.release(subnet);
            }
            Err(reason)
        }
    }
}

/// Gives each ready node its address in the ingress network, and takes back those in networks that are gone.
fn legs(pass: &mut Pass<'_, '_>) {
    let nodes: Vec<Id> = pass.state.alloc.nodes.iter().cloned().collect();
    for id in nodes {
        let Some(node) = pass.tx.node(&id).cloned() else {
            continue;
        };
        if !pass.may_write(Kind::Node, &id) {
            pass.state.alloc.retry = true;
            return;
        }
        let mut changed = Node::clone(&node);
        changed
            .attachments
            .retain(|attachment| pass.tx.network(&attachment.network_id).is_some());
        if let Err(wait) = leg(pass, &mut changed)
            && wait
        {
            continue;
        }
        pass.state.alloc.nodes.remove(&id);
        pass.put_node(changed);
    }
}

/// Gives the node its leg if it is due; an error tells whether to come back to the node.
fn leg(pass: &mut Pass<'_, '_>, node: &mut Node) -> Result<(), bool> {
    let Some(ingress) = pass.state.alloc.ingress.clone() else {
        return Ok(());
    };
    let Some(network) = pass.tx.network(&ingress).cloned() else {
        return Ok(());
    };
    let has = node
        .attachments
        .iter()
        .any(|attachment| attachment.network_id == network.id);
    let ready = node
        .status
        .as_ref()
        .is_some_and(|status| status.state() == NodeState::Ready);
    if has || !ready {
        return Ok(());
    }
    let (address, prefix) = pass.state.alloc.take_address(&network).map_err(|_| true)?;
    node.attachments.push(NetworkAttachment {
        network_id: network.id.clone(),
        addr: format!("{address}/{prefix}"),
        aliases: Vec::new(),
    });
    Ok(())
}
