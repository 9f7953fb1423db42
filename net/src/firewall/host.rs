//! The table in the daemon's namespace: NAT and isolation of bridges, published ports, the routing mesh.
//!
//! ```text
//! guard       prerouting raw    packets from or to 127.0.0.0/8 on our bridges are dropped: they have route_localnet
//! prerouting  nat               published ports, routing mesh -> backend
//! output      nat               the same for connections from this host, 127.0.0.1 included
//! input       filter            ports of the mesh without a backend are refused at once
//! forward     filter            within a bridge: yes; answers: yes; out of internal ones: no; to published ports:
//!                               yes; anything else to our bridges: no
//! postrouting nat               masquerade: out of bridges, from loopback, hairpins, into the mesh
//! ```
use std::net::Ipv4Addr;

use super::{
    expression::{Base, Compare, Ct, Expressions, Meta, R0, R4, R8, R16, Reject, Verdict},
    nft::{Chain, Element, Hook, Set, Transaction, kind},
    slots::{CLASSES, Change},
};
use crate::Protocol;

const ESTABLISHED_RELATED: u32 = 2 | 4;
/// `IPS_DST_NAT`.
const DNAT: u32 = 1 << 5;
const IFNAME: (u32, u32) = (kind::INTERFACE, 16);
const TARGET: (u32, u32) = (kind::concat(&[kind::ADDRESS, kind::PORT]), 8);

const fn interfaces(name: &'static str) -> Set {
    Set {
        name,
        key: IFNAME,
        value: None,
    }
}

const BRIDGES: Set = interfaces("bridges");
const MASQUERADED: Set = interfaces("masqueraded");
const INTERNAL: Set = interfaces("internal");
const LEGS: Set = interfaces("legs");
const SAME: Set = Set {
    name: "same",
    key: (kind::concat(&[kind::INTERFACE, kind::INTERFACE]), 32),
    value: None,
};
const HAIRPINS: Set = Set {
    name: "hairpins",
    key: (kind::concat(&[kind::ADDRESS, kind::ADDRESS]), 8),
    value: None,
};
const PORTS: Set = Set {
    name: "ports",
    key: (kind::concat(&[kind::PROTOCOL, kind::PORT]), 8),
    value: Some(TARGET),
};
const ADDRESS_PORTS: Set = Set {
    name: "address_ports",
    key: (kind::concat(&[kind::ADDRESS, kind::PROTOCOL, kind::PORT]), 12),
    value: Some(TARGET),
};
const REFUSED: Set = Set {
    name: "refused",
    key: (kind::concat(&[kind::PROTOCOL, kind::PORT]), 8),
    value: None,
};
const MESH: [&str; CLASSES.len()] = ["mesh1", "mesh16", "mesh64", "mesh1024", "mesh16384"];

fn mesh(class: usize) -> Set {
    let key = (kind::concat(&[kind::PROTOCOL, kind::PORT, kind::MARK]), 12);
    Set {
        name: MESH[class],
        key,
        value: Some(TARGET),
    }
}

/// A bridge of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Interface name.
    pub name: String,
    /// Nothing passes from it to elsewhere.
    pub internal: bool,
    /// Source NAT for what leaves.
    pub masquerade: bool,
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Address on the host; unspecified means all.
    pub host: Ipv4Addr,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the host.
    pub port: u16,
    /// Container and port there.
    pub target: (Ipv4Addr, u16),
}

/// Backend of a mesh port.
pub type Backend = (Ipv4Addr, u16);

fn ifname(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

fn port_key(protocol: Protocol, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![protocol.number(), 0, 0, 0, high, low, 0, 0]
}

fn target((address, port): Backend) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    [&address.octets()[..], &[high, low, 0, 0]].concat()
}

fn key(key: Vec<u8>) -> Element {
    Element { key, value: None }
}

