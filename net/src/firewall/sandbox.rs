//! The table in a container's namespace: virtual addresses of services and the redirect of DNS queries to netd.
//!
//! ```text
//! output  nat     127.0.0.11:53 -> netd's port; vip -> (vip . random slot) -> backend
//! refuse  filter  a vip that was not translated has no backend: refuse at once
//! ```
use std::net::Ipv4Addr;

use super::{
    expression::{Compare, Meta, R0, R4, Reject},
    nft::{self, Chain, Element, Hook, Set, Transaction, kind},
    slots::{CLASSES, Change},
};
use crate::{Protocol, Result, netlink::Socket};

/// Where containers ask for names, as in Docker.
pub const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

const DNS: Set = Set {
    name: "dns",
    key: (kind::PROTOCOL, 1),
    value: Some((kind::PORT, 2)),
};
const VIPS: Set = Set {
    name: "vips",
    key: (kind::ADDRESS, 4),
    value: None,
};
const SERVICES: [&str; CLASSES.len()] = [
    "services1",
    "services16",
    "services64",
    "services1024",
    "services16384",
];

/// Makes the table with everything but elements; it must not be there. (Removing it in the same transaction would
/// leave garbage for which the kernel waits when the socket is closed.)
pub fn create(tx: &mut Transaction) {
    tx.add_table().add_set(DNS).add_set(VIPS);
    for name in SERVICES {
        let key = (kind::concat(&[kind::ADDRESS, kind::MARK]), 8);
        tx.add_set(Set {
            name,
            key,
            value: Some((kind::ADDRESS, 4)),
        });
    }
    tx.add_chain(Chain {
        name: "output",
        kind: "nat",
        hook: Hook::Output,
        priority: -100,
    });
    tx.add_rule("output", |e| {
        e.destination(R0).cmp(R0, Compare::Eq, &DNS_ADDRESS.octets());
        e.port(R0).cmp(R0, Compare::Eq, &53u16.to_be_bytes());
        e.meta(Meta::Protocol, R0).map(DNS.name, R0, R4);
        e.immediate(R0, &DNS_ADDRESS.octets()).dnat(R0, Some(R4));
    });
    for (class, modulus) in CLASSES.into_iter().enumerate() {
        tx.add_rule("output", |e| {
            e.destination(R0).in_set(VIPS.name, R0, false).random(modulus, R4);
            e.map(SERVICES[class], R0, R0).dnat(R0, None);
        });
    }
    tx.add_chain(Chain {
        name: "refuse",
        kind: "filter",
        hook: Hook::Output,
        priority: 0,
    });
    tx.add_rule("refuse", |e| {
        e.destination(R0).in_set(VIPS.name, R0, false);
        e.meta(Meta::Protocol, R0)
            .cmp(R0, Compare::Eq, &[Protocol::Tcp.number()])
            .reject(Reject::TcpReset);
    });
    tx.add_rule("refuse", |e| {
        e.destination(R0)
            .in_set(VIPS.name, R0, false)
            .reject(Reject::PortUnreachable);
    });
}

/// Sends DNS queries to netd's ports, or elsewhere than before.
pub fn set_dns(tx: &mut Transaction, udp: u16, tcp: u16) {
    let element = |protocol: Protocol, port: u16| Element {
        key: vec![protocol.number()],
        value: Some(port.to_be_bytes().to_vec()),
    };
    tx.flush_set(DNS.name);
    tx.add_elements(
        DNS.name,
        &[element(Protocol::Udp, udp), element(Protocol::Tcp, tcp)],
    );
}

/// Removes all elements; chains and rules stay.
pub fn empty(tx: &mut Transaction) {
    for name in [DNS.name, VIPS.name].into_iter().chain(SERVICES) {
        tx.flush_set(name);
    }
}

/// DNS queries go where they were sent.
pub fn clear_dns(tx: &mut Transaction) {
    tx.flush_set(DNS.name);
}

/// Knows a virtual address, or forgets it.
pub fn set_vip(tx: &mut Transaction, vip: Ipv4Addr, known: bool) {
    let element = [Element {
        key: vip.octets().to_vec(),
        value: None,
    }];
    if known {
        tx.add_elements(VIPS.name, &element);
    } else {
        tx.remove_elements(VIPS.name, &element);
    }
}

/// Elements of a table's sets.
pub type Known = Vec<(&'static str, Vec<Element>)>;

/// What a table holds of the virtual addresses for which `ours` is true. After a restart only the kernel knows.
///
/// # Errors
/// [`crate::Error::Netlink`].
pub fn known_services(socket: &mut Socket, ours: impl Fn(Ipv4Addr) -> bool) -> Result<Known> {
    let mut known = Vec::new();
    for set in [VIPS.name].into_iter().chain(SERVICES) {
        let mut elements = nft::read_set(socket, set)?;
        elements.retain(|e| {
            let address = e.key.get(..4).and_then(|b| <[u8; 4]>::try_from(b).ok());
            address.is_some_and(|b| ours(Ipv4Addr::from(b)))
        });
        known.push((set, elements));
    }
    Ok(known)
}

/// Removes what [`known_services`] found.
pub fn remove_known(tx: &mut Transaction, known: &Known) {
    for (set, elements) in known {
        tx.remove_elements(set, elements);
    }
}

/// Moves slots of a virtual address.
pub fn change_service(tx: &mut Transaction, vip: Ipv4Addr, changes: &[Change<Ipv4Addr>]) {
    for (class, map) in SERVICES.into_iter().enumerate() {
        let of_class = || changes.iter().filter(|c| c.class == class);
        // numgen leaves its result in host order.
        let element = |c: &Change<Ipv4Addr>| Element {
            key: [vip.octets(), c.slot.to_ne_bytes()].concat(),
            value: c.new.map(|a| a.octets().to_vec()),
        };
        let old: Vec<_> = of_class().filter(|c| c.old.is_some()).map(element).collect();
        let new: Vec<_> = of_class().filter(|c| c.new.is_some()).map(element).collect();
        tx.remove_elements(map, &old).add_elements(map, &new);
    }
}
