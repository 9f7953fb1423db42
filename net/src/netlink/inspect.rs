//! What the kernel has of a bridge and all that hangs on it, in the terms in which it was asked for: links with their settings,
//! forwarding entries, neighbours. For the comparison with what there should be ([`crate::core`], `verify`).
use std::net::IpAddr;

use super::{Attributes, Batch, Neighbour, PortFlags, Socket};
use crate::Result;

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETNEIGH: u16 = 30;
const IFF_UP: u32 = 1;
const NTF_SELF: u8 = 2;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const AF_BRIDGE: u8 = 7;

/// A link with what can be wrong about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// Its MAC.
    pub mac: Option<[u8; 6]>,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    /// veth, bridge, vxlan...
    pub kind: String,
    /// The tunnel of a VXLAN device.
    pub vxlan: Option<Tunnel>,
    /// Flags of a bridge port.
    pub port: PortFlags,
}

/// Where a VXLAN device leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Network identifier.
    pub vni: u32,
    /// Own underlay address.
    pub local: Option<IpAddr>,
    /// UDP port.
    pub port: u16,
    /// Whether source addresses are learned.
    pub learning: bool,
}

fn number(body: &[u8], at: usize) -> u32 {
    let bytes = body.get(at..at + 4).and_then(|b| b.try_into().ok());
    bytes.map_or(0, u32::from_ne_bytes)
}

fn byte(attributes: Attributes<'_>, kind: u16) -> Option<bool> {
    attributes.value(kind)?.first().map(|value| *value != 0)
}

fn link(body: &[u8]) -> Option<LinkState> {
    let attributes = Attributes(body.get(16..)?);
    let info = attributes.nested(18); // IFLA_LINKINFO
    let kind = info.string(1).unwrap_or_default();
    let (data, port) = (info.nested(2), info.nested(5)); // INFO_DATA, INFO_SLAVE_DATA
    let vxlan = (kind == "vxlan").then(|| Tunnel {
        vni: data.u32(1).unwrap_or_default(),
        local: data.ip(4).or_else(|| data.ip(17)),
        port: data
            .value(15)
            .and_then(|b| b.try_into().ok())
            .map_or(0, u16::from_be_bytes),
        learning: byte(data, 7).unwrap_or_default(),
    });
    Some(LinkState {
        index: number(body, 4),
        name: attributes.string(3)?,
        mtu: attributes.u32(4).unwrap_or(1500),
        up: number(body, 8) & IFF_UP != 0,
        mac: attributes.value(1).and_then(|b| b.try_into().ok()),
        master: attributes.u32(10),
        kind,
        vxlan,
        port: PortFlags {
            hairpin: byte(port, 4),
            learning: byte(port, 8),
            flood: byte(port, 9).map(|unicast| {
                // One wish stands for three settings: it is flooded to if any of them is on.
                unicast || byte(port, 27).unwrap_or_default() || byte(port, 30).unwrap_or_default()
            }),
            proxy_arp: byte(port, 10),
            neigh_suppress: byte(port, 32),
            isolated: byte(port, 33),
        },
    })
}

/// An entry of a bridge's or a VXLAN device's forwarding database that somebody has put there; learned and local ones are none.
fn forwarding(body: &[u8]) -> Option<Neighbour> {
    let attributes = Attributes(body.get(12..)?);
    let state = u16::from_ne_bytes([*body.get(8)?, *body.get(9)?]);
    let index = number(body, 4);
    let mac = attributes.value(2)?.try_into().ok()?;
    if body.get(10)? & NTF_SELF != 0 {
        let vtep = attributes.ip(1)?;
        return Some(Neighbour::Tunnel { index, mac, vtep });
    }
    // NDA_MASTER: of the bridge, not of the port's own.
    attributes.value(9)?;
    (state & NUD_NOARP != 0).then_some(Neighbour::Port { index, mac })
}

fn neighbour(body: &[u8]) -> Option<Neighbour> {
    let attributes = Attributes(body.get(12..)?);
    let state = u16::from_ne_bytes([*body.get(8)?, *body.get(9)?]);
    let (ip, mac) = (attributes.ip(1)?, attributes.value(2)?.try_into().ok()?);
    let index = number(body, 4);
    (state & NUD_PERMANENT != 0).then_some(Neighbour::Address { index, ip, mac })
}

