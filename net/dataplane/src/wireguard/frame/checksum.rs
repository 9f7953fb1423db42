//! The Internet checksum (RFC 1071). Called for each segment that is cut, and for each that is joined.

/// The sum of `bytes` as big-endian 16-bit words, folded to 16 bits, on top of `sum`. An odd last byte counts as the upper half of a
/// word, so only the last part of a sum may be odd.
pub(crate) fn sum(bytes: &[u8], sum: u32) -> u32 {
    // One's complement addition does not care for the width of the words: eight bytes at a time.
    let mut wide = u64::from(sum);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        if let Ok(word) = <[u8; 8]>::try_from(chunk) {
            let (added, carry) = wide.overflowing_add(u64::from_be_bytes(word));
            wide = added + u64::from(carry);
        }
    }
    let mut rest = [0; 8];
    let tail = chunks.remainder();
    rest[..tail.len()].copy_from_slice(tail);
    let (added, carry) = wide.overflowing_add(u64::from_be_bytes(rest));
    wide = added + u64::from(carry);
    wide = (wide >> 32) + (wide & 0xffff_ffff);
    wide = (wide >> 32) + (wide & 0xffff_ffff);
    u32::from(fold(wide as u32))
}

/// A sum brought down to 16 bits.
pub(crate) fn fold(sum: u32) -> u16 {
    let once = (sum >> 16) + (sum & 0xffff);
    ((once >> 16) + (once & 0xffff)) as u16
}

/// The sum of the pseudo header of TCP and UDP: addresses (both, as they stand in the IP header), protocol and length.
pub(crate) fn pseudo_header(addresses: &[u8], protocol: u8, length: usize) -> u32 {
    // Lengths are below 2^17: two words.
    let length = length as u32;
    sum(
        addresses,
        u32::from(protocol) + (length >> 16) + (length & 0xffff),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([pair[0], low]));
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn is_what_the_standard_says(bytes in proptest::collection::vec(any::<u8>(), 0..200), before in 0u32..0xffff) {
            let expected = naive(&bytes);
            prop_assert_eq!(fold(sum(&bytes, 0)), expected);
            let mut joined = (before as u16).to_be_bytes().to_vec();
            joined.extend(&bytes);
            prop_assert_eq!(fold(sum(&bytes, before)), naive(&joined));
        }
    }

    #[test]
    fn large_sums_fold() {
        assert_eq!(fold(sum(&[0xff; 64], 0xffff)), 0xffff);
        assert_eq!(fold(0xffff_ffff), 0xffff);
        assert_eq!(pseudo_header(&[0; 8], 6, 70_000), 6 + 1 + 4464);
    }
}
