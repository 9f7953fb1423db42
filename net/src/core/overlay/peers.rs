//! Who is where on an overlay: static entries for endpoints of this node and of others.
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use super::{BRIDGE_INDEX, Overlay, VXLAN_INDEX, endpoint_flags};
use crate::{
    Result,
    core::mac,
    netlink::{Batch, Neighbour},
};

impl Overlay {
    /// Asks for a link of the hidden namespace to become an endpoint's port, with static entries.
    pub fn connect(&mut self, batch: &mut Batch, link: &str, index: u32, address: Ipv4Addr) {
        batch.set_port(link, endpoint_flags());
        if let Some(vtep) = self.peers.remove(&address) {
            batch.remove_neighbour(Neighbour::Tunnel {
                index: VXLAN_INDEX,
                mac: mac(address.into()),
                vtep,
            });
            batch.remove_neighbour(Neighbour::Port {
                index: VXLAN_INDEX,
                mac: mac(address.into()),
            });
        }
        batch.add_neighbour(Neighbour::Port {
            index,
            mac: mac(address.into()),
        });
        batch.add_neighbour(Neighbour::Address {
            index: BRIDGE_INDEX,
            ip: address.into(),
            mac: mac(address.into()),
        });
    }

    /// Tells the kernel the difference between what it was told and `wanted`.
    pub(super) fn set_peers(&mut self, wanted: BTreeMap<Ipv4Addr, IpAddr>) -> Result<()> {
        let mut batch = Batch::default();
        for (ip, vtep) in &self.peers {
            let changed = wanted.get(ip) != Some(vtep);
            if changed {
                batch.remove_neighbour(Neighbour::Tunnel {
                    index: VXLAN_INDEX,
                    mac: mac((*ip).into()),
                    vtep: *vtep,
                });
            }
            if !wanted.contains_key(ip) {
                batch.remove_neighbour(Neighbour::Port {
                    index: VXLAN_INDEX,
                    mac: mac((*ip).into()),
                });
                let ip = *ip;
                batch.remove_neighbour(Neighbour::Address {
                    index: BRIDGE_INDEX,
                    ip: ip.into(),
                    mac: mac(ip.into()),
                });
            }
        }
        for (ip, vtep) in wanted
            .iter()
            .filter(|(ip, vtep)| self.peers.get(ip) != Some(vtep))
        {
            batch.add_neighbour(Neighbour::Tunnel {
                index: VXLAN_INDEX,
                mac: mac((*ip).into()),
                vtep: *vtep,
            });
            batch.add_neighbour(Neighbour::Port {
                index: VXLAN_INDEX,
                mac: mac((*ip).into()),
            });
            let ip = *ip;
            batch.add_neighbour(Neighbour::Address {
                index: BRIDGE_INDEX,
                ip: ip.into(),
                mac: mac(ip.into()),
            });
        }
        self.route.transact(batch)?;
        self.peers = wanted;
        Ok(())
    }

    /// Reads from the kernel which peers it was told by the daemon before this one.
    pub(super) fn recover_peers(&mut self) -> Result<()> {
        let entries = self.route.tunnel_entries(VXLAN_INDEX)?;
        self.peers = entries
            .into_iter()
            .filter_map(|e| match e.mac {
                [0x02, 0x42, a, b, c, d] => Some((Ipv4Addr::new(a, b, c, d), e.vtep)),
                _ => None,
            })
            .collect();
        Ok(())
    }
}
