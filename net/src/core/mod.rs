//! The synchronous heart: what networks, sandboxes and endpoints there are, and the kernel calls that make it so.
//! Owned by the network thread; [`NetworkManager`](crate::NetworkManager) sends it closures.
//!
//! - [`local`]: networks of this host, with [`options`] and [`addresses`]; [`bridge`]: their bridges; [`parent`]: macvlan
//!   and ipvlan; [`sandbox`]: namespaces
//! - [`endpoint`]: what is known of one; [`attach`], [`inside`] the container; [`detach`]; [`removal`] with the second thread
//! - [`routes`]: default routes; [`publish`]: published ports; [`ports`]: which are taken
//! - [`overlay`]: hidden namespaces, VXLAN, peers; [`services`]: VIPs; [`mesh`]: the routing mesh
//! - [`recover`]: start, reconciliation, removal of everything; [`names`]: what netd is told
//! - [`verify`]: whether the kernel has what it should have; [`probe`]: addresses by which nodes try an overlay
//!
//! Every change is written down before the kernel is told and forgotten after it was undone there, so that whatever
//! a killed daemon leaves can be found.
mod addresses;
mod attach;
mod bridge;
mod detach;
mod endpoint;
mod inside;
mod local;
mod mesh;
mod names;
mod options;
mod overlay;
mod parent;
mod ports;
mod probe;
mod publish;
mod recover;
mod removal;
mod routes;
mod sandbox;
mod services;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
};

use local::LocalNetwork;
use mesh::Mesh;
use overlay::Overlay;
use ports::Ports;
pub use probe::Probing;
pub use removal::{Removal, Remover};
use sandbox::SandboxState;
use serde::{Deserialize, Serialize};

use crate::{
    Config, Drift, Driver, Error, Mended, Network, NetworkSpec, Part, Result,
    firewall::{Noticed, Stale, foreign, host, nft::Transaction},
    netlink::Socket,
    proxy::Proxies,
};

/// Everything the network thread owns.
#[derive(Debug)]
pub struct Core {
    config: Config,
    home: Arc<OwnedFd>,
    route: Socket,
    nft: Socket,
    /// Whether the tables on the host were made.
    table: bool,
    /// Whether the kernel has IPv6.
    has_ipv6: bool,
    proxies: Proxies,
    /// Interface index of the next near end on the host.
    next_index: u32,
    predefined: Predefined,
    networks: BTreeMap<String, LocalNetwork>,
    overlays: BTreeMap<String, Overlay>,
    /// Overlays that could not be made, by id: their names, and why.
    unmade: BTreeMap<String, (String, String)>,
    sandboxes: BTreeMap<String, SandboxState>,
    ports: Ports,
    mesh: Option<Mesh>,
    /// Connections to be forgotten, with the namespace (`None`: this one). Left to the removing thread.
    stale: Vec<(Option<OwnedFd>, Stale)>,
    /// Near ends of endpoints that are on their way out: the second thread removes them, and nobody is to make them again.
    withdrawn: BTreeSet<String>,
    /// The ruleset's generation at which the host's tables were found to be right.
    verified: Option<u32>,
    /// What was mended because the kernel told of it, until the next check tells.
    mended: Vec<Drift>,
}

/// Ids of networks that are always there; chosen once.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Predefined {
    bridge: String,
    gateway: String,
    host: String,
    none: String,
}

impl Core {
    fn netns_dir(&self) -> PathBuf {
        self.config.run_dir.join("netns")
    }

    fn sandbox_dir(&self) -> PathBuf {
        self.config.run_dir.join("sandboxes")
    }

    fn overlay_dir(&self) -> PathBuf {
        self.config.run_dir.join("overlays")
    }

    fn network_dir(&self) -> PathBuf {
        self.config.data_dir.join("network")
    }

