//! Overlay networks on this node: a hidden namespace with a bridge and a VXLAN device. Who is where comes from the
//! cluster's committed state; nothing is learned and nothing is flooded.
mod endpoint;
mod peers;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{Core, check_id, mac, probe::probed, services::Services, short, v4};
use crate::{
    DATA_PATH_PORT, Driver, Error, NetworkSpec, OverlayState, Result,
    netlink::{Batch, BridgeLink, Neighbour, PortFlags, Protocol, Socket, VxlanLink},
    netns, record,
};

/// Index of the bridge in each hidden namespace.
pub const BRIDGE_INDEX: u32 = 1000;
/// Index of the VXLAN device there.
pub const VXLAN_INDEX: u32 = 1001;
const FIRST_PORT_INDEX: u32 = 1002;
/// Its name.
pub const VXLAN: &str = "vxlan0";
/// Outer IPv4, UDP, VXLAN and inner Ethernet headers.
const OVERHEAD: u32 = 50;
/// The same where nodes send to each other by IPv6.
const OVERHEAD_V6: u32 = 70;

/// What is stored of an overlay network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OverlayRecord {
    /// The network.
    pub spec: NetworkSpec,
    /// This node's underlay address.
    pub local_vtep: IpAddr,
    /// UDP port of VXLAN.
    #[serde(default = "default_port")]
    pub data_path_port: u16,
}

/// That of records which do not have it.
fn default_port() -> u16 {
    DATA_PATH_PORT
}

/// An overlay network.
#[derive(Debug)]
pub struct Overlay {
    /// The network.
    pub spec: NetworkSpec,
    /// This node's underlay address.
    pub local_vtep: IpAddr,
    /// UDP port of VXLAN.
    pub data_path_port: u16,
    /// The hidden namespace.
    pub netns: OwnedFd,
    /// A socket there.
    pub route: Socket,
    /// MTU of bridge and endpoints.
    pub mtu: u32,
    /// What the kernel was told: endpoints on other nodes.
    pub peers: BTreeMap<Ipv4Addr, IpAddr>,
    /// Services, names.
    pub services: Services,
    next_index: u32,
    /// Whether `peers` and the sandboxes' tables are known to be what the kernel has; not so after a restart.
    synced: bool,
}

impl Overlay {
    /// Underlay addresses of the nodes with endpoints here, this one first.
    pub fn nodes(&self) -> Vec<IpAddr> {
        let others: BTreeSet<IpAddr> = self.peers.values().copied().collect();
        std::iter::once(self.local_vtep).chain(others).collect()
    }

    /// The next interface index in the hidden namespace.
    pub fn take_index(&mut self) -> u32 {
        self.next_index += 1;
        self.next_index
    }

    /// Whether what the kernel was told is known, and it is the committed state.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Asks for the bridge, with the address by which other nodes try the network.
    pub fn make_bridge(&self, batch: &mut Batch) {
        batch.add_bridge(&BridgeLink {
            name: "br0",
            index: BRIDGE_INDEX,
            mtu: self.mtu,
            mac: self.bridge_mac(),
        });
        batch.add_address(BRIDGE_INDEX, self.bridge_address());
    }
}

/// How the bridge treats the tunnel: nothing is learned or flooded, and who is known is not asked for.
pub fn tunnel_flags() -> PortFlags {
    PortFlags {
        learning: Some(false),
        flood: Some(false),
        neigh_suppress: Some(true),
        ..PortFlags::default()
    }
}

/// How the bridge treats an endpoint's port: no learning (an endpoint can't take another's address), and the bridge answers ARP.
pub fn endpoint_flags() -> PortFlags {
    PortFlags {
        learning: Some(false),
        flood: Some(false),
        proxy_arp: Some(true),
        ..PortFlags::default()
    }
}

impl Core {
    fn hidden_path(&self, id: &str) -> PathBuf {
        self.netns_dir().join(format!("ov-{}", short(id)))
    }

    /// Takes the committed state of an overlay network.
    ///
    /// # Errors
    /// [`Error::NoUnderlay`], [`Error::Invalid`], or what the kernel refuses; the next call tries the rest again.
    pub fn set_overlay(&mut self, state: OverlayState) -> Result<()> {
        let id = state.network.id.clone();
        let before = self.overlays.get(&id).map(|overlay| overlay.local_vtep);
        let ensured = self.ensure_overlay(&state);
        match &ensured {
            Err(error) if !self.overlays.contains_key(&id) => {
                let reason = (state.network.name.clone(), error.to_string());
                self.unmade.insert(id.clone(), reason);
            }
            _ => drop(self.unmade.remove(&id)),
        }
        ensured?;
        let mut wanted = BTreeMap::new();
        for peer in state.peers.iter().filter(|p| p.vtep != state.local_vtep) {
            wanted.insert(v4(peer.ip)?, peer.vtep);
        }
        let local = self.sandboxes.values().flat_map(|s| &s.record.endpoints);
        for endpoint in local.filter(|e| e.endpoint.network_id == id) {
            if let Some(address) = endpoint.endpoint.address {
                wanted.remove(&v4(address.addr())?);
            }
        }
        if let Some(address) = self
            .mesh
            .as_ref()
            .filter(|m| m.network_id() == id)
            .and_then(|m| m.address())
        {
            wanted.remove(&address);
        }
        wanted.extend(probed(&wanted));
        let overlay = self
            .overlays
            .get_mut(&id)
            .ok_or_else(|| Error::NetworkNotFound { id: id.clone() })?;
        let synced = overlay.synced;
        overlay.set_peers(wanted)?;
        self.set_services(&id, &state, synced)?;
        if let Some(overlay) = self.overlays.get_mut(&id) {
            overlay.synced = true;
        }
        if before.is_some_and(|before| before != state.local_vtep) {
            // With its MAC the bridge has lost its neighbours, those of this node's endpoints too.
            self.restore_entries(&id)?;
        }
        if self.mesh.as_ref().is_some_and(|m| m.network_id() == id) {
            if !synced {
                self.suspect_mesh_connections();
            }
            self.forget_mesh_connections(BTreeSet::new());
        }
        Ok(())
    }

