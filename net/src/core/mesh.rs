//! The routing mesh on this node: a leg into the ingress network, and published ports that lead to tasks anywhere.
//! Answers must come back through the node that translated, so it masquerades: tasks see the leg's address.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    os::fd::AsFd,
};

use super::{Core, mac, overlay::BRIDGE_INDEX, v4};
use crate::{
    Error, IngressConflict, IngressState, Protocol, Result,
    firewall::{
        Stale,
        host::{self, Backend},
        nft::Transaction,
        slots::{Change, Slots},
    },
    netlink::{Batch, Neighbour, Veth},
    netns, record,
};

/// The leg's name in the daemon's namespace and in the hidden one.
pub const LEG: &str = "pontoon_mesh";
const RECORD: &str = "mesh";

/// The mesh as it is programmed.
#[derive(Debug)]
pub struct Mesh {
    state: IngressState,
    ports: BTreeMap<(Protocol, u16), Slots<Backend>>,
    /// Ports with backends that they lead to no more, but that may end what they have begun: their endpoints are still there.
    draining: BTreeSet<(Protocol, u16, Backend)>,
}

impl Mesh {
    /// The ingress network.
    pub fn network_id(&self) -> &str {
        &self.state.network_id
    }

    /// This node's address on it.
    pub fn address(&self) -> Option<Ipv4Addr> {
        v4(self.state.node_address.addr()).ok()
    }

    /// Writes all of it to a table that has none of it.
    pub fn write(&self, tx: &mut Transaction) {
        host::add_leg(tx, LEG);
        for ((protocol, port), slots) in &self.ports {
            if slots.is_empty() {
                host::refuse(tx, *protocol, *port, true);
            }
            let all: Vec<_> = slots
                .iter()
                .map(|(class, slot, owner)| Change {
                    class,
                    slot,
                    old: None,
                    new: Some(owner),
                })
                .collect();
            host::change_mesh(tx, *protocol, *port, &all);
        }
    }
}

#[derive(Debug)]
struct PortChange {
    key: (Protocol, u16),
    /// `Some` if the port begins or ceases to be refused.
    refused: Option<bool>,
    slots: Vec<Change<Backend>>,
}

impl Core {
    /// Takes the committed state of the routing mesh; ports that this node can't serve are returned.
    ///
    /// # Errors
    /// [`Error::NetworkNotFound`] if the ingress network was not made known by `set_overlay`, or what the kernel
    /// refuses.
    pub fn set_ingress(&mut self, state: IngressState) -> Result<Vec<IngressConflict>> {
        let id = &state.network_id;
        if !self.overlays.contains_key(id) {
            return Err(Error::NetworkNotFound { id: id.clone() });
        }
        let moved = self
            .mesh
            .as_ref()
            .is_some_and(|m| m.state.network_id != *id || m.state.node_address != state.node_address);
        if moved {
            self.remove_mesh().into_iter().next().map_or(Ok(()), Err)?;
        }
        record::write(&self.config.run_dir, RECORD, &state)?;
        if self.mesh.is_none() {
            let bare = IngressState {
                ports: Vec::new(),
                ..state.clone()
            };
            self.mesh = Some(Mesh {
                state: bare,
                ports: BTreeMap::new(),
                draining: BTreeSet::new(),
            });
            if let Err(error) = self
                .make_leg()
                .and_then(|()| self.firewall(|tx| host::add_leg(tx, LEG)))
            {
                let _ = self.remove_mesh();
                return Err(error);
            }
        }
        self.set_mesh_ports(state)
    }

    /// Makes the leg, in both namespaces.
    pub fn make_leg(&mut self) -> Result<()> {
        let Some(mesh) = &self.mesh else { return Ok(()) };
        let ip = v4(mesh.state.node_address.addr())?;
        let id = mesh.state.network_id.clone();
        let overlay = self
            .overlays
            .get_mut(&id)
            .ok_or_else(|| Error::NetworkNotFound { id: id.clone() })?;
        let index = overlay.take_index();
        let mut batch = Batch::default();
        batch.add_veth(&Veth {
            name: LEG,
            index,
            master: Some(BRIDGE_INDEX),
            mtu: overlay.mtu,
            mac: None,
            silent: false,
            peer_namespace: self.home.as_fd(),
            peer_name: LEG,
            peer_index: 0,
            peer_mac: Some(mac(ip.into())),
        });
        overlay.connect(&mut batch, LEG, index, ip);
        overlay.route.transact(batch)?;
        self.set_leg()
    }