/// Makes the empty table anew, whatever was there.
pub fn reset(tx: &mut Transaction) {
    tx.remove_table().add_table();
    for set in [
        BRIDGES,
        MASQUERADED,
        INTERNAL,
        LEGS,
        SAME,
        HAIRPINS,
        PORTS,
        ADDRESS_PORTS,
        REFUSED,
    ] {
        tx.add_set(set);
    }
    for class in 0..CLASSES.len() {
        tx.add_set(mesh(class));
    }
    guard(tx);
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        tx.add_chain(Chain {
            name,
            kind: "nat",
            hook,
            priority: -100,
        });
        translate(tx, name);
    }
    input(tx);
    forward(tx);
    postrouting(tx);
}

/// CVE-2020-8558: with route_localnet a container could otherwise reach services on the host's loopback.
fn guard(tx: &mut Transaction) {
    tx.add_chain(Chain {
        name: "guard",
        kind: "filter",
        hook: Hook::Prerouting,
        priority: -300,
    });
    for offset in [12, 16] {
        tx.add_rule("guard", |e| {
            e.meta(Meta::InputName, R0).in_set(BRIDGES.name, R0, false);
            e.payload(Base::Network, offset, 1, R0)
                .cmp(R0, Compare::Eq, &[127])
                .verdict(Verdict::Drop);
        });
    }
}

fn translate(tx: &mut Transaction, chain: &str) {
    tx.add_rule(chain, |e| {
        e.local_destination()
            .destination(R0)
            .meta(Meta::Protocol, R4)
            .port(R8);
        e.map(ADDRESS_PORTS.name, R0, R0).dnat(R0, Some(R4));
    });
    tx.add_rule(chain, |e| {
        e.local_destination()
            .meta(Meta::Protocol, R0)
            .port(R4)
            .map(PORTS.name, R0, R0)
            .dnat(R0, Some(R4));
    });
    for (class, modulus) in CLASSES.into_iter().enumerate() {
        tx.add_rule(chain, |e| {
            e.local_destination()
                .meta(Meta::Protocol, R0)
                .port(R4)
                .random(modulus, R8);
            e.map(MESH[class], R0, R0).dnat(R0, Some(R4));
        });
    }
}

fn input(tx: &mut Transaction) {
    tx.add_chain(Chain {
        name: "input",
        kind: "filter",
        hook: Hook::Input,
        priority: 0,
    });
    for (protocol, how) in [
        (Protocol::Tcp, Reject::TcpReset),
        (Protocol::Udp, Reject::PortUnreachable),
    ] {
        tx.add_rule("input", |e| {
            e.meta(Meta::Protocol, R0)
                .cmp(R0, Compare::Eq, &[protocol.number()]);
            e.port(R4).in_set(REFUSED.name, R0, false).reject(how);
        });
    }
}

fn between(e: &mut Expressions<'_, '_>) {
    e.meta(Meta::InputName, R0)
        .meta(Meta::OutputName, R16)
        .in_set(SAME.name, R0, false);
}

fn forward(tx: &mut Transaction) {
    tx.add_chain(Chain {
        name: "forward",
        kind: "filter",
        hook: Hook::Forward,
        priority: 0,
    });
    tx.add_rule("forward", |e| {
        between(e);
        e.verdict(Verdict::Accept);
    });
    tx.add_rule("forward", |e| {
        e.ct_bits(Ct::State, ESTABLISHED_RELATED).verdict(Verdict::Accept);
    });
    tx.add_rule("forward", |e| {
        e.meta(Meta::InputName, R0)
            .in_set(INTERNAL.name, R0, false)
            .verdict(Verdict::Drop);
    });
    tx.add_rule("forward", |e| {
        e.ct_bits(Ct::Status, DNAT).verdict(Verdict::Accept);
    });
    tx.add_rule("forward", |e| {
        e.meta(Meta::OutputName, R0)
            .in_set(BRIDGES.name, R0, false)
            .verdict(Verdict::Drop);
    });
}

