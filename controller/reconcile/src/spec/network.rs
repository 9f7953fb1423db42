//! Specs of networks and nodes.

use std::net::IpAddr;

use ipnet::IpNet;
use pontoon_proto::v1::{Annotations, Availability, IpamConfig, NetworkSpec, NodeRole, NodeSpec};

use super::{Problem, Problems, check_name};

/// Largest packet in the network; on a node whose underlay takes less it is less.
const MTU: &str = "com.docker.network.driver.mtu";

/// Checks a network's spec.
///
/// # Errors
/// All that is wrong with it.
pub fn validate_network(spec: &NetworkSpec) -> Result<(), Vec<Problem>> {
    let mut problems = Problems::default();
    check_name(spec.annotations.as_ref(), &mut problems);
    let name = spec
        .annotations
        .as_ref()
        .map_or("", |a: &Annotations| a.name.as_str());
    if crate::allocator::NODE_NETWORKS.contains(&name) {
        problems.add(format!(
            "network name {name} stands for a network of each node and can't be used"
        ));
    }
    if !matches!(spec.driver.as_str(), "" | "overlay") {
        problems.add(format!(
            "network driver {} can't span nodes: use overlay",
            spec.driver
        ));
    }
    problems.add_if(
        spec.enable_ipv6,
        "IPv6 in overlay networks is not supported: leave enable_ipv6 out",
    );
    problems.add_if(
        spec.attachable && spec.ingress,
        "ingress network cannot be attachable",
    );
    problems.add_if(
        spec.ingress && spec.internal,
        "ingress network cannot be internal",
    );
    if let Some(mtu) = spec.driver_opts.get(MTU) {
        let fits = mtu.parse::<u32>().is_ok_and(|mtu| (68..=65_535).contains(&mtu));
        if !fits {
            problems.add(format!(
                "invalid {MTU} {mtu:?}: use a number of bytes from 68 to 65535"
            ));
        }
    }
    for config in &spec.ipam {
        check_ipam(config, &mut problems);
    }
    for (at, a) in spec.ipam.iter().enumerate() {
        for b in &spec.ipam[at + 1..] {
            if let (Ok(a), Ok(b)) = (a.subnet.parse::<IpNet>(), b.subnet.parse::<IpNet>())
                && (a.contains(&b) || b.contains(&a))
            {
                problems.add(format!("subnet {b} overlaps with {a} of the same network"));
            }
        }
    }
    problems.finish()
}

fn check_ipam(config: &IpamConfig, problems: &mut Problems) {
    if config.subnet.is_empty() {
        let alone = config.range.is_empty() && config.gateway.is_empty();
        problems.add_if(!alone, "ipam: a range or gateway needs a subnet");
        return;
    }
    let Ok(subnet) = config.subnet.parse::<IpNet>() else {
        problems.add(format!(
            "invalid subnet {}: expected an address and a prefix length",
            config.subnet
        ));
        return;
    };
    if subnet.addr().is_ipv6() {
        problems.add(format!(
            "subnet {subnet} is IPv6, which overlay networks do not support"
        ));
    } else if subnet.prefix_len() > 29 {
        problems.add(format!(
            "subnet {subnet} is too small: use a prefix length of 29 or less"
        ));
    }
    if subnet.trunc() != subnet {
        problems.add(format!(
            "invalid subnet {subnet}: it should be {}",
            subnet.trunc()
        ));
    }
    if !config.range.is_empty() {
        match config.range.parse::<IpNet>() {
            Ok(range) if subnet.contains(&range) => {}
            Ok(range) => problems.add(format!("ip range {range} is not inside subnet {subnet}")),
            Err(_) => problems.add(format!("invalid ip range {}", config.range)),
        }
    }
    let mut auxiliary: Vec<_> = config.auxiliary_addresses.iter().collect();
    auxiliary.sort();
    for (name, text) in auxiliary {
        match text.parse::<IpAddr>() {
            Ok(address) if subnet.contains(&address) => {}
            _ => problems.add(format!(
                "invalid auxiliary address {name}: parent subnet {subnet} doesn't contain {text}"
            )),
        }
    }
    if !config.gateway.is_empty() {
        match config.gateway.parse::<IpAddr>() {
            Ok(gateway) if subnet.contains(&gateway) => {}
            Ok(gateway) => problems.add(format!("gateway {gateway} is not inside subnet {subnet}")),
            Err(_) => problems.add(format!("invalid gateway {}", config.gateway)),
        }
    }
}

/// Checks a node's spec.
///
/// # Errors
/// All that is wrong with it.
pub fn validate_node(spec: &NodeSpec) -> Result<(), Vec<Problem>> {
    let mut problems = Problems::default();
    problems.add_if(
        NodeRole::try_from(spec.role).is_err(),
        "node role must be worker or manager",
    );
    problems.add_if(
        Availability::try_from(spec.availability).is_err(),
        "node availability must be active, pause or drain",
    );
    if spec
        .annotations
        .as_ref()
        .is_some_and(|annotations| !annotations.name.is_empty())
    {
        check_name(spec.annotations.as_ref(), &mut problems);
    }
    let labels = spec
        .annotations
        .iter()
        .flat_map(|annotations| annotations.labels.keys());
    problems.add_if(
        labels.into_iter().any(String::is_empty),
        "node labels must have a name",
    );
    problems.finish()
}
