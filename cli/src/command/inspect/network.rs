//! Docker's JSON of this host's networks, and of containers' places in them.

use pontoon_proto::v1::{ContainerNetwork, IpamConfig, LocalNetwork};
use serde_json::{Map, Value, json};

use crate::output::human;

fn list(values: &[String]) -> Value {
    if values.is_empty() {
        Value::Null
    } else {
        json!(values)
    }
}

/// A container's place in a network, as `inspect` shows it.
pub fn endpoint_json(network: &ContainerNetwork) -> Value {
    let wished = !network.link_local_ips.is_empty();
    let ipam = wished.then(|| json!({ "LinkLocalIPs": network.link_local_ips }));
    json!({
        "IPAMConfig": ipam, "Links": list(&network.links), "Aliases": list(&network.aliases),
        "MacAddress": network.mac_address,
        "DriverOpts": (!network.driver_opts.is_empty()).then_some(&network.driver_opts),
        "GwPriority": network.gw_priority, "NetworkID": network.network_id, "EndpointID": network.endpoint_id,
        "Gateway": network.gateway, "IPAddress": network.ip_address, "IPPrefixLen": network.ip_prefix_len,
        "IPv6Gateway": network.ipv6_gateway, "GlobalIPv6Address": network.ipv6_address,
        "GlobalIPv6PrefixLen": network.ipv6_prefix_len, "DNSNames": list(&network.dns_names),
    })
}

fn ipam_json(network: &LocalNetwork) -> Value {
    let config = |config: &IpamConfig| {
        let mut value = Map::new();
        let mut set = |key: &str, text: &str| {
            if !text.is_empty() {
                value.insert(key.to_owned(), text.into());
            }
        };
        set("Subnet", &config.subnet);
        set("IPRange", &config.range);
        set("Gateway", &config.gateway);
        if !config.auxiliary_addresses.is_empty() {
            value.insert("AuxiliaryAddresses".to_owned(), json!(config.auxiliary_addresses));
        }
        Value::Object(value)
    };
    let configs: Vec<Value> = network.ipam.iter().map(config).collect();
    let driver = if network.ipam_driver.is_empty() {
        "default"
    } else {
        &network.ipam_driver
    };
    let options = (!network.ipam_options.is_empty()).then_some(&network.ipam_options);
    json!({ "Driver": driver, "Options": options, "Config": configs })
}

/// A host's network as `network inspect` shows it.
pub fn local_network_json(network: &LocalNetwork) -> Value {
    let containers: Map<String, Value> = network
        .containers
        .iter()
        .map(|container| {
            let value = json!({
                "Name": container.name, "EndpointID": container.endpoint_id, "MacAddress": container.mac_address,
                "IPv4Address": container.ip_address, "IPv6Address": container.ipv6_address,
            });
            (container.id.clone(), value)
        })
        .collect();
    let peers = (!network.peers.is_empty()).then(|| network.peers.iter().map(peer).collect::<Vec<_>>());
    let mut shown = json!({
        "Name": network.name, "Id": network.id, "Created": human::rfc3339(network.created_at), "Scope": network.scope,
        "Driver": network.driver, "EnableIPv4": network.enable_ipv4, "EnableIPv6": network.enable_ipv6,
        "IPAM": ipam_json(network), "Internal": network.internal, "Attachable": network.attachable,
        "Ingress": network.ingress, "ConfigFrom": { "Network": "" }, "ConfigOnly": false, "Containers": containers,
        "Options": network.options, "Labels": network.labels,
    });
    // Docker shows them of overlays only.
    if let (Some(peers), Some(fields)) = (peers, shown.as_object_mut()) {
        fields.insert("Peers".to_owned(), json!(peers));
    }
    shown
}

/// A node that has containers in an overlay: Docker names it by an id of its own making, here it is the address.
fn peer(address: &String) -> Value {
    json!({ "Name": address, "IP": address })
}
