//! The names of one network, prepared for answering.
//!
//! Built and changed by the control connection, read by the receive loops, all on netd's one thread.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    rc::Rc,
};

use super::name;

/// The addresses of one name, and where the next answer starts in them.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
    // Each family turns on its own: clients ask for A and AAAA in turn, and a common counter would then always
    // stand at the same address when A is asked.
    next_v4: Cell<usize>,
    next_v6: Cell<usize>,
}

fn rotated<'a, T: Copy>(all: &'a [T], next: &Cell<usize>) -> impl Iterator<Item = T> + use<'a, T> {
    let start = next.get();
    next.set(if start + 1 < all.len() { start + 1 } else { 0 });
    let (tail, head) = all.split_at(start.min(all.len()));
    head.iter().chain(tail).copied()
}

impl Entry {
    fn new(addresses: &[IpAddr]) -> Self {
        let mut entry = Self::default();
        let mut seen = BTreeSet::new();
        for address in addresses.iter().filter(|a| seen.insert(**a)) {
            match address {
                IpAddr::V4(v4) => entry.v4.push(*v4),
                IpAddr::V6(v6) => entry.v6.push(*v6),
            }
        }
        entry
    }

    /// The IPv4 addresses, each time from the next one on.
    pub(crate) fn v4(&self) -> impl Iterator<Item = Ipv4Addr> + use<'_> {
        rotated(&self.v4, &self.next_v4)
    }

    /// The IPv6 addresses, each time from the next one on.
    pub(crate) fn v6(&self) -> impl Iterator<Item = Ipv6Addr> + use<'_> {
        rotated(&self.v6, &self.next_v6)
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<'_> {
        let v4 = self.v4.iter().map(|a| IpAddr::V4(*a));
        v4.chain(self.v6.iter().map(|a| IpAddr::V6(*a)))
    }
}

/// A name as the target of a pointer. The order is the preference: the name that fits the address most closely,
/// that is the one with the fewest addresses (a task rather than its service).
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    addresses: usize,
    is_group: bool,
    len: usize,
    wire: Rc<[u8]>,
}

impl Target {
    fn new(wire: &Rc<[u8]>, entry: &Entry) -> Self {
        let is_group = wire.starts_with(b"\x05tasks");
        Self {
            addresses: entry.v4.len() + entry.v6.len(),
            is_group,
            len: wire.len(),
            wire: Rc::clone(wire),
        }
    }
}

/// Names to addresses and back.
#[derive(Debug, Default)]
pub(crate) struct Table {
    names: HashMap<Rc<[u8]>, Entry>,
    targets: HashMap<IpAddr, BTreeSet<Target>>,
}

impl Table {
    /// The table of these records.
    pub(crate) fn new(records: &BTreeMap<String, Vec<IpAddr>>) -> Self {
        let mut table = Self::default();
        for (name, addresses) in records {
            table.set(name, addresses);
        }
        table
    }

    /// Gives a name these addresses and no others. A name that DNS cannot express (a container's name may be
    /// longer than a label) is left out: refusing would cost the network all its other names.
    pub(crate) fn set(&mut self, name: &str, addresses: &[IpAddr]) {
        let Some(wire) = name::to_wire(name) else {
            tracing::warn!(name, "this name cannot be expressed in DNS and is left out");
            return;
        };
        self.forget(&wire);
        let wire: Rc<[u8]> = wire.into();
        let entry = Entry::new(addresses);
        for address in entry.addresses() {
            self.targets
                .entry(address)
                .or_default()
                .insert(Target::new(&wire, &entry));
        }
        self.names.insert(wire, entry);
    }

    /// Takes a name out.
    pub(crate) fn unset(&mut self, name: &str) {
        if let Some(wire) = name::to_wire(name) {
            self.forget(&wire);
        }
    }

    fn forget(&mut self, wire: &[u8]) {
        let Some((wire, entry)) = self.names.remove_entry(wire) else {
            return;
        };
        for address in entry.addresses() {
            let Some(targets) = self.targets.get_mut(&address) else {
                continue;
            };
            targets.remove(&Target::new(&wire, &entry));
            if targets.is_empty() {
                self.targets.remove(&address);
            }
        }
    }

    /// The entry of a lower-cased wire name.
    pub(crate) fn entry(&self, wire: &[u8]) -> Option<&Entry> {
        self.names.get(wire)
    }

    /// The name, in wire form, that fits an address best.
    pub(crate) fn pointer(&self, address: IpAddr) -> Option<&[u8]> {
        Some(&self.targets.get(&address)?.first()?.wire)
    }
}