    /// Gives the leg its address in the daemon's namespace.
    pub fn set_leg(&mut self) -> Result<()> {
        let Some(mesh) = &self.mesh else { return Ok(()) };
        let (address, id) = (mesh.state.node_address, mesh.state.network_id.clone());
        let link = self.route.link(LEG)?.ok_or_else(|| Error::Netlink {
            operation: format!("find link {LEG}"),
            source: std::io::Error::from_raw_os_error(libc::ENODEV),
        })?;
        let mut batch = Batch::default();
        batch.add_address(link.index, address).set_up(link.index);
        self.route.transact(batch)?;
        if let Some(overlay) = self.overlays.get_mut(&id) {
            overlay.route.wait_running(LEG)?;
        }
        netns::disable_ipv6(LEG)?;
        netns::set_sysctl(&format!("net.ipv4.conf.{LEG}.route_localnet"), "1")?;
        netns::set_sysctl("net.ipv4.ip_forward", "1")
    }

    fn set_mesh_ports(&mut self, state: IngressState) -> Result<Vec<IngressConflict>> {
        let mut conflicts = Vec::new();
        let mut changes = Vec::new();
        let Some(mesh) = self.mesh.as_mut() else {
            return Ok(conflicts);
        };
        let mut wanted: BTreeMap<(Protocol, u16), Vec<Backend>> = BTreeMap::new();
        for port in &state.ports {
            let backends = port
                .backends
                .iter()
                .map(|b| Ok((v4(*b)?, port.target)))
                .collect::<Result<_>>()?;
            wanted.insert((port.protocol, port.published), backends);
        }
        let gone: Vec<_> = mesh
            .ports
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .copied()
            .collect();
        for key in gone {
            let mut slots = mesh.ports.remove(&key).unwrap_or_default();
            let refused = slots.is_empty().then_some(false);
            changes.push(PortChange {
                key,
                refused,
                slots: slots.update(&[]),
            });
            self.ports.release(key.0, Ipv4Addr::UNSPECIFIED.into(), key.1);
        }
        for (key, backends) in wanted {
            let is_new = !mesh.ports.contains_key(&key);
            if is_new && let Err(error) = self.ports.take(key.0, Ipv4Addr::UNSPECIFIED.into(), key.1, None) {
                conflicts.push(IngressConflict {
                    protocol: key.0,
                    published: key.1,
                    error,
                });
                continue;
            }
            let slots = mesh.ports.entry(key).or_default();
            let was_refused = !is_new && slots.is_empty();
            let slot_changes = slots.update(&backends);
            let refused = (slots.is_empty() != was_refused).then_some(slots.is_empty());
            changes.push(PortChange {
                key,
                refused,
                slots: slot_changes,
            });
        }
        mesh.state = state;
        self.program_mesh(&changes)?;
        Ok(conflicts)
    }

    fn program_mesh(&mut self, changes: &[PortChange]) -> Result<()> {
        if changes.iter().all(|c| c.refused.is_none() && c.slots.is_empty()) {
            return Ok(());
        }
        self.firewall(|tx| {
            for change in changes {
                if let Some(refused) = change.refused {
                    host::refuse(tx, change.key.0, change.key.1, refused);
                }
                host::change_mesh(tx, change.key.0, change.key.1, &change.slots);
            }
        })?;
        let old = changes
            .iter()
            .flat_map(|c| c.slots.iter().filter_map(|s| Some((c.key.0, c.key.1, s.old?))));
        let old = old.collect();
        self.forget_mesh_connections(old);
        Ok(())
    }

