//! The fixed part of the host's tables: sets, chains and rules.
use std::net::Ipv6Addr;

use super::{
    ADDRESS_PORTS, BRIDGES, HAIRPINS, INTERNAL, LEGS, MASQUERADED, MESH, PORTS, REFUSED, ROUTED,
    ROUTED_PORTS, SAME, ifname,
};
use crate::{
    Protocol,
    firewall::{
        expression::{Base, Compare, Ct, Expressions, Meta, R0, R4, R8, R16, Reject, Verdict, register},
        nft::{Chain, Family, Hook, Set, Transaction, kind},
        slots::CLASSES,
    },
};

const ESTABLISHED_RELATED: u32 = 2 | 4;
/// `IPS_DST_NAT`.
const DNAT: u32 = 1 << 5;
const IFNAME: (u32, u32) = (kind::INTERFACE, 16);
const TARGET: (u32, u32) = (kind::concat(&[kind::ADDRESS, kind::PORT]), 8);

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
