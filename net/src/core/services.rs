//! Services of an overlay as its sandboxes see them: virtual addresses in their tables, names for netd.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

use super::{Core, Overlay, removal::duplicate, v4};
use crate::{
    Error, OverlayState, Result, ServiceRecord,
    firewall::{
        Stale,
        nft::Transaction,
        sandbox as table,
        slots::{Change, Slots},
        tracked,
    },
    netlink::Protocol,
};

/// What is known of a network's services.
#[derive(Debug, Default)]
pub struct Services {
    slots: BTreeMap<Ipv4Addr, Slots<Ipv4Addr>>,
    /// Names from the cluster's state.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// Addresses of the network's endpoints on all nodes.
    endpoints: BTreeSet<Ipv4Addr>,
    /// Virtual addresses with backends that they lead to no more, whose endpoints are still there: such a backend is leaving,
    /// and may end what it has begun.
    draining: BTreeSet<(Ipv4Addr, Ipv4Addr)>,
}

/// What changes for one virtual address.
#[derive(Debug)]
struct VipChange {
    vip: Ipv4Addr,
    /// `Some(true)` if it is new, `Some(false)` if it goes.
    known: Option<bool>,
    slots: Vec<Change<Ipv4Addr>>,
}

impl VipChange {
    fn write(&self, tx: &mut Transaction) {
        if let Some(known) = self.known {
            table::set_vip(tx, self.vip, known);
        }
        table::change_service(tx, self.vip, &self.slots);
    }
}

impl Services {
    /// Moves to the wanted backends and returns what changes.
    fn update(&mut self, wanted: &BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>) -> Vec<VipChange> {
        let mut changes = Vec::new();
        let gone: Vec<_> = self
            .slots
            .keys()
            .filter(|vip| !wanted.contains_key(vip))
            .copied()
            .collect();
        for vip in gone {
            if let Some(mut slots) = self.slots.remove(&vip) {
                changes.push(VipChange {
                    vip,
                    known: Some(false),
                    slots: slots.update(&[]),
                });
            }
        }
        for (vip, backends) in wanted {
            let known = (!self.slots.contains_key(vip)).then_some(true);
            let slots = self.slots.entry(*vip).or_default().update(backends);
            if known.is_some() || !slots.is_empty() {
                changes.push(VipChange {
                    vip: *vip,
                    known,
                    slots,
                });
            }
        }
        changes
    }

    /// Everything, as changes from nothing (`add`) or to nothing.
    fn all(&self, add: bool) -> Vec<VipChange> {
        let change = |vip: &Ipv4Addr, slots: &Slots<Ipv4Addr>| VipChange {
            vip: *vip,
            known: Some(add),
            slots: slots
                .iter()
                .map(|(class, slot, owner)| Change {
                    class,
                    slot,
                    old: (!add).then_some(owner),
                    new: add.then_some(owner),
                })
                .collect(),
        };
        self.slots.iter().map(|(vip, slots)| change(vip, slots)).collect()
    }

    /// Whether an address belongs to an endpoint of the network.
    pub fn has_endpoint(&self, address: Ipv4Addr) -> bool {
        self.endpoints.contains(&address)
    }

    /// Addresses of the network's endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.endpoints.iter().copied()
    }

    /// Translated connections to addresses of `subnet` that nobody has.
    pub fn astray(&self, subnet: IpNet) -> Stale {
        Stale::Astray {
            subnet,
            endpoints: self.endpoints.clone(),
        }
    }

    /// Nobody remembers who was leaving when the daemon before ended. An endpoint that no service leads to may be one that was: the
    /// connections to it end with it.
    fn suspect(&mut self, services: &[ServiceRecord]) {
        let backends = services.iter().flat_map(|service| &service.backends);
        let named: BTreeSet<Ipv4Addr> = backends.filter_map(|b| v4(*b).ok()).collect();
        let (slots, endpoints) = (&self.slots, &self.endpoints);
        let pairs = slots
            .keys()
            .flat_map(|vip| endpoints.difference(&named).map(|backend| (*vip, *backend)));
        self.draining.extend(pairs);
    }

    /// Pairs of a virtual address and a backend whose connections are void: it leads there no more, and nobody is there.
    fn lost(&mut self, changes: &[VipChange]) -> BTreeSet<(Ipv4Addr, Ipv4Addr)> {
        let old = changes
            .iter()
            .flat_map(|c| c.slots.iter().filter_map(|s| Some((c.vip, s.old?))));
        let mut gone: BTreeSet<_> = old.collect();
        gone.append(&mut self.draining);
        let still: BTreeSet<_> = self
            .slots
            .iter()
            .flat_map(|(vip, slots)| slots.iter().map(|(_, _, backend)| (*vip, backend)))
            .collect();
        gone.retain(|pair| !still.contains(pair));
        let (draining, lost): (BTreeSet<_>, BTreeSet<_>) = gone
            .into_iter()
            .partition(|(vip, backend)| self.slots.contains_key(vip) && self.has_endpoint(*backend));
        self.draining = draining;
        lost
    }
}

