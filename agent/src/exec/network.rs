//! Overlay networks and the routing mesh from the wire's form to the network manager's.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use pontoon_net as net;
use pontoon_proto::v1::{IngressConfig, Network, OverlayNetwork, PortProtocol};

fn parse<T: FromStr>(what: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{what} {text:?} is not valid"))
}

fn optional<T: FromStr>(what: &str, text: &str) -> Result<Option<T>, String> {
    if text.is_empty() {
        Ok(None)
    } else {
        parse(what, text).map(Some)
    }
}

/// An overlay's state.
pub(super) fn overlay(network: &OverlayNetwork, local_vtep: IpAddr) -> Result<net::OverlayState, String> {
    let spec = network.spec.clone().unwrap_or_default();
    let annotations = spec.annotations.unwrap_or_default();
    let mut local = net::NetworkSpec::new(
        &network.id,
        annotations.name,
        net::Driver::Overlay { vni: network.vni },
    );
    local.ipam = network
        .ipam
        .iter()
        .map(|ipam| {
            Ok(net::IpamConfig {
                subnet: optional("subnet", &ipam.subnet)?,
                gateway: optional("gateway", &ipam.gateway)?,
                range: optional("range", &ipam.range)?,
                auxiliary: ipam
                    .auxiliary_addresses
                    .iter()
                    .map(|(name, text)| Ok((name.clone(), parse("auxiliary address", text)?)))
                    .collect::<Result<_, String>>()?,
            })
        })
        .collect::<Result<_, String>>()?;
    local.internal = spec.internal;
    local.attachable = spec.attachable;
    local.enable_ipv6 = spec.enable_ipv6;
    local.options = spec.driver_opts.into_iter().collect::<BTreeMap<_, _>>();
    local.labels = annotations.labels.into_iter().collect();
    let peers = network
        .peers
        .iter()
        .map(|peer| {
            Ok(net::OverlayPeer {
                ip: parse("address", &peer.addr)?,
                vtep: parse("address", &peer.vtep)?,
            })
        })
        .collect::<Result<_, String>>()?;
    let services = network
        .services
        .iter()
        .map(|service| {
            Ok(net::ServiceRecord {
                name: service.name.clone(),
                aliases: service.aliases.clone(),
                vip: optional("address", &service.vip)?,
                backends: addresses(&service.backends)?,
            })
        })
        .collect::<Result<_, String>>()?;
    let tasks = network
        .tasks
        .iter()
        .map(|task| Ok((task.name.clone(), parse("address", &task.addr)?)))
        .collect::<Result<_, String>>()?;
    Ok(net::OverlayState {
        network: local,
        local_vtep,
        data_path_port: match network.data_path_port {
            0 => net::DATA_PATH_PORT,
            port => u16::try_from(port).map_err(|_| format!("data path port {port} is not valid"))?,
        },
        peers,
        services,
        tasks,
    })
}

/// A network of the cluster as it would be programmed.
pub(crate) fn spec_of(network: &Network) -> Result<net::NetworkSpec, String> {
    let state = OverlayNetwork {
        id: network.id.clone(),
        spec: network.spec.clone(),
        vni: network.vni,
        ipam: network.ipam.clone(),
        ..OverlayNetwork::default()
    };
    Ok(overlay(&state, Ipv4Addr::UNSPECIFIED.into())?.network)
}

/// The routing mesh's state.
pub(super) fn ingress(config: &IngressConfig) -> Result<net::IngressState, String> {
    let port = |number: u32| u16::try_from(number).map_err(|_| format!("port {number} is not valid"));
    Ok(net::IngressState {
        network_id: config.network_id.clone(),
        node_address: parse("address", &config.node_addr)?,
        ports: config
            .ports
            .iter()
            .map(|wanted| {
                Ok(net::IngressPort {
                    protocol: match wanted.protocol() {
                        PortProtocol::Tcp => net::Protocol::Tcp,
                        PortProtocol::Udp => net::Protocol::Udp,
                        PortProtocol::Sctp => net::Protocol::Sctp,
                    },
                    published: port(wanted.published_port)?,
                    target: port(wanted.target_port)?,
                    backends: addresses(&wanted.backends)?,
                })
            })
            .collect::<Result<_, String>>()?,
    })
}

fn addresses(texts: &[String]) -> Result<Vec<IpAddr>, String> {
    texts.iter().map(|text| parse("address", text)).collect()
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{OverlayPeer, ServiceRecord};

    use super::*;

    #[test]
    fn converts_or_says_what_is_wrong() {
        let mut network = OverlayNetwork {
            id: "n".into(),
            vni: 4096,
            peers: vec![OverlayPeer {
                addr: "10.0.0.2".into(),
                vtep: "192.0.2.1".into(),
            }],
            services: vec![ServiceRecord {
                name: "web".into(),
                ..ServiceRecord::default()
            }],
            ..OverlayNetwork::default()
        };
        let vtep = "192.0.2.9".parse().unwrap();
        let state = overlay(&network, vtep).unwrap();
        assert_eq!(state.peers.len(), 1);
        assert_eq!((state.services[0].vip, state.data_path_port), (None, 4789));
        network.data_path_port = 7789;
        assert_eq!(overlay(&network, vtep).unwrap().data_path_port, 7789);
        network.data_path_port = 70_000;
        assert!(overlay(&network, vtep).unwrap_err().contains("70000"));
        network.data_path_port = 0;
        network.peers[0].addr = "10.0.0.2/24".into();
        assert!(overlay(&network, vtep).unwrap_err().contains("10.0.0.2/24"));
    }
}