    /// Forgets connections by published ports to backends that these lead to no more and that are gone. `old` are those that have lost
    /// a slot now; one whose endpoint is still there is leaving, and may end what it has begun.
    pub fn forget_mesh_connections(&mut self, old: BTreeSet<(Protocol, u16, Backend)>) {
        let Some(mesh) = &mut self.mesh else { return };
        let overlay = self.overlays.get(&mesh.state.network_id);
        let mut gone = old;
        gone.append(&mut mesh.draining);
        let leads = |(protocol, port, backend): &(Protocol, u16, Backend)| {
            let slots = mesh.ports.get(&(*protocol, *port));
            slots.is_some_and(|slots| slots.iter().any(|(_, _, owner)| owner == *backend))
        };
        gone.retain(|entry| !leads(entry));
        let (draining, lost): (BTreeSet<_>, BTreeSet<_>) =
            gone.into_iter().partition(|(protocol, port, backend)| {
                let published = mesh.ports.contains_key(&(*protocol, *port));
                published && overlay.is_some_and(|overlay| overlay.services.has_endpoint(backend.0))
            });
        mesh.draining = draining;
        if !lost.is_empty() {
            let lost = lost.into_iter();
            let lost = lost.map(|(protocol, port, backend)| (protocol.number(), port, backend));
            self.stale.push((None, Stale::Mesh(lost.collect())));
        }
    }

    /// The first state of the ingress network since a restart. Nobody remembers who was leaving then: an endpoint that no port leads to
    /// may be one that was, and whoever has left meanwhile can't be asked.
    pub fn suspect_mesh_connections(&mut self) {
        let Some(mesh) = &mut self.mesh else { return };
        let Some(overlay) = self.overlays.get(&mesh.state.network_id) else {
            return;
        };
        let slots = mesh.ports.values().flat_map(Slots::iter);
        let named: BTreeSet<Ipv4Addr> = slots.map(|(_, _, backend)| backend.0).collect();
        let endpoints = overlay.services.endpoints().filter(|ip| !named.contains(ip));
        for endpoint in endpoints {
            let ports = mesh.state.ports.iter();
            let pairs = ports.map(|port| (port.protocol, port.published, (endpoint, port.target)));
            mesh.draining.extend(pairs);
        }
        if let Some(subnet) = overlay.spec.subnet() {
            self.stale.push((None, overlay.services.astray(subnet)));
        }
    }

    /// Leaves the mesh. Idempotent.
    pub fn remove_mesh(&mut self) -> Vec<Error> {
        let mut errors = Vec::new();
        let Some(mesh) = self.mesh.take() else {
            return errors;
        };
        for (protocol, port) in mesh.ports.keys() {
            self.ports.release(*protocol, Ipv4Addr::UNSPECIFIED.into(), *port);
        }
        if self.table {
            errors.extend(self.rebuild_firewall().err());
        }
        let mut batch = Batch::default();
        batch.remove_link(LEG);
        errors.extend(self.route.transact_all(batch));
        if let (Some(ip), Some(overlay)) = (mesh.address(), self.overlays.get_mut(mesh.network_id())) {
            let mut batch = Batch::default();
            let index = BRIDGE_INDEX;
            batch.remove_neighbour(Neighbour::Address {
                index,
                ip: ip.into(),
                mac: mac(ip.into()),
            });
            errors.extend(overlay.route.transact_all(batch));
        }
        errors.extend(record::remove(&self.config.run_dir, RECORD).err());
        errors
    }

    /// Finds the mesh again after a restart, if its leg is still there.
    ///
    /// # Errors
    /// [`Error::Record`], [`Error::Netlink`].
    pub fn recover_mesh(&mut self) -> Result<()> {
        let Some(state) = record::read::<IngressState>(&self.config.run_dir, RECORD)? else {
            return Ok(());
        };
        if self.route.link(LEG)?.is_none() || !self.overlays.contains_key(&state.network_id) {
            return record::remove(&self.config.run_dir, RECORD);
        }
        let mut mesh = Mesh {
            state: state.clone(),
            ports: BTreeMap::new(),
            draining: BTreeSet::new(),
        };
        for port in &state.ports {
            let backends = port
                .backends
                .iter()
                .map(|b| Ok((v4(*b)?, port.target)))
                .collect::<Result<Vec<_>>>()?;
            self.ports
                .retake(port.protocol, Ipv4Addr::UNSPECIFIED.into(), port.published);
            mesh.ports
                .entry((port.protocol, port.published))
                .or_default()
                .update(&backends);
        }
        self.mesh = Some(mesh);
        Ok(())
    }
}