    /// The port of the socket by which the ruleset is changed.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn firewall_port(&mut self) -> Result<u32> {
        self.nft.port()
    }

    /// Another program changed the ruleset: what is ours is made anew.
    pub fn restore_firewall(&mut self, noticed: Noticed) {
        if !self.table {
            return;
        }
        let restored = if noticed.own {
            tracing::warn!("another program removed parts of our firewall: it is made anew");
            let restored = self.rebuild_firewall();
            if restored.is_ok() {
                self.mended.push(Drift {
                    mended: Mended::Yes,
                    ..Drift::of("", Part::Table, "our tables", "parts of them removed")
                });
            }
            restored
        } else {
            self.accept_elsewhere()
        };
        if let Err(error) = restored {
            tracing::error!(%error, "the firewall could not be restored");
        }
    }

    /// Puts accept rules for our bridges into other firewalls' chains, if that is wanted.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn accept_elsewhere(&mut self) -> Result<()> {
        if !self.config.accept_in_other_chains {
            return Ok(());
        }
        let bridges = self
            .networks
            .values()
            .filter(|n| n.live.is_some() && n.is_bridge());
        let names: Vec<_> = bridges.map(|n| n.record.bridge.clone()).collect();
        foreign::accept(&mut self.nft, &names)
    }

    /// Changes the host's tables. The state in memory must say the same already: if the table is not there (never
    /// made, or flushed by someone), it is made from that.
    fn firewall(&mut self, change: impl FnOnce(&mut Transaction)) -> Result<()> {
        if self.table {
            let mut tx = Transaction::default();
            change(&mut tx);
            match tx.commit(&mut self.nft) {
                Err(Error::Netlink { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {}
                other => return other,
            }
        }
        self.rebuild_firewall()
    }

    /// Makes the host's tables anew from memory, in one transaction: no packet sees a state between.
    pub fn rebuild_firewall(&mut self) -> Result<()> {
        let families = self.families();
        match self.write_firewall(false) {
            // A table of another version whose chains or sets can't be kept: it is replaced as a whole.
            Err(Error::Netlink { source, .. })
                if [libc::EEXIST, libc::EOPNOTSUPP, libc::EINVAL, libc::EBUSY]
                    .contains(&source.raw_os_error().unwrap_or_default()) =>
            {
                tracing::info!(?families, "replacing the firewall's tables as a whole");
                self.write_firewall(true)
            }
            other => other,
        }
    }

    fn compose_firewall(&self, replace: bool) -> Transaction {
        let families = self.families();
        let mut tx = Transaction::default();
        if replace {
            host::remove(&mut tx, families);
        }
        host::reset(&mut tx, families);
        let bridges = self
            .networks
            .values()
            .filter(|n| n.live.is_some() && n.is_bridge());
        for network in bridges {
            host::add_bridge(&mut tx, &network.firewall(), families);
        }
        for sandbox in self.sandboxes.values() {
            host::add_ports(&mut tx, &sandbox.published());
        }
        if let Some(mesh) = &self.mesh {
            mesh.write(&mut tx);
        }
        tx
    }

    fn write_firewall(&mut self, replace: bool) -> Result<()> {
        self.compose_firewall(replace).commit(&mut self.nft)?;
        self.table = true;
        if !self.config.accept_in_other_chains {
            // A daemon that was asked to has opened them, and this one is not.
            return foreign::accept(&mut self.nft, &[]);
        }
        self.accept_elsewhere()
    }

    /// Connections to be forgotten since the last call.
    pub fn take_stale(&mut self) -> Vec<(Option<OwnedFd>, Stale)> {
        std::mem::take(&mut self.stale)
    }

    /// All networks.
    pub fn list_networks(&self) -> Vec<Network> {
        let local = self
            .networks
            .values()
            .map(|n| (n.record.spec.clone(), Some(n.record.bridge.clone())));
        let overlays = self.overlays.values().map(|o| (o.spec.clone(), None));
        let fixed = [
            NetworkSpec::new(&self.predefined.host, "host", Driver::Host),
            NetworkSpec::new(&self.predefined.none, "none", Driver::None),
        ];
        local
            .chain(overlays)
            .chain(fixed.map(|spec| (spec, None)))
            .map(|(s, i)| self.describe(s, i))
            .collect()
    }

    fn describe(&self, spec: NetworkSpec, interface: Option<String>) -> Network {
        let endpoints = self
            .sandboxes
            .values()
            .flat_map(|s| s.endpoints_on(&spec.id))
            .collect();
        let overlay = self.overlays.get(&spec.id);
        Network {
            peers: overlay.map(overlay::Overlay::nodes).unwrap_or_default(),
            spec,
            interface,
            endpoints,
        }
    }

    /// One network by id or name.
    ///
    /// # Errors
    /// [`Error::NetworkNotFound`], [`Error::NotProgrammed`].
    pub fn inspect_network(&self, id_or_name: &str) -> Result<Network> {
        let mut networks = self.list_networks();
        let at = networks
            .iter()
            .position(|n| n.spec.id == id_or_name)
            .or_else(|| networks.iter().position(|n| n.spec.name == id_or_name))
            .ok_or_else(|| self.not_here(id_or_name))?;
        Ok(networks.swap_remove(at))
    }

    /// Why a network is not here.
    fn not_here(&self, id: &str) -> Error {
        match self.unmade.get(id) {
            Some((name, reason)) => Error::NotProgrammed {
                name: name.clone(),
                reason: reason.clone(),
            },
            None => Error::NetworkNotFound { id: id.into() },
        }
    }
}

/// Ids become file and interface names.
fn check_id(id: &str) -> Result<()> {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if id.is_empty() || id.len() > 64 || !id.chars().all(valid) {
        return Err(Error::InvalidId { id: id.into() });
    }
    Ok(())
}

/// The first twelve characters, as Docker shows ids.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn v4(address: IpAddr) -> Result<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err(Error::Invalid {
            what: "address",
            reason: format!("{address} is IPv6, use IPv4"),
        }),
    }
}

/// 02:42 and the address (of an IPv6 one the end): neighbours can be computed from IPv4 addresses alone.
fn mac(address: IpAddr) -> [u8; 6] {
    let [a, b, c, d] = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => (v6.to_bits() as u32).to_be_bytes(),
    };
    [0x02, 0x42, a, b, c, d]
}
