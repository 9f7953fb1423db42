//! Which peer a tunnel address belongs to (WireGuard's "cryptokey routing"): longest prefix first.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::peer::Peer;
use crate::wireguard::spec::Prefix;

/// Peers by their addresses. One look-up a prefix length that is in use; in a mesh that is one.
#[derive(Debug, Default)]
pub(crate) struct Allowed {
    lengths: BTreeMap<(bool, Reverse<u8>), HashMap<u128, Arc<Peer>>>,
}

/// The bits of an address that a prefix of this length has.
fn masked(address: IpAddr, length: u8) -> (bool, u128) {
    let (v6, bits, width) = match address {
        IpAddr::V4(v4) => (false, u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (true, v6.to_bits(), 128),
    };
    let unused = width - u32::from(length).min(width);
    (v6, bits.checked_shr(unused).unwrap_or(0))
}

impl Allowed {
    /// Whose address this is.
    pub(crate) fn find(&self, address: IpAddr) -> Option<&Arc<Peer>> {
        let v6 = address.is_ipv6();
        let family = (v6, Reverse(u8::MAX))..=(v6, Reverse(0));
        self.lengths
            .range(family)
            .find_map(|((_, Reverse(length)), peers)| peers.get(&masked(address, *length).1))
    }

    /// Gives a prefix to a peer; returns who had it.
    pub(crate) fn insert(&mut self, prefix: Prefix, peer: &Arc<Peer>) -> Option<Arc<Peer>> {
        let (v6, bits) = masked(prefix.address, prefix.length);
        let peers = self.lengths.entry((v6, Reverse(prefix.length))).or_default();
        peers.insert(bits, Arc::clone(peer))
    }

    /// Takes a prefix from a peer, if it has it.
    pub(crate) fn remove(&mut self, prefix: Prefix, peer: &Arc<Peer>) {
        let (v6, bits) = masked(prefix.address, prefix.length);
        let key = (v6, Reverse(prefix.length));
        let Some(peers) = self.lengths.get_mut(&key) else {
            return;
        };
        if peers.get(&bits).is_some_and(|owner| Arc::ptr_eq(owner, peer)) {
            peers.remove(&bits);
        }
        if peers.is_empty() {
            self.lengths.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let peers: Vec<_> = (0..4).map(|_| Arc::new(Peer::default())).collect();
        let mut allowed = Allowed::default();
        let prefixes = ["0.0.0.0/0", "10.1.0.0/16", "10.1.2.3/32", "::/0"];
        for (text, peer) in prefixes.iter().zip(&peers) {
            assert!(allowed.insert(text.parse().unwrap(), peer).is_none());
        }
        let find = |allowed: &Allowed, address: &str| {
            let found = allowed.find(address.parse().unwrap())?;
            peers.iter().position(|peer| Arc::ptr_eq(peer, found))
        };
        assert_eq!(find(&allowed, "9.9.9.9"), Some(0));
        assert_eq!(find(&allowed, "10.1.9.9"), Some(1));
        assert_eq!(find(&allowed, "10.1.2.3"), Some(2));
        assert_eq!(find(&allowed, "fd00::1"), Some(3));
        // Host bits do not matter, and another's prefix can't be taken away.
        allowed.remove("10.1.77.1/16".parse().unwrap(), &peers[0]);
        assert_eq!(find(&allowed, "10.1.9.9"), Some(1));
        allowed.remove("10.1.77.1/16".parse().unwrap(), &peers[1]);
        assert_eq!(find(&allowed, "10.1.9.9"), Some(0));
        let before = allowed.insert("0.0.0.0/0".parse().unwrap(), &peers[2]).unwrap();
        assert!(Arc::ptr_eq(&before, &peers[0]));
        allowed.remove("::/0".parse().unwrap(), &peers[3]);
        assert_eq!(find(&allowed, "fd00::1"), None);
    }
}
