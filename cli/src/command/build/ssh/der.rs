//! The one structure of DER that `ring` does not read by itself: `EC PRIVATE KEY` (RFC 5915), as `openssl ecparam` and
//! `ssh-keygen -m PEM` write it.

const INTEGER: u8 = 2;
const BITS: u8 = 3;
const OCTETS: u8 = 4;
const OBJECT: u8 = 6;
const SEQUENCE: u8 = 0x30;
const PARAMETERS: u8 = 0xa0;
const PUBLIC: u8 = 0xa1;

/// The curve's object identifier, the private number, and the public point; `None`: it is no such key, or leaves one out.
pub fn ec_private_key(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (SEQUENCE, key, _) = value(data)? else {
        return None;
    };
    let (INTEGER, [1], rest) = value(key)? else {
        return None;
    };
    let (OCTETS, private, rest) = value(rest)? else {
        return None;
    };
    let (PARAMETERS, curve, rest) = value(rest)? else {
        return None;
    };
    let (OBJECT, curve, _) = value(curve)? else {
        return None;
    };
    let (PUBLIC, public, _) = value(rest)? else {
        return None;
    };
    // The first byte of bits says how many of the last byte don't count.
    let (BITS, [0, public @ ..], _) = value(public)? else {
        return None;
    };
    Some((curve, private, public))
}

/// Tag and content of the first value, and what follows it.
fn value(data: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = data.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match *length {
        short @ 0..=0x7f => (usize::from(short), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => {
            let (bytes, rest) = rest.split_at_checked(2)?;
            (usize::from(bytes[0]) << 8 | usize::from(bytes[1]), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}
