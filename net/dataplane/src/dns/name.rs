//! Names in wire form (RFC 1035 section 3.1), lower-cased: the keys of the tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest name on the wire, with its final zero.
pub(crate) const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;

/// A lower-cased wire name without allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name {
    bytes: [u8; MAX_NAME],
    len: u8,
}

impl Name {
    /// Reads the name at the start of `wire`. A question's name is never compressed, so a pointer is malformed.
    pub(crate) fn read(wire: &[u8]) -> Option<Self> {
        let mut name = Self {
            bytes: [0; MAX_NAME],
            len: 0,
        };
        let mut at = 0;
        loop {
            let label = usize::from(*wire.get(at)?);
            if label > MAX_LABEL || at + label + 1 > MAX_NAME {
                return None;
            }
            let end = at + label + 1;
            let text = wire.get(at + 1..end)?;
            *name.bytes.get_mut(at)? = u8::try_from(label).ok()?;
            name.bytes.get_mut(at + 1..end)?.copy_from_slice(text);
            if label == 0 {
                name.len = u8::try_from(end).ok()?;
                // Length bytes are at most 63, below 'A': the whole can be lower-cased at once.
                name.bytes[..end].make_ascii_lowercase();
                return Some(name);
            }
            at = end;
        }
    }

    /// The wire form, with its final zero.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The wire form of a dotted name; `None` if DNS cannot express it (empty or long label, too long).
pub(crate) fn to_wire(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let mut wire = Vec::with_capacity(text.len() + 2);
    for label in text.split('.') {
        if label.is_empty() || label.len() > MAX_LABEL {
            return None;
        }
        wire.push(u8::try_from(label.len()).ok()?);
        wire.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
    }
    wire.push(0);
    (wire.len() <= MAX_NAME).then_some(wire)
}

/// The address that a name under in-addr.arpa or ip6.arpa (RFC 1035 section 3.5, RFC 3596 section 2.5) stands for.
pub(crate) fn reverse_address(wire: &[u8]) -> Option<IpAddr> {
    if let Some(labels) = wire.strip_suffix(b"\x07in-addr\x04arpa\x00") {
        let mut octets = [0u8; 4];
        let mut rest = labels;
        for octet in octets.iter_mut().rev() {
            let (label, tail) = split_label(rest)?;
            let text = std::str::from_utf8(label).ok()?;
            if !text.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            *octet = text.parse().ok()?;
            rest = tail;
        }
        return rest.is_empty().then(|| Ipv4Addr::from(octets).into());
    }
    let mut rest = wire.strip_suffix(b"\x03ip6\x04arpa\x00")?;
    let mut bits = 0u128;
    for place in 0..32 {
        let (label, tail) = split_label(rest)?;
        let [digit] = label else { return None };
        bits |= u128::from(char::from(*digit).to_digit(16)?) << (4 * place);
        rest = tail;
    }
    rest.is_empty().then(|| Ipv6Addr::from(bits).into())
}

fn split_label(wire: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = wire.split_first()?;
    rest.split_at_checked(len.into())
}
