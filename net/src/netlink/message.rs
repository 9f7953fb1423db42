//! The netlink wire format (netlink(7), include/net/netlink.h): requests with nested attributes, gathered in a
//! batch, and the reading of attributes in answers.
use std::{borrow::Cow, net::IpAddr};

/// Length of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// `NLA_F_NESTED`.
pub const NESTED: u16 = 0x8000;
/// Bits of an attribute's type without its flags.
const TYPE_MASK: u16 = 0x3fff;

/// One request of a batch.
#[derive(Debug)]
pub struct Request {
    /// Offset of its header in the batch.
    pub start: usize,
    /// For error messages: what it does, with its operands.
    pub label: Cow<'static, str>,
    /// Errnos that mean that the work was done already.
    pub tolerated: &'static [i32],
}

/// Requests that are sent together.
#[derive(Debug, Default)]
pub struct Batch {
    /// The encoded messages.
    pub bytes: Vec<u8>,
    /// Where each one is.
    pub requests: Vec<Request>,
}

impl Batch {
    /// Appends a request. `flags` beyond `NLM_F_REQUEST`; `build` writes the family header and attributes.
    pub fn request(
        &mut self,
        kind: u16,
        flags: i32,
        label: impl Into<Cow<'static, str>>,
        build: impl FnOnce(&mut Message<'_>),
    ) -> &mut Self {
        let start = self.bytes.len();
        self.requests.push(Request {
            start,
            label: label.into(),
            tolerated: &[],
        });
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).expect("netlink flags have 16 bits");
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        build(&mut Message {
            bytes: &mut self.bytes,
        });
        let length = u32::try_from(self.bytes.len() - start).expect("a request is far below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        pad(&mut self.bytes);
        self
    }

    /// The last request may fail with one of these errnos.
    pub fn tolerate(&mut self, errnos: &'static [i32]) -> &mut Self {
        if let Some(last) = self.requests.last_mut() {
            last.tolerated = errnos;
        }
        self
    }

    /// Sets flags on request `index`.
    pub fn add_flags(&mut self, index: usize, flags: i32) {
        let at = self.requests[index].start + 6;
        let old = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        let new = old | u16::try_from(flags).expect("netlink flags have 16 bits");
        self.bytes[at..at + 2].copy_from_slice(&new.to_ne_bytes());
    }
}

/// A message that is being written.
#[derive(Debug)]
pub struct Message<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Message<'_> {
    /// Raw bytes: the family header.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// An attribute.
    pub fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).expect("attribute values are chunked below 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(self.bytes);
        self
    }

    /// A byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attr(kind, &[value])
    }

    /// A number in host order, as rtnetlink wants it.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A number in network order, as nfnetlink wants it.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A string with its final zero.
    pub fn string(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// An address.
    pub fn ip(&mut self, kind: u16, value: IpAddr) -> &mut Self {
        match value {
            IpAddr::V4(v4) => self.attr(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attr(kind, &v6.octets()),
        }
    }

    /// An attribute that holds attributes.
    pub fn nest(&mut self, kind: u16, build: impl FnOnce(&mut Message<'_>)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        build(&mut Message { bytes: self.bytes });
        let length =
            u16::try_from(self.bytes.len() - start).expect("nested attributes are chunked below 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Reads attributes one after the other; ends at the first malformed one.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of this type.
    pub fn value(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(k, _)| *k == kind).map(|(_, v)| v)
    }

    /// The attributes inside the first attribute of this type.
    pub fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes(self.value(kind).unwrap_or_default())
    }

    /// A number in host order.
    pub fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.value(kind)?.get(..4)?.try_into().ok()?))
    }

    /// A string up to its zero.
    pub fn string(self, kind: u16) -> Option<String> {
        let value = self.value(kind)?;
        let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }

    /// An address of four or sixteen bytes.
    pub fn ip(self, kind: u16) -> Option<IpAddr> {
        let value = self.value(kind)?;
        match value.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
            16 => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
            _ => None,
        }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut batch = Batch::default();
        batch.request(16, 0, "test", |m| {
            m.raw(&[0; 16]).string(3, "eth0").nest(18, |m| {
                m.u32(1, 7).u8(2, 1);
            });
        });
        let length = u32::from_ne_bytes(batch.bytes[..4].try_into().expect("four bytes"));
        assert_eq!(length as usize, batch.bytes.len());
        let attributes = Attributes(&batch.bytes[32..]);
        assert_eq!(attributes.string(3).as_deref(), Some("eth0"));
        assert_eq!(attributes.nested(18).u32(1), Some(7));
        assert_eq!(attributes.nested(18).value(2), Some(&[1][..]));
        assert_eq!(attributes.value(9), None);
    }

    #[test]
    fn malformed_attributes_end_the_reading() {
        for bytes in [&[1, 0, 0, 0][..], &[200, 0, 1, 0], &[3], &[0; 8]] {
            assert_eq!(Attributes(bytes).count(), 0, "{bytes:?}");
        }
    }
}
