//! What the tests ask managers for: networks, ports, endpoints.
use std::{net::IpAddr, path::Path};

use pontoon_net::{EndpointSpec, IpamConfig, NetworkSpec, PortMapping, Protocol, SandboxMode, SandboxSpec};

use super::{Fleet, Host, inside};

/// A bridge network with an IPv4 subnet.
pub fn bridge(id: &str, subnet: &str) -> NetworkSpec {
    network(id, &[subnet], &[])
}

/// A bridge network with subnets and options.
pub fn network(id: &str, subnets: &[&str], options: &[(&str, &str)]) -> NetworkSpec {
    let mut spec = NetworkSpec::bridge(id, format!("net-{id}"));
    spec.ipam = subnets
        .iter()
        .map(|subnet| IpamConfig {
            subnet: Some(subnet.parse().expect("a subnet")),
            ..IpamConfig::default()
        })
        .collect();
    spec.enable_ipv6 = subnets.iter().any(|subnet| subnet.contains(':'));
    let pair = |(key, value): &(&str, &str)| (format!("com.docker.network.{key}"), (*value).to_owned());
    spec.options = options.iter().map(pair).collect();
    spec
}

/// A TCP port.
pub fn tcp(host_ip: &str, host_port: Option<u16>, container_port: u16) -> PortMapping {
    PortMapping {
        container_port,
        ..port(host_ip, host_port, Protocol::Tcp)
    }
}

/// Port 80 of a container.
pub fn port(host_ip: &str, host_port: Option<u16>, protocol: Protocol) -> PortMapping {
    PortMapping {
        host_ip: (!host_ip.is_empty()).then(|| host_ip.parse().expect("an address")),
        host_port,
        host_port_end: 0,
        container_port: 80,
        protocol,
    }
}

/// Gives switch and host IPv6 addresses on their link.
pub fn with_ipv6(fleet: &Fleet) {
    fleet.switch.ip("addr add fd99::254/64 dev br0 nodad");
    fleet.hosts[0].ns.ip("addr add fd99::1/64 dev eth0 nodad");
    fleet.hosts[0].ns.ip("-6 route add default via fd99::254");
}

/// A sandbox with an endpoint; its addresses.
pub async fn sandbox(host: &Host, id: &str, spec: EndpointSpec) -> [Option<IpAddr>; 2] {
    host.net()
        .create_sandbox(SandboxSpec::new(id, SandboxMode::Managed))
        .await
        .expect("a sandbox");
    let endpoint = host.net().attach(id, spec).await.expect("an endpoint");
    [endpoint.address, endpoint.address6].map(|net| net.map(|net| net.addr()))
}

/// An endpoint on a network.
pub fn on(network: &str) -> EndpointSpec {
    EndpointSpec {
        network_id: network.into(),
        ..EndpointSpec::default()
    }
}

/// A TCP server at an address, until the test ends; it tells its name and who asks.
pub fn server_at(ns: &Path, address: &'static str, name: &'static str) -> std::thread::JoinHandle<()> {
    let listener = inside(ns, move || std::net::TcpListener::bind(address)).expect("the port is free");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let Ok(peer) = stream.peer_addr() else { continue };
            let _ = std::io::Write::write_all(&mut stream, format!("{name} {}\n", peer.ip()).as_bytes());
        }
    })
}
