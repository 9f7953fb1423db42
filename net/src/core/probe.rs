//! Addresses by which nodes try an overlay ([`NetworkManager::probe`](crate::NetworkManager::probe)): the bridge in each hidden namespace
//! has one that follows from its node's underlay address, and is listed there like an endpoint of that node. They are of 240.0.0.0/4, which
//! nobody has (RFC 1112), so they are in no overlay's subnet.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::fd::AsFd,
};

use ipnet::{IpNet, Ipv4Net};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};

use super::{Core, Overlay, mac, overlay::BRIDGE_INDEX};
use crate::{Error, Result, netlink::Batch, netns};

/// Bits that tell nodes apart.
const BITS: u32 = 28;

/// What a network is probed with.
#[derive(Debug)]
pub struct Probing {
    /// Its id.
    pub network: String,
    /// A socket in its hidden namespace.
    pub socket: UdpSocket,
    /// Underlay addresses of the nodes with endpoints in it, and where they answer.
    pub peers: Vec<(IpAddr, Ipv4Addr)>,
    /// Largest packet of its endpoints.
    pub mtu: u32,
}

/// The address by which a node answers in all overlays.
pub fn probe_address(vtep: IpAddr) -> Ipv4Addr {
    let low = match vtep {
        IpAddr::V4(v4) => v4.to_bits(),
        // FNV-1a: the same on all nodes.
        IpAddr::V6(v6) => v6.octets().iter().fold(0x811c_9dc5, |hash: u32, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        }),
    };
    Ipv4Addr::from_bits(u32::MAX << BITS | low & !(u32::MAX << BITS))
}

/// The nodes of these endpoints, as peers by which they are probed.
pub fn probed(peers: &BTreeMap<Ipv4Addr, IpAddr>) -> BTreeMap<Ipv4Addr, IpAddr> {
    peers.values().map(|vtep| (probe_address(*vtep), *vtep)).collect()
}

impl Overlay {
    /// The bridge's address, with all others' beside it.
    pub fn bridge_address(&self) -> IpNet {
        let address = probe_address(self.local_vtep);
        let net = Ipv4Net::new(address, 4).expect("4 is a prefix length");
        net.into()
    }

    /// The bridge's MAC, which others' entries name.
    pub fn bridge_mac(&self) -> [u8; 6] {
        mac(self.bridge_address().addr())
    }

    /// Gives the bridge the address of another underlay address, instead of `before`.
    pub fn move_bridge(&mut self, before: IpAddr) -> Result<()> {
        let old = Ipv4Net::new(probe_address(before), 4).expect("4 is a prefix length");
        let mut batch = Batch::default();
        batch
            .remove_address(BRIDGE_INDEX, old.into())
            .set_mac(BRIDGE_INDEX, self.bridge_mac())
            .add_address(BRIDGE_INDEX, self.bridge_address());
        self.route.transact(batch)
    }
}

impl Core {
    /// A socket in an overlay's hidden namespace; its packets are never divided. `None` if there is no such overlay.
    ///
    /// # Errors
    /// [`Error::Namespace`], [`Error::Netlink`].
    pub fn probe_socket(&self, id: &str, port: u16) -> Result<Option<UdpSocket>> {
        let Some(overlay) = self.overlays.get(id) else {
            return Ok(None);
        };
        let failed = |source| Error::Netlink {
            operation: format!("open a socket for probes of network {id}"),
            source,
        };
        netns::inside(&self.home, overlay.netns.as_fd(), || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(failed)?;
            // What the kernel has learned of the way is of no interest here: that is what is to be found out.
            set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE).map_err(|e| failed(e.into()))?;
            socket.set_nonblocking(true).map_err(failed)?;
            Ok(socket)
        })
        .map(Some)
    }

    /// What these networks, or all, are probed with.
    ///
    /// # Errors
    /// As [`probe_socket`](Self::probe_socket).
    pub fn probings(&self, networks: Option<&BTreeSet<String>>) -> Result<Vec<Probing>> {
        let mut all = Vec::new();
        for (id, overlay) in &self.overlays {
            let peers: Vec<_> = probed(&overlay.peers)
                .into_iter()
                .map(|(ip, vtep)| (vtep, ip))
                .collect();
            if networks.is_some_and(|networks| !networks.contains(id)) || peers.is_empty() {
                continue;
            }
            if let Some(socket) = self.probe_socket(id, 0)? {
                all.push(Probing {
                    network: id.clone(),
                    socket,
                    peers,
                    mtu: overlay.mtu,
                });
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_an_address_that_nobody_else_has() {
        let of = |text: &str| probe_address(text.parse().expect("an address")).to_string();
        assert_eq!(of("10.99.0.1"), "250.99.0.1");
        assert_eq!(of("192.0.2.7"), "240.0.2.7");
        assert!(of("fd00::1").starts_with("24") || of("fd00::1").starts_with("25"));
        assert_ne!(of("fd00::1"), of("fd00::2"));
        assert_eq!(of("fd00::1"), of("fd00::1"));
    }
}
