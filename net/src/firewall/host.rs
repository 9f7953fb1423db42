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
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    expression::{Base, Compare, Ct, Expressions, Meta, R0, R4, R8, R16, Reject, Verdict, register},
    nft::{Chain, Element, Family, Hook, Set, Transaction, kind},
    slots::{CLASSES, Change},
};
use crate::Protocol;

const ESTABLISHED_RELATED: u32 = 2 | 4;
/// `IPS_DST_NAT`.
const DNAT: u32 = 1 << 5;
const IFNAME: (u32, u32) = (kind::INTERFACE, 16);
const TARGET: (u32, u32) = (kind::concat(&[kind::ADDRESS, kind::PORT]), 8);

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

/// The sets of a family's table.
fn sets(family: Family) -> Vec<Set> {
    let (address, length) = (family.kind(), family.length());
    let set = |name, key, value| Set { name, key, value };
    let port = (kind::concat(&[kind::PROTOCOL, kind::PORT]), 8);
    let address_port = (kind::concat(&[address, kind::PROTOCOL, kind::PORT]), length + 8);
    let target = Some((kind::concat(&[address, kind::PORT]), length + 4));
    let mut sets: Vec<Set> = [BRIDGES, MASQUERADED, INTERNAL, ROUTED, LEGS]
        .into_iter()
        .map(|name| set(name, IFNAME, None))
        .collect();
    sets.extend([
        set(
            SAME,
            (kind::concat(&[kind::INTERFACE, kind::INTERFACE]), 32),
            None,
        ),
        set(HAIRPINS, (kind::concat(&[address, address]), 2 * length), None),
        set(PORTS, port, target),
        set(ADDRESS_PORTS, address_port, target),
        set(ROUTED_PORTS, address_port, None),
        set(REFUSED, port, None),
    ]);
    if family == Family::V4 {
        let key = (kind::concat(&[kind::PROTOCOL, kind::PORT, kind::MARK]), 12);
        sets.extend(MESH.map(|name| set(name, key, Some(TARGET))));
    }
    sets
}

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

/// Makes the tables as if new: chains are kept, rules and elements replaced.
pub fn reset(tx: &mut Transaction, families: &[Family]) {
    for family in families {
        tx.on(*family).add_table();
        chains(tx);
        tx.flush_rules();
        for set in sets(*family) {
            tx.add_set(set).flush_set(set.name);
        }
        if *family == Family::V4 {
            guard(tx);
        }
        translate(tx, "prerouting");
        translate(tx, "output");
        input(tx);
        forward(tx);
        postrouting(tx);
    }
    tx.on(Family::V4);
}

fn chains(tx: &mut Transaction) {
    for (name, kind, hook, priority) in [
        ("guard", "filter", Hook::Prerouting, -300),
        ("prerouting", "nat", Hook::Prerouting, -100),
        ("output", "nat", Hook::Output, -100),
        ("input", "filter", Hook::Input, 0),
        ("forward", "filter", Hook::Forward, 0),
        ("postrouting", "nat", Hook::Postrouting, 100),
    ] {
        // IPv6 has no route_localnet: there is nothing to guard.
        if name != "guard" || tx.family() == Family::V4 {
            tx.add_chain(Chain {
                name,
                kind,
                hook,
                priority,
            });
        }
    }
}

fn address_port(e: &mut Expressions<'_, '_>) {
    let length = e.family.length();
    e.destination(R0)
        .meta(Meta::Protocol, register(length))
        .port(register(length + 4));
}

fn guard(tx: &mut Transaction) {
    // CVE-2020-8558: with route_localnet a container could otherwise reach services on the host's loopback.
    for offset in [12, 16] {
        tx.add_rule("guard", |e| {
            e.meta(Meta::InputName, R0).in_set(BRIDGES, R0, false);
            e.payload(Base::Network, offset, 1, R0)
                .cmp(R0, Compare::Eq, &[127])
                .verdict(Verdict::Drop);
        });
    }
    // Where the administrator has route_localnet on other interfaces, what is published on 127.0.0.1 stays closed to
    // neighbours on the link.
    tx.add_rule("guard", |e| {
        e.meta(Meta::InputName, R0).cmp(R0, Compare::Ne, &ifname("lo"));
        e.payload(Base::Network, 16, 1, R0).cmp(R0, Compare::Eq, &[127]);
        address_port(e);
        e.map(ADDRESS_PORTS, R0, R0).verdict(Verdict::Drop);
    });
}