    fn ensure_overlay(&mut self, state: &OverlayState) -> Result<()> {
        let spec = &state.network;
        check_id(&spec.id)?;
        let Driver::Overlay { vni } = spec.driver else {
            return Err(Error::Invalid {
                what: "driver",
                reason: format!("{} is no overlay", spec.name),
            });
        };
        if spec.options.contains_key("encrypted") {
            let reason = format!(
                "overlay {} asks for encryption, which this node can't do",
                spec.name
            );
            return Err(Error::Invalid {
                what: "option",
                reason,
            });
        }
        if vni >= 1 << 24 {
            return Err(Error::Invalid {
                what: "vxlan id",
                reason: format!("{vni} has more than 24 bits"),
            });
        }
        spec.subnet().ok_or_else(|| Error::Invalid {
            what: "network",
            reason: format!("overlay {} has no IPv4 subnet", spec.name),
        })?;
        let record = OverlayRecord {
            spec: spec.clone(),
            local_vtep: state.local_vtep,
            data_path_port: state.data_path_port,
        };
        if let Some(overlay) = self.overlays.get_mut(&spec.id) {
            let before = overlay.local_vtep;
            let moved = before != state.local_vtep || overlay.spec.driver != spec.driver;
            if overlay.spec == *spec && !moved {
                return Ok(());
            }
            record::write(&self.config.run_dir.join("overlays"), &spec.id, &record)?;
            overlay.spec = spec.clone();
            overlay.local_vtep = state.local_vtep;
            return if moved {
                self.move_tunnel(&spec.id, vni, before)
            } else {
                Ok(())
            };
        }
        if self
            .networks
            .values()
            .any(|n| n.record.spec.name == spec.name || n.record.spec.id == spec.id)
        {
            return Err(Error::NetworkExists {
                name: spec.name.clone(),
            });
        }
        let mtu = self.overlay_mtu(spec, state.local_vtep)?;
        record::write(&self.overlay_dir(), &spec.id, &record)?;
        match self.make_hidden(&record, vni, mtu) {
            Ok(overlay) => {
                self.overlays.insert(spec.id.clone(), overlay);
                Ok(())
            }
            Err(error) => {
                let _ = netns::remove(&self.hidden_path(&spec.id));
                let _ = record::remove(&self.overlay_dir(), &spec.id);
                Err(error)
            }
        }
    }

    fn overlay_mtu(&mut self, spec: &NetworkSpec, vtep: IpAddr) -> Result<u32> {
        let addresses = self.route.addresses(vtep.is_ipv6())?;
        let index = addresses
            .iter()
            .find(|(_, net)| net.addr() == vtep)
            .map(|(index, _)| *index);
        let index = index.ok_or(Error::NoUnderlay { address: vtep })?;
        let links = self.route.links()?;
        let underlay = links.iter().find(|l| l.index == index).map_or(1500, |l| l.mtu);
        let overhead = if vtep.is_ipv6() { OVERHEAD_V6 } else { OVERHEAD };
        let most = underlay.saturating_sub(overhead).max(68);
        let wished = spec
            .options
            .get("com.docker.network.driver.mtu")
            .and_then(|text| text.parse().ok());
        match wished {
            Some(mtu) if mtu > most => Err(Error::Invalid {
                what: "option",
                reason: format!(
                    "overlay {} asks for an MTU of {mtu}, but packets of the interface with {vtep} have {underlay} bytes at most, of which the \
                     tunnel needs {overhead}: ask for {most} or less",
                    spec.name
                ),
            }),
            Some(mtu) => Ok(u32::max(mtu, 68)),
            None => Ok(most),
        }
    }