fn postrouting(tx: &mut Transaction) {
    tx.add_chain(Chain {
        name: "postrouting",
        kind: "nat",
        hook: Hook::Postrouting,
        priority: 100,
    });
    tx.add_rule("postrouting", |e| {
        e.meta(Meta::InputName, R0).in_set(MASQUERADED.name, R0, false);
        e.meta(Meta::OutputName, R0)
            .in_set(BRIDGES.name, R0, true)
            .masquerade();
    });
    tx.add_rule("postrouting", |e| {
        e.meta(Meta::OutputName, R0).in_set(BRIDGES.name, R0, false);
        e.payload(Base::Network, 12, 1, R0)
            .cmp(R0, Compare::Eq, &[127])
            .masquerade();
    });
    tx.add_rule("postrouting", |e| {
        between(e);
        e.ct_bits(Ct::Status, DNAT).masquerade();
    });
    // With br_netfilter the input interface is unknown here; the container that reaches itself still needs it.
    tx.add_rule("postrouting", |e| {
        e.source(R0).destination(R4).in_set(HAIRPINS.name, R0, false);
        e.ct_bits(Ct::Status, DNAT).masquerade();
    });
    tx.add_rule("postrouting", |e| {
        e.meta(Meta::OutputName, R0)
            .in_set(LEGS.name, R0, false)
            .masquerade();
    });
}

fn bridge_elements(bridge: &Bridge) -> Vec<(Set, Element)> {
    let name = ifname(&bridge.name);
    let mut elements = vec![
        (BRIDGES, key(name.clone())),
        (SAME, key([name.clone(), name.clone()].concat())),
    ];
    if bridge.internal {
        elements.push((INTERNAL, key(name.clone())));
    }
    if bridge.masquerade && !bridge.internal {
        elements.push((MASQUERADED, key(name)));
    }
    elements
}

/// Takes a bridge in.
pub fn add_bridge(tx: &mut Transaction, bridge: &Bridge) {
    for (set, element) in bridge_elements(bridge) {
        tx.add_elements(set.name, &[element]);
    }
}

/// Forgets a bridge.
pub fn remove_bridge(tx: &mut Transaction, bridge: &Bridge) {
    for (set, element) in bridge_elements(bridge) {
        tx.remove_elements(set.name, &[element]);
    }
}

fn leg_elements(name: &str) -> [(Set, Element); 3] {
    [BRIDGES, INTERNAL, LEGS].map(|set| (set, key(ifname(name))))
}

/// Takes in the leg into the ingress network: it is masqueraded to, and nothing but answers comes out of it.
pub fn add_leg(tx: &mut Transaction, name: &str) {
    for (set, element) in leg_elements(name) {
        tx.add_elements(set.name, &[element]);
    }
}

fn published_elements(port: &Published) -> (Set, Element) {
    let key = port_key(port.protocol, port.port);
    let value = Some(target(port.target));
    if port.host.is_unspecified() {
        (PORTS, Element { key, value })
    } else {
        (
            ADDRESS_PORTS,
            Element {
                key: [&port.host.octets()[..], &key].concat(),
                value,
            },
        )
    }
}

fn hairpin(address: Ipv4Addr) -> Element {
    key([address.octets(), address.octets()].concat())
}

/// Publishes ports of one container.
pub fn add_ports(tx: &mut Transaction, ports: &[Published]) {
    for port in ports {
        let (set, element) = published_elements(port);
        tx.add_elements(set.name, &[element])
            .add_elements(HAIRPINS.name, &[hairpin(port.target.0)]);
    }
}

/// Withdraws all ports of one container.
pub fn remove_ports(tx: &mut Transaction, ports: &[Published]) {
    let mut addresses: Vec<_> = ports.iter().map(|p| p.target.0).collect();
    addresses.sort_unstable();
    addresses.dedup();
    for port in ports {
        let (set, element) = published_elements(port);
        tx.remove_elements(set.name, &[element]);
    }
    for address in addresses {
        tx.remove_elements(HAIRPINS.name, &[hairpin(address)]);
    }
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
            value: c.new.map(target),
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
        tx.add_elements(REFUSED.name, &element);
    } else {
        tx.remove_elements(REFUSED.name, &element);
    }
}
