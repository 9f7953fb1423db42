//! The committed state of a cluster that the tests give to managers.
use std::net::IpAddr;

use pontoon_net::{IngressPort, IngressState, OverlayState, Protocol, ServiceRecord};

use super::Fleet;

/// The overlay of the tests.
pub const ID: &str = "overlaynetwork1aaaaaaaaaa";

/// A service of an overlay.
pub fn service(name: &str, vip: Option<&str>, backends: &[&str]) -> ServiceRecord {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    ServiceRecord {
        name: name.into(),
        aliases: Vec::new(),
        vip: vip.map(address),
        backends: backends.iter().map(|b| address(b)).collect(),
    }
}

/// Gives the same state to all hosts.
pub async fn tell(fleet: &Fleet, state: impl Fn(IpAddr) -> OverlayState) {
    for host in &fleet.hosts {
        host.net()
            .set_overlay(state(host.address))
            .await
            .expect("the state is taken");
    }
}

/// The routing mesh with published ports and their backends.
pub fn mesh(number: usize, ports: &[(u16, &[&str])]) -> IngressState {
    let port = |(published, backends): &(u16, &[&str])| IngressPort {
        protocol: Protocol::Tcp,
        published: *published,
        target: 80,
        backends: backends.iter().map(|b| b.parse().expect("an address")).collect(),
    };
    IngressState {
        network_id: ID.into(),
        node_address: format!("10.0.1.{}/24", 100 + number).parse().expect("an address"),
        ports: ports.iter().map(port).collect(),
    }
}