fn names(state: &OverlayState) -> BTreeMap<String, Vec<IpAddr>> {
    let mut names: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let mut add = |name: &str, addresses: &[IpAddr]| {
        let known = names.entry(name.to_lowercase()).or_default();
        known.extend(
            addresses
                .iter()
                .filter(|a| !known.contains(a))
                .copied()
                .collect::<Vec<_>>(),
        );
    };
    for service in &state.services {
        let own = service.vip.map_or(service.backends.clone(), |vip| vec![vip]);
        for name in std::iter::once(&service.name).chain(&service.aliases) {
            add(name, &own);
        }
        add(&format!("tasks.{}", service.name), &service.backends);
    }
    for (name, address) in &state.tasks {
        add(name, &[*address]);
    }
    names
}

fn balanced(services: &[ServiceRecord]) -> Result<BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>> {
    let mut wanted = BTreeMap::new();
    for service in services {
        if let Some(vip) = service.vip {
            let backends = service
                .backends
                .iter()
                .map(|b| v4(*b))
                .collect::<Result<Vec<_>>>()?;
            wanted.insert(v4(vip)?, backends);
        }
    }
    Ok(wanted)
}

impl Overlay {
    /// Whether there is any virtual address.
    pub fn has_services(&self) -> bool {
        !self.services.slots.is_empty()
    }

    /// Writes all services to a table that has none of them.
    pub fn write_services(&self, tx: &mut Transaction) {
        self.services.all(true).iter().for_each(|change| change.write(tx));
    }
}

impl Core {
    /// Takes the services of a network's committed state: only slots that change hands are touched.
    ///
    /// # Errors
    /// What the kernel refuses in any sandbox; the others were served.
    pub fn set_services(&mut self, id: &str, state: &OverlayState, synced: bool) -> Result<()> {
        let wanted = balanced(&state.services)?;
        let overlay = self
            .overlays
            .get_mut(id)
            .ok_or_else(|| Error::NetworkNotFound { id: id.into() })?;
        let services = &mut overlay.services;
        services.names = names(state);
        services.endpoints = state.peers.iter().filter_map(|peer| v4(peer.ip).ok()).collect();
        let changes = services.update(&wanted);
        if !synced {
            services.suspect(&state.services);
        }
        let lost = services.lost(&changes);
        if changes.is_empty() && lost.is_empty() && synced {
            return Ok(());
        }
        let mut result = Ok(());
        for sandbox in self.sandboxes_on(id) {
            let done = if !synced {
                self.rewrite_services(&sandbox, id)
            } else if changes.is_empty() {
                Ok(())
            } else {
                self.sandbox_table(&sandbox, |tx| changes.iter().for_each(|change| change.write(tx)))
            };
            result = result.and(done).and(self.forget_connections(&sandbox, &lost));
        }
        result
    }

    /// After a restart only the kernel knows what a sandbox's table holds of a network: that is replaced in one
    /// transaction, so that no connection meets a state between.
    fn rewrite_services(&mut self, sandbox: &str, network: &str) -> Result<()> {
        let Some(overlay) = self.overlays.get(network) else {
            return Ok(());
        };
        let subnet = overlay.spec.subnet();
        let changes = overlay.services.all(true);
        let mut socket = self.socket_inside(sandbox, Protocol::Netfilter)?;
        let known = table::known_services(&mut socket, |vip| {
            subnet.is_some_and(|s| s.contains(&IpAddr::V4(vip)))
        })?;
        self.sandbox_table(sandbox, |tx| {
            table::remove_known(tx, &known);
            changes.iter().for_each(|change| change.write(tx));
        })?;
        match (subnet, self.overlays.get(network)) {
            (Some(subnet), Some(overlay)) => {
                let astray = overlay.services.astray(subnet);
                self.forget_inside(sandbox, astray)
            }
            _ => Ok(()),
        }
    }

    fn forget_connections(&mut self, sandbox: &str, lost: &BTreeSet<(Ipv4Addr, Ipv4Addr)>) -> Result<()> {
        if lost.is_empty() {
            return Ok(());
        }
        self.forget_inside(sandbox, Stale::Services(lost.clone()))
    }

    fn forget_inside(&mut self, sandbox: &str, stale: Stale) -> Result<()> {
        let state = self.sandbox_mut(sandbox)?;
        if let Some(socket) = state.nft.as_mut()
            && tracked(socket)? == 0
        {
            return Ok(());
        }
        let Some(netns) = &state.netns else { return Ok(()) };
        let netns = duplicate(netns)?;
        self.stale.push((Some(netns), stale));
        Ok(())
    }

    /// Gives a newly attached sandbox the services of a network.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn add_services(&mut self, sandbox: &str, network: &str) -> Result<()> {
        let changes = self
            .overlays
            .get(network)
            .map(|o| o.services.all(true))
            .unwrap_or_default();
        self.sandbox_table(sandbox, |tx| changes.iter().for_each(|change| change.write(tx)))
    }

    /// Takes the services of a network from a sandbox that leaves it.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn remove_services(&mut self, sandbox: &str, network: &str) -> Result<()> {
        let changes = self
            .overlays
            .get(network)
            .map(|o| o.services.all(false))
            .unwrap_or_default();
        self.sandbox_table(sandbox, |tx| changes.iter().for_each(|change| change.write(tx)))
    }
}