impl Socket {
    /// All links of the namespace with their settings.
    ///
    /// # Errors
    /// [`crate::Error::Netlink`].
    pub fn link_states(&mut self) -> Result<Vec<LinkState>> {
        let mut batch = Batch::default();
        batch.request(RTM_GETLINK, libc::NLM_F_DUMP, "list links", |m| {
            m.raw(&[0; 16]);
        });
        Ok(self.query(batch)?.iter().filter_map(|body| link(body)).collect())
    }

    /// All static entries of the namespace's forwarding databases.
    ///
    /// # Errors
    /// [`crate::Error::Netlink`].
    pub fn forwarding_entries(&mut self) -> Result<Vec<Neighbour>> {
        self.entries(AF_BRIDGE, "list forwarding entries", forwarding)
    }

    /// All permanent IPv4 neighbours of the namespace.
    ///
    /// # Errors
    /// [`crate::Error::Netlink`].
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>> {
        self.entries(2, "list neighbours", neighbour)
    }

    fn entries(
        &mut self,
        family: u8,
        label: &'static str,
        read: impl Fn(&[u8]) -> Option<Neighbour>,
    ) -> Result<Vec<Neighbour>> {
        let mut batch = Batch::default();
        batch.request(RTM_GETNEIGH, libc::NLM_F_DUMP, label, |m| {
            m.raw(&[family; 1]).raw(&[0; 11]);
        });
        Ok(self.query(batch)?.iter().filter_map(|body| read(body)).collect())
    }

    /// IPv4 addresses of link `index`.
    ///
    /// # Errors
    /// [`crate::Error::Netlink`].
    pub fn addresses_of(&mut self, index: u32) -> Result<Vec<IpAddr>> {
        let mut batch = Batch::default();
        batch.request(RTM_GETADDR, libc::NLM_F_DUMP, "list addresses", |m| {
            m.raw(&[2, 0, 0, 0, 0, 0, 0, 0]);
        });
        let read = |body: &Vec<u8>| {
            let attributes = Attributes(body.get(8..)?);
            (number(body, 4) == index).then(|| attributes.ip(2).or_else(|| attributes.ip(1)))?
        };
        Ok(self.query(batch)?.iter().filter_map(read).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message's body: `struct ndmsg` and two attributes.
    fn entry(state: u16, flags: u8, more: &[u8]) -> Vec<u8> {
        let mut body = vec![AF_BRIDGE, 0, 0, 0];
        body.extend(7u32.to_ne_bytes());
        body.extend(state.to_ne_bytes());
        body.extend([flags, 0]);
        body.extend([10, 0, 2, 0, 2, 0x42, 10, 0, 0, 5, 0, 0]);
        body.extend(more);
        body
    }

    #[test]
    fn entries_are_told_apart() {
        let mac = [2, 0x42, 10, 0, 0, 5];
        let vtep = IpAddr::from([192, 0, 2, 1]);
        let to_vtep = [8, 0, 1, 0, 192, 0, 2, 1];
        let of_bridge = [8, 0, 9, 0, 232, 3, 0, 0];
        let tunnel = forwarding(&entry(NUD_PERMANENT, NTF_SELF, &to_vtep));
        assert_eq!(tunnel, Some(Neighbour::Tunnel { index: 7, mac, vtep }));
        let port = forwarding(&entry(NUD_NOARP, 0, &of_bridge));
        assert_eq!(port, Some(Neighbour::Port { index: 7, mac }));
        assert_eq!(forwarding(&entry(NUD_PERMANENT, 0, &of_bridge)), None, "local");
        assert_eq!(forwarding(&entry(2, 0, &of_bridge)), None, "learned");
        assert_eq!(forwarding(&entry(NUD_NOARP, 0, &[])), None, "the port's own");
        assert_eq!(neighbour(&entry(NUD_NOARP, 0, &to_vtep)), None, "not permanent");
        assert_eq!(forwarding(&[7; 9]), None, "cut short");
    }
}
