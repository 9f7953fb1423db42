//! Requests on neighbour tables and bridge forwarding databases (linux/neighbour.h, bridge(8)).
//!
//! Two traps: an entry with `NTF_MASTER` in state PERMANENT is a *local* one, whose frames go up the bridge instead
//! of out of the port, so static ones are NOARP; and ARP suppression looks up the neighbour on the *bridge* device.
use std::net::IpAddr;

use super::{Batch, Message, address::family};

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 2;
const NTF_MASTER: u8 = 4;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// One entry of a neighbour table or forwarding database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Neighbour {
    /// VXLAN device `index`: frames to `mac` go to the node at `vtep`.
    Tunnel {
        /// The VXLAN device.
        index: u32,
        /// Destination MAC.
        mac: [u8; 6],
        /// The node's underlay address.
        vtep: IpAddr,
    },
    /// Bridge port `index`: frames to `mac` leave here.
    Port {
        /// The port.
        index: u32,
        /// Destination MAC.
        mac: [u8; 6],
    },
    /// Link `index`: `ip` has `mac`.
    Address {
        /// The link, for ARP suppression the bridge.
        index: u32,
        /// Address.
        ip: IpAddr,
        /// Its MAC.
        mac: [u8; 6],
    },
}

impl Neighbour {
    fn write(self, m: &mut Message<'_>) {
        let bridge = u8::try_from(libc::AF_BRIDGE).expect("AF_BRIDGE is 7");
        let (family, index, state, flags) = match self {
            Self::Tunnel { index, .. } => (bridge, index, NUD_PERMANENT, NTF_SELF),
            Self::Port { index, .. } => (bridge, index, NUD_NOARP, NTF_MASTER),
            Self::Address { index, ip, .. } => (family(ip), index, NUD_PERMANENT, 0),
        };
        m.raw(&[family, 0, 0, 0])
            .raw(&index.to_ne_bytes())
            .raw(&state.to_ne_bytes())
            .raw(&[flags, 0]);
        match self {
            Self::Tunnel { mac, vtep, .. } => m.attr(NDA_LLADDR, &mac).ip(NDA_DST, vtep),
            Self::Port { mac, .. } => m.attr(NDA_LLADDR, &mac),
            Self::Address { ip, mac, .. } => m.ip(NDA_DST, ip).attr(NDA_LLADDR, &mac),
        };
    }

    fn label(self, verb: &str) -> String {
        match self {
            Self::Tunnel { mac, vtep, .. } => format!("{verb} tunnel entry {} to {vtep}", MacText(mac)),
            Self::Port { index, mac } => format!("{verb} forwarding entry {} on port {index}", MacText(mac)),
            Self::Address { ip, mac, .. } => format!("{verb} neighbour {ip} at {}", MacText(mac)),
        }
    }
}

impl std::fmt::Display for Neighbour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tunnel { mac, vtep, .. } => write!(f, "{} to {vtep}", MacText(*mac)),
            Self::Port { index, mac } => write!(f, "{} on port {index}", MacText(*mac)),
            Self::Address { ip, mac, .. } => write!(f, "{ip} at {}", MacText(*mac)),
        }
    }
}

struct MacText([u8; 6]);

impl std::fmt::Display for MacText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Batch {
    /// Adds or replaces an entry.
    pub fn add_neighbour(&mut self, entry: Neighbour) -> &mut Self {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.request(RTM_NEWNEIGH, flags, entry.label("set"), |m| entry.write(m))
    }

    /// Removes an entry; one that is gone, also with its device, is fine.
    pub fn remove_neighbour(&mut self, entry: Neighbour) -> &mut Self {
        self.request(RTM_DELNEIGH, 0, entry.label("remove"), |m| entry.write(m))
            .tolerate(&[libc::ENOENT, libc::ENODEV, libc::EINVAL])
    }
}