    fn make_hidden(&mut self, record: &OverlayRecord, vni: u32, mtu: u32) -> Result<Overlay> {
        let path = self.hidden_path(&record.spec.id);
        netns::remove(&path)?;
        let (netns, route) = netns::create(&self.home, &path, || {
            netns::set_sysctl_if_present("net.bridge.bridge-nf-call-iptables", "0")?;
            netns::set_sysctl_if_present("net.ipv6.conf.default.disable_ipv6", "1")?;
            netns::set_sysctl("net.ipv4.ip_forward", "0")?;
            Socket::open(Protocol::Route)
        })?;
        let mut overlay = Overlay {
            spec: record.spec.clone(),
            local_vtep: record.local_vtep,
            data_path_port: record.data_path_port,
            netns,
            route,
            mtu,
            peers: BTreeMap::new(),
            services: Services::default(),
            next_index: FIRST_PORT_INDEX,
            synced: true,
        };
        let mut batch = Batch::default();
        overlay.make_bridge(&mut batch);
        overlay.route.transact(batch)?;
        self.add_tunnel(&mut overlay, vni)?;
        Ok(overlay)
    }

    /// The VXLAN device: asked for in the daemon's namespace, where its UDP socket stays, living in the hidden one.
    pub fn add_tunnel(&mut self, overlay: &mut Overlay, vni: u32) -> Result<()> {
        let mut batch = Batch::default();
        batch.add_vxlan(&VxlanLink {
            name: VXLAN,
            index: VXLAN_INDEX,
            namespace: overlay.netns.as_fd(),
            vni,
            local: overlay.local_vtep,
            port: overlay.data_path_port,
            mtu: overlay.mtu,
            mac: [0x02, 0x42, 0xff, 0, 0, 2],
        });
        self.route.transact(batch)?;
        let mut batch = Batch::default();
        batch
            .enslave(VXLAN_INDEX, BRIDGE_INDEX)
            .set_port(VXLAN, tunnel_flags());
        overlay.route.transact(batch)
    }

    /// This node's underlay address changed: a new device, and all peers again.
    fn move_tunnel(&mut self, id: &str, vni: u32, before: IpAddr) -> Result<()> {
        let Some(mut overlay) = self.overlays.remove(id) else {
            return Ok(());
        };
        let peers = std::mem::take(&mut overlay.peers);
        let mut batch = Batch::default();
        batch.remove_link(VXLAN);
        for ip in peers.keys() {
            let (ip, mac) = (IpAddr::V4(*ip), mac((*ip).into()));
            batch.remove_neighbour(Neighbour::Address {
                index: BRIDGE_INDEX,
                ip,
                mac,
            });
        }
        let moved = overlay
            .route
            .transact(batch)
            .and_then(|()| overlay.move_bridge(before))
            .and_then(|()| self.add_tunnel(&mut overlay, vni));
        self.overlays.insert(id.into(), overlay);
        moved
    }

    /// Forgets an overlay network: its namespace with all that is in it, and its names. Idempotent.
    pub fn remove_overlay(&mut self, id: &str) -> Vec<Error> {
        self.unmade.remove(id);
        let endpoints = self.sandboxes_on(id);
        if let (false, Some(overlay)) = (endpoints.is_empty(), self.overlays.get(id)) {
            return vec![Error::NetworkInUse {
                name: overlay.spec.name.clone(),
                endpoints,
            }];
        }
        let mut errors = Vec::new();
        if self.mesh.as_ref().is_some_and(|m| m.network_id() == id) {
            errors.extend(self.remove_mesh());
        }
        if self.overlays.remove(id).is_some() {
            // Frees the VXLAN port at once; the rest goes when the kernel gets to it.
            errors.extend(self.drop_tunnel(id).err());
        }
        errors.extend(netns::remove(&self.hidden_path(id)).err());
        errors.extend(record::remove(&self.overlay_dir(), id).err());
        errors
    }

    fn drop_tunnel(&mut self, id: &str) -> Result<()> {
        let Some(netns) = netns::open(&self.hidden_path(id))? else {
            return Ok(());
        };
        netns::inside(&self.home, netns.as_fd(), || {
            let mut batch = Batch::default();
            batch.remove_link(VXLAN);
            Socket::open(Protocol::Route)?.transact(batch)
        })
    }

    /// Finds an overlay again after a restart. `None` if its namespace is gone.
    ///
    /// # Errors
    /// [`Error::Namespace`], [`Error::Netlink`].
    pub fn recover_overlay(&mut self, record: OverlayRecord) -> Result<Option<()>> {
        let Some(netns) = netns::open(&self.hidden_path(&record.spec.id))? else {
            return Ok(None);
        };
        let mut route = netns::inside(&self.home, netns.as_fd(), || Socket::open(Protocol::Route))?;
        let links = route.links()?;
        let Some(bridge) = links.iter().find(|l| l.index == BRIDGE_INDEX) else {
            return Ok(None);
        };
        if !links.iter().any(|l| l.index == VXLAN_INDEX) {
            return Ok(None);
        }
        let mut overlay = Overlay {
            mtu: bridge.mtu,
            next_index: links.iter().map(|l| l.index).max().unwrap_or(FIRST_PORT_INDEX),
            spec: record.spec,
            local_vtep: record.local_vtep,
            data_path_port: record.data_path_port,
            netns,
            route,
            peers: BTreeMap::new(),
            services: Services::default(),
            synced: false,
        };
        overlay.recover_peers()?;
        self.overlays.insert(overlay.spec.id.clone(), overlay);
        Ok(Some(()))
    }
}
