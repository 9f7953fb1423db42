//! Where the headers of an Ethernet frame are. Everything is checked against the frame's length once, here.

use super::checksum::pseudo_header;

/// TCP's protocol number.
pub(crate) const TCP: u8 = 6;
/// UDP's protocol number.
pub(crate) const UDP: u8 = 17;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;

/// The layout of a frame with TCP or UDP directly over IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// IPv6, else IPv4.
    pub(crate) v6: bool,
    /// Offset of the IP header.
    pub(crate) network: usize,
    /// Offset of the TCP or UDP header.
    pub(crate) transport: usize,
    /// Offset of the payload.
    pub(crate) payload: usize,
    /// Offset behind the IP packet; frames are padded to 60 bytes.
    pub(crate) end: usize,
    /// TCP or UDP.
    pub(crate) protocol: u8,
}

impl Layout {
    /// Looks a frame through; nothing if it is not a whole TCP segment or UDP datagram, or has extension headers.
    /// `whole` is false for a frame that the kernel left uncut: its IP length may have no meaning (0 above 64 KiB).
    pub(crate) fn of(frame: &[u8], whole: bool) -> Option<Self> {
        let mut network = ETHERNET;
        let mut kind = frame.get(network - 2..network)?;
        // Containers may use VLANs among themselves.
        while matches!(kind, [0x81, 0x00] | [0x88, 0xa8]) {
            network += 4;
            kind = frame.get(network - 2..network)?;
        }
        let ip = frame.get(network..)?;
        let (v6, transport, length, protocol) = match kind {
            [0x08, 0x00] => {
                let header = ip.first_chunk::<IPV4>()?;
                let length = usize::from(header[0] & 0xf) * 4;
                let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
                if header[0] >> 4 != 4 || length < IPV4 || fragment != 0 {
                    return None;
                }
                let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
                (false, network + length, total, header[9])
            }
            [0x86, 0xdd] => {
                let header = ip.first_chunk::<IPV6>()?;
                if header[0] >> 4 != 6 {
                    return None;
                }
                let total = IPV6 + usize::from(u16::from_be_bytes([header[4], header[5]]));
                (true, network + IPV6, total, header[6])
            }
            _ => return None,
        };
        let end = if whole { network + length } else { frame.len() };
        let header = match protocol {
            TCP => usize::from(frame.get(transport + 12)? >> 4) * 4,
            UDP => 8,
            _ => return None,
        };
        let least = if protocol == TCP { 20 } else { 8 };
        let payload = transport + header;
        (header >= least && payload <= end && end <= frame.len()).then_some(Self {
            v6,
            network,
            transport,
            payload,
            end,
            protocol,
        })
    }

    /// The IP addresses as they stand in the header.
    pub(crate) fn addresses<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let (from, to) = if self.v6 { (8, 40) } else { (12, 20) };
        &frame[self.network + from..self.network + to]
    }

    /// The pseudo header's sum for a transport header and payload of `length` bytes.
    pub(crate) fn pseudo_header(&self, frame: &[u8], length: usize) -> u32 {
        pseudo_header(self.addresses(frame), self.protocol, length)
    }

    /// Offset of the checksum within the transport header.
    pub(crate) fn checksum_offset(&self) -> usize {
        if self.protocol == TCP { 16 } else { 6 }
    }

    /// Writes the IP length of a frame that ends at `end`, and in IPv4 the header's checksum.
    pub(crate) fn set_length(&self, frame: &mut [u8], end: usize) {
        let ip = &mut frame[self.network..self.transport];
        let length = end - self.network;
        if self.v6 {
            ip[4..6].copy_from_slice(&((length - IPV6) as u16).to_be_bytes());
        } else {
            ip[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            ip[10..12].fill(0);
            let sum = !super::checksum::fold(super::checksum::sum(ip, 0));
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
}