fn translate(tx: &mut Transaction, chain: &str) {
    let port_register = register(tx.family().length());
    // IPv6 from loopback does not leave by other links, translated or not: the proxy has those connections.
    let inner = tx.family() == Family::V6 && chain == "output";
    let not_loopback = |e: &mut Expressions<'_, '_>| {
        if inner {
            e.destination(R0)
                .cmp(R0, Compare::Ne, &Ipv6Addr::LOCALHOST.octets());
        }
    };
    tx.add_rule(chain, |e| {
        not_loopback(e);
        e.local_destination();
        address_port(e);
        e.map(ADDRESS_PORTS, R0, R0).dnat(R0, Some(port_register));
    });
    tx.add_rule(chain, |e| {
        not_loopback(e);
        e.local_destination()
            .meta(Meta::Protocol, R0)
            .port(R4)
            .map(PORTS, R0, R0)
            .dnat(R0, Some(port_register));
    });
    if tx.family() == Family::V6 {
        return;
    }
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
    for (protocol, how) in [
        (Protocol::Tcp, Reject::TcpReset),
        (Protocol::Udp, Reject::PortUnreachable),
    ] {
        tx.add_rule("input", |e| {
            e.meta(Meta::Protocol, R0)
                .cmp(R0, Compare::Eq, &[protocol.number()]);
            e.port(R4).in_set(REFUSED, R0, false).reject(how);
        });
    }
}

fn between(e: &mut Expressions<'_, '_>) {
    e.meta(Meta::InputName, R0)
        .meta(Meta::OutputName, R16)
        .in_set(SAME, R0, false);
}

fn forward(tx: &mut Transaction) {
    tx.add_rule("forward", |e| {
        between(e);
        e.verdict(Verdict::Accept);
    });
    tx.add_rule("forward", |e| {
        e.ct_bits(Ct::State, ESTABLISHED_RELATED).verdict(Verdict::Accept);
    });
    tx.add_rule("forward", |e| {
        e.meta(Meta::InputName, R0)
            .in_set(INTERNAL, R0, false)
            .verdict(Verdict::Drop);
    });
    tx.add_rule("forward", |e| {
        e.ct_bits(Ct::Status, DNAT).verdict(Verdict::Accept);
    });
    tx.add_rule("forward", |e| {
        address_port(e);
        e.in_set(ROUTED_PORTS, R0, false).verdict(Verdict::Accept);
    });
    let icmp = if tx.family() == Family::V4 {
        libc::IPPROTO_ICMP
    } else {
        libc::IPPROTO_ICMPV6
    };
    tx.add_rule("forward", |e| {
        e.meta(Meta::OutputName, R0).in_set(ROUTED, R0, false);
        e.meta(Meta::Protocol, R0)
            .cmp(R0, Compare::Eq, &[u8::try_from(icmp).unwrap_or_default()])
            .verdict(Verdict::Accept);
    });
    tx.add_rule("forward", |e| {
        e.meta(Meta::OutputName, R0)
            .in_set(BRIDGES, R0, false)
            .verdict(Verdict::Drop);
    });
}

fn postrouting(tx: &mut Transaction) {
    tx.add_rule("postrouting", |e| {
        e.meta(Meta::InputName, R0).in_set(MASQUERADED, R0, false);
        e.meta(Meta::OutputName, R0)
            .in_set(BRIDGES, R0, true)
            .masquerade();
    });
    if tx.family() == Family::V4 {
        tx.add_rule("postrouting", |e| {
            e.meta(Meta::OutputName, R0).in_set(BRIDGES, R0, false);
            e.payload(Base::Network, 12, 1, R0)
                .cmp(R0, Compare::Eq, &[127])
                .masquerade();
        });
    }
    tx.add_rule("postrouting", |e| {
        between(e);
        e.ct_bits(Ct::Status, DNAT).masquerade();
    });
    // With br_netfilter the input interface is unknown here; the container that reaches itself still needs it.
    tx.add_rule("postrouting", |e| {
        let second = register(e.family.length());
        e.source(R0).destination(second).in_set(HAIRPINS, R0, false);
        e.ct_bits(Ct::Status, DNAT).masquerade();
    });
    tx.add_rule("postrouting", |e| {
        e.meta(Meta::OutputName, R0).in_set(LEGS, R0, false).masquerade();
    });
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
