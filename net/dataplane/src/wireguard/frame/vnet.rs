//! The `virtio_net_hdr` that goes before each frame on a TAP with offload (linux/virtio_net.h, in the machine's
//! byte order, which is the kernel's default). The kernel writes it for frames that it leaves to us to cut and sum up, we for those that we joined.

/// Length of the header.
pub(crate) const LENGTH: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const ECN: u8 = 0x80;

/// What a frame is made of that is longer than the network's MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP datagrams of one size, over either.
    Udp,
}

/// How a long frame is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segmentation {
    /// What is in it.
    pub(crate) kind: Kind,
    /// Payload of each segment but the last.
    pub(crate) size: u16,
}

/// A parsed header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// Where the bytes that are yet to be summed up begin, and where in them the sum goes.
    pub(crate) checksum: Option<(u16, u16)>,
    /// How it is cut.
    pub(crate) segmentation: Option<Segmentation>,
}

impl Header {
    /// Reads a header and returns it with the frame behind it; nothing if there is none or we did not ask for its kind.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, frame) = bytes.split_first_chunk::<LENGTH>()?;
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let kind = match header[1] & !ECN {
            0 => None,
            1 => Some(Kind::Tcp4),
            4 => Some(Kind::Tcp6),
            5 => Some(Kind::Udp),
            _ => return None,
        };
        let segmentation = match kind {
            None => None,
            Some(_) if word(4) == 0 => return None,
            Some(kind) => Some(Segmentation { kind, size: word(4) }),
        };
        let checksum = (header[0] & NEEDS_CHECKSUM != 0).then(|| (word(6), word(8)));
        let parsed = Self {
            checksum,
            segmentation,
        };
        Some((parsed, frame))
    }

    /// The header's bytes, for a frame whose headers are `headers` long.
    pub(crate) fn encode(&self, headers: u16) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        if let Some((start, offset)) = self.checksum {
            bytes[0] = NEEDS_CHECKSUM;
            bytes[6..8].copy_from_slice(&start.to_ne_bytes());
            bytes[8..10].copy_from_slice(&offset.to_ne_bytes());
        }
        if let Some(Segmentation { kind, size }) = self.segmentation {
            bytes[1] = match kind {
                Kind::Tcp4 => 1,
                Kind::Tcp6 => 4,
                Kind::Udp => 5,
            };
            bytes[2..4].copy_from_slice(&headers.to_ne_bytes());
            bytes[4..6].copy_from_slice(&size.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for kind in [Kind::Tcp4, Kind::Tcp6, Kind::Udp] {
            let header = Header {
                checksum: Some((34, 16)),
                segmentation: Some(Segmentation { kind, size: 1400 }),
            };
            let mut bytes = header.encode(54).to_vec();
            bytes.extend(b"frame");
            assert_eq!(Header::parse(&bytes), Some((header, &b"frame"[..])));
        }
        assert_eq!(
            Header::parse(&Header::default().encode(0)),
            Some((Header::default(), &[][..]))
        );
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Header::parse(&[0; 9]), None);
        // A kind that nobody asked for (UFO), and segments of no length.
        assert_eq!(Header::parse(&[1, 3, 0, 0, 1, 0, 0, 0, 0, 0]), None);
        assert_eq!(Header::parse(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
