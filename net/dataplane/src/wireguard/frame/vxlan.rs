//! What goes before each frame inside the tunnel: IPv4 from tunnel address to tunnel address, UDP, VXLAN (RFC 7348). The same bytes that
//! a kernel's VXLAN device over a WireGuard device writes, so either end may be one.

use std::net::Ipv4Addr;

use super::{
    checksum::{fold, sum},
    layout::UDP,
};

/// IPv4, UDP and VXLAN.
pub(crate) const HEADERS: usize = 20 + 8 + 8;
/// The port registered for VXLAN.
pub(crate) const PORT: u16 = 4789;
/// A network identifier is below.
pub(crate) const VNI_LIMIT: u32 = 1 << 24;

const ETHERNET: usize = 14;
const HOPS: u8 = 64;

/// The ends of a frame's way, as its headers name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Tunnel address that sends.
    pub(crate) from: Ipv4Addr,
    /// Tunnel address that receives.
    pub(crate) to: Ipv4Addr,
    /// The network.
    pub(crate) vni: u32,
}

impl Route {
    /// Writes the headers into the first [`HEADERS`] bytes of `packet`; the frame is behind them.
    pub(crate) fn write(&self, packet: &mut [u8], source_port: u16) {
        let length = packet.len();
        let Some(headers) = packet.first_chunk_mut::<HEADERS>() else {
            return;
        };
        headers.fill(0);
        headers[0] = 0x45;
        headers[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        // Don't fragment: the tunnel's ends count on whole packets.
        headers[6] = 0x40;
        headers[8] = HOPS;
        headers[9] = UDP;
        headers[12..16].copy_from_slice(&self.from.octets());
        headers[16..20].copy_from_slice(&self.to.octets());
        let checksum = !fold(sum(&headers[..20], 0));
        headers[10..12].copy_from_slice(&checksum.to_be_bytes());
        headers[20..22].copy_from_slice(&source_port.to_be_bytes());
        headers[22..24].copy_from_slice(&PORT.to_be_bytes());
        headers[24..26].copy_from_slice(&((length - 20) as u16).to_be_bytes());
        // No UDP checksum, as RFC 7348 recommends; the tunnel authenticates every byte.
        headers[28] = 0x08;
        headers[32..36].copy_from_slice(&(self.vni << 8).to_be_bytes());
    }

    /// Reads a packet from the tunnel and returns where it comes from and the frame in it.
    pub(crate) fn read(packet: &[u8]) -> Option<(Self, &[u8])> {
        let ip = packet.first_chunk::<20>()?;
        let header = usize::from(ip[0] & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff;
        if ip[0] >> 4 != 4 || header < 20 || fragment != 0 || ip[9] != UDP {
            return None;
        }
        let udp = packet.get(header..total)?;
        let (headers, _) = udp.split_first_chunk::<16>()?;
        let length = usize::from(u16::from_be_bytes([headers[4], headers[5]]));
        let for_vxlan = u16::from_be_bytes([headers[2], headers[3]]) == PORT && headers[8] & 0x08 != 0;
        let frame = udp.get(16..length)?;
        if !for_vxlan || frame.len() < ETHERNET {
            return None;
        }
        let route = Self {
            from: Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]),
            to: Ipv4Addr::new(ip[16], ip[17], ip[18], ip[19]),
            vni: u32::from_be_bytes([0, headers[12], headers[13], headers[14]]),
        };
        Some((route, frame))
    }
}

/// A source port from the frame's flow, so that what looks at the packets between tunnel and bridge can spread flows (RFC 7348 section 5).
pub(crate) fn source_port(frame: &[u8]) -> u16 {
    // Addresses and ports of IPv4 or IPv6 without options, or whatever stands there: only equal flows must be equal.
    let key = match (frame.get(12), frame.get(13)) {
        (Some(0x08), Some(0x00)) => frame.get(26..38),
        (Some(0x86), Some(0xdd)) => frame.get(22..58),
        _ => frame.get(..12),
    };
    let hash = key.unwrap_or_default().chunks(2).fold(0u32, |hash, pair| {
        let word = u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        (hash ^ word).wrapping_mul(0x9e37_79b1).rotate_left(13)
    });
    49_152 | (hash >> 18) as u16
}
