//! The tables in the daemon's namespace, one for each address family: NAT and isolation of bridges, published ports,
//! the routing mesh (IPv4 only).
//!
//! ```text
//! guard       prerouting raw    packets from or to 127.0.0.0/8 on our bridges are dropped: they have route_localnet;
//!                               so are those from elsewhere to ports that are published there
//! prerouting  nat               published ports, routing mesh -> backend
//! output      nat               the same for connections from this host, 127.0.0.1 included
//! input       filter            ports of the mesh without a backend are refused at once
//! forward     filter            within a bridge: yes; answers: yes; out of internal ones: no; to published ports:
//!                               yes; anything else to our bridges: no
//! postrouting nat               masquerade: out of bridges, from loopback, hairpins, into the mesh
//! ```
//!
//! A reset leaves the chains where they are and replaces rules and elements in one transaction, so that there is no
//! moment without translation: removing and making a table in one transaction takes the old hooks out first.
mod rules;

pub use rules::reset;

use std::net::{IpAddr, Ipv4Addr};

use super::{
    nft::{Element, Family, Transaction},
    slots::{CLASSES, Change},
};
use crate::Protocol;

const BRIDGES: &str = "bridges";
const MASQUERADED: &str = "masqueraded";
const INTERNAL: &str = "internal";
const ROUTED: &str = "routed";
const LEGS: &str = "legs";
const SAME: &str = "same";
const HAIRPINS: &str = "hairpins";
const PORTS: &str = "ports";
const ADDRESS_PORTS: &str = "address_ports";
const ROUTED_PORTS: &str = "routed_ports";
const REFUSED: &str = "refused";
const MESH: [&str; CLASSES.len()] = ["mesh1", "mesh16", "mesh64", "mesh1024", "mesh16384"];

/// A bridge of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Interface name.
    pub name: String,
    /// Nothing passes from it to elsewhere.
    pub internal: bool,
    /// Source NAT for what leaves, by family.
    pub masquerade: [bool; 2],
    /// Its addresses are reached without translation, by family.
    pub routed: [bool; 2],
}

/// A published port. Host and container address are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Address on the host; unspecified means all.
    pub host: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the host; 0 on a routed network, where the container's own is reached.
    pub port: u16,
    /// Container and port there.
    pub target: (IpAddr, u16),
}

/// Backend of a mesh port.
pub type Backend = (Ipv4Addr, u16);

fn ifname(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn port_key(protocol: Protocol, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![protocol.number(), 0, 0, 0, high, low, 0, 0]
}

fn target(address: IpAddr, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    [&octets(address)[..], &[high, low, 0, 0]].concat()
}

fn key(key: Vec<u8>) -> Element {
    Element { key, value: None }
}

fn bridge_elements(bridge: &Bridge, family: Family) -> Vec<(&'static str, Element)> {
    let name = ifname(&bridge.name);
    let at = usize::from(family == Family::V6);
    let mut elements = vec![
        (BRIDGES, key(name.clone())),
        (SAME, key([name.clone(), name.clone()].concat())),
    ];
    if bridge.internal {
        elements.push((INTERNAL, key(name.clone())));
    }
    if bridge.masquerade[at] && !bridge.internal {
        elements.push((MASQUERADED, key(name.clone())));
    }
    if bridge.routed[at] {
        elements.push((ROUTED, key(name)));
    }
    elements
}

/// Takes a bridge in.
pub fn add_bridge(tx: &mut Transaction, bridge: &Bridge, families: &[Family]) {
    for family in families {
        tx.on(*family);
        for (set, element) in bridge_elements(bridge, *family) {
            tx.add_elements(set, &[element]);
        }
    }
    tx.on(Family::V4);
}

/// Forgets a bridge.
pub fn remove_bridge(tx: &mut Transaction, bridge: &Bridge, families: &[Family]) {
    for family in families {
        tx.on(*family);
        for (set, element) in bridge_elements(bridge, *family) {
            tx.remove_elements(set, &[element]);
        }
    }
    tx.on(Family::V4);
}

fn leg_elements(name: &str) -> [(&'static str, Element); 3] {
    [BRIDGES, INTERNAL, LEGS].map(|set| (set, key(ifname(name))))
}

/// Takes in the leg into the ingress network: it is masqueraded to, and nothing but answers comes out of it.
pub fn add_leg(tx: &mut Transaction, name: &str) {
    for (set, element) in leg_elements(name) {
        tx.add_elements(set, &[element]);
    }
}

fn published_elements(port: &Published) -> (&'static str, Element) {
    let key = port_key(port.protocol, port.port);
    let value = Some(target(port.target.0, port.target.1));
    if port.port == 0 {
        let own = port_key(port.protocol, port.target.1);
        let key = [&octets(port.target.0)[..], &own].concat();
        (ROUTED_PORTS, Element { key, value: None })
    } else if port.host.is_unspecified() {
        (PORTS, Element { key, value })
    } else {
        let key = [&octets(port.host)[..], &key].concat();
        (ADDRESS_PORTS, Element { key, value })
    }
}

fn hairpin(address: IpAddr) -> Element {
    let bytes = octets(address);
    key([&bytes[..], &bytes].concat())
}

/// Publishes ports of one container.
pub fn add_ports(tx: &mut Transaction, ports: &[Published]) {
    for port in ports {
        let (set, element) = published_elements(port);
        tx.on(Family::of(port.target.0))
            .add_elements(set, &[element])
            .add_elements(HAIRPINS, &[hairpin(port.target.0)]);
    }
    tx.on(Family::V4);
}

/// Withdraws all ports of one container.
pub fn remove_ports(tx: &mut Transaction, ports: &[Published]) {
    let mut addresses: Vec<_> = ports.iter().map(|p| p.target.0).collect();
    addresses.sort_unstable();
    addresses.dedup();
    for port in ports {
        let (set, element) = published_elements(port);
        tx.on(Family::of(port.target.0)).remove_elements(set, &[element]);
    }
    for address in addresses {
        tx.on(Family::of(address))
            .remove_elements(HAIRPINS, &[hairpin(address)]);
    }
    tx.on(Family::V4);
}

/// Removes the tables.
pub fn remove(tx: &mut Transaction, families: &[Family]) {
    for family in families {
        tx.on(*family).remove_table();
    }
    tx.on(Family::V4);
}

fn mesh_key(protocol: Protocol, port: u16, slot: u32) -> Vec<u8> {
    // numgen leaves its result in host order.
    [&port_key(protocol, port)[..], &slot.to_ne_bytes()].concat()
}

/// Moves slots of a mesh port.
pub fn change_mesh(tx: &mut Transaction, protocol: Protocol, port: u16, changes: &[Change<Backend>]) {
    for (class, map) in MESH.into_iter().enumerate() {
        let of_class = || changes.iter().filter(|c| c.class == class);
        let element = |c: &Change<Backend>| Element {
            key: mesh_key(protocol, port, c.slot),
            value: c.new.map(|(address, port)| target(address.into(), port)),
        };
        let old: Vec<_> = of_class().filter(|c| c.old.is_some()).map(element).collect();
        let new: Vec<_> = of_class().filter(|c| c.new.is_some()).map(element).collect();
        tx.remove_elements(map, &old).add_elements(map, &new);
    }
}

/// Refuses connections to a mesh port without backends, or stops to.
pub fn refuse(tx: &mut Transaction, protocol: Protocol, port: u16, refused: bool) {
    let element = [key(port_key(protocol, port))];
    if refused {
        tx.add_elements(REFUSED, &element);
    } else {
        tx.remove_elements(REFUSED, &element);
    }
}
