//! What the kernel has: links, addresses, routes, tunnel entries.
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Attributes, Batch, Socket};
use crate::Result;

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
const NTF_SELF: u8 = 2;
/// How often and at which distance the carrier is asked for: 10 ms in all.
const CARRIER_TRIES: u32 = 50;
const CARRIER_PAUSE: std::time::Duration = std::time::Duration::from_micros(200);

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Up with a carrier (RFC 2863 operational state).
    pub running: bool,
    /// veth, bridge, vxlan...; empty for hardware.
    pub kind: String,
}

/// An entry of a VXLAN device's own forwarding database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// Destination MAC.
    pub mac: [u8; 6],
    /// The node to which frames go.
    pub vtep: IpAddr,
}

fn number(body: &[u8], at: usize) -> u32 {
    body.get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}

impl Socket {
    /// All links of the namespace.
    ///
    /// # Errors
    /// [`crate::Error::Netlink`].
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let mut batch = Batch::default();
        batch.request(RTM_GETLINK, libc::NLM_F_DUMP, "list links", |m| {
            m.raw(&[0; 16]);
        });
        Ok(self.query(batch)?.iter().filter_map(|body| link(body)).collect())
    }

    /// The link called `name`, if it is there.
    ///
    /// # Errors
    /// [`crate::Error::Netlink`].
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut batch = Batch::default();
        batch.request(RTM_GETLINK, 0, format!("look up link {name}"), |m| {
            m.raw(&[0; 16]).string(3, name); // IFLA_IFNAME
        });
        match self.query(batch) {
            Ok(bodies) => Ok(bodies.iter().find_map(|body| link(body))),
            Err(crate::Error::Netlink { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until the kernel has noticed that a link whose peer came up has a carrier: it does so in a work queue, and
    /// until then drops the first packets, which are sent again only after a second. From Linux 6.12 the
    /// question itself makes it notice.
    ///
    /// # Errors
    /// [`crate::Error::Netlink`].
    pub fn wait_running(&mut self, name: &str) -> Result<()> {
        for _ in 0..CARRIER_TRIES {
            if self.link(name)?.is_none_or(|link| link.running) {
                return Ok(());
            }
            std::thread::sleep(CARRIER_PAUSE);
        }
        // Late, not wrong: the first packet may take a second.
        Ok(())
    }

    /// Addresses of one family with the index of their link.
    ///
    /// # Errors
    /// [`crate::Error::Netlink`].
    pub fn addresses(&mut self, ipv6: bool) -> Result<Vec<(u32, IpNet)>> {
        let mut batch = Batch::default();
        let family = u8::try_from(if ipv6 { libc::AF_INET6 } else { libc::AF_INET }).unwrap_or_default();
        batch.request(RTM_GETADDR, libc::NLM_F_DUMP, "list addresses", |m| {
            m.raw(&[family, 0, 0, 0, 0, 0, 0, 0]);
        });
        let read = |body: &Vec<u8>| {
            let attributes = Attributes(body.get(8..)?);
            let ip = attributes.ip(2).or_else(|| attributes.ip(1))?;
            Some((number(body, 4), IpNet::new(ip, *body.get(1)?).ok()?))
        };
        Ok(self.query(batch)?.iter().filter_map(read).collect())
    }

    /// Destinations of all routes of one family but the default one, single hosts and what every link has.
    ///
    /// # Errors
    /// [`crate::Error::Netlink`].
    pub fn routed(&mut self, ipv6: bool) -> Result<Vec<IpNet>> {
        let mut batch = Batch::default();
        let family = u8::try_from(if ipv6 { libc::AF_INET6 } else { libc::AF_INET }).unwrap_or_default();
        batch.request(RTM_GETROUTE, libc::NLM_F_DUMP, "list routes", |m| {
            m.raw(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        });
        let everywhere = |ip: IpAddr| match ip {
            IpAddr::V4(_) => ip.is_loopback(),
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast() || v6.is_loopback(),
        };
        let read = |body: &Vec<u8>| {
            let length = *body.get(1)?;
            let ip = Attributes(body.get(12..)?).ip(1)?;
            let most = if ip.is_ipv4() { 32 } else { 128 };
            IpNet::new(ip, length)
                .ok()
                .filter(|_| (1..most).contains(&length) && !everywhere(ip))
        };
        Ok(self.query(batch)?.iter().filter_map(read).collect())
    }

    /// The tunnel entries of VXLAN device `index`.
    ///
    /// # Errors
    /// [`crate::Error::Netlink`].
    pub fn tunnel_entries(&mut self, index: u32) -> Result<Vec<FdbEntry>> {
        let mut batch = Batch::default();
        batch.request(RTM_GETNEIGH, libc::NLM_F_DUMP, "list forwarding entries", |m| {
            m.raw(&[7; 1]).raw(&[0; 11]);
        });
        let read = |body: &Vec<u8>| {
            let attributes = Attributes(body.get(12..)?);
            if number(body, 4) != index || body.get(10)? & NTF_SELF == 0 {
                return None;
            }
            Some(FdbEntry {
                mac: attributes.value(2)?.try_into().ok()?,
                vtep: attributes.ip(1)?,
            })
        };
        Ok(self.query(batch)?.iter().filter_map(read).collect())
    }
}

fn link(body: &[u8]) -> Option<Link> {
    let attributes = Attributes(body.get(16..)?);
    Some(Link {
        index: number(body, 4),
        name: attributes.string(3)?,
        mtu: attributes.u32(4).unwrap_or(1500),
        running: attributes.value(16) == Some(&[6][..]), // IFLA_OPERSTATE, IF_OPER_UP
        kind: attributes.nested(18).string(1).unwrap_or_default(),
    })
}
