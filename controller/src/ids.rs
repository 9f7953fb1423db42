//! Ids of cluster objects, by the machine's random numbers; reconcile and store get both time and ids as arguments.

use pontoon_raft::Host;

/// Bits that neighbours share: about four characters. What is left to chance is still more than any cluster can use up.
const SHARED: u32 = 20;

/// A fresh id for a cluster object.
pub(crate) fn new_id(host: &Host) -> String {
    let random = u128::from(host.random()) << 64 | u128::from(host.random());
    pontoon_proto::id::encode(random)
}

/// Makes ids that begin alike. What is made in one entry is changed, read and removed together most of the time: in the maps, which are ordered
/// by ids, it then lies together, and a version of them shares all the rest with the one before.
pub(crate) fn neighbours(host: &Host) -> impl FnMut() -> String {
    let place = u128::from(host.random()) << 64;
    let rest = u128::MAX >> SHARED;
    move || {
        let random = u128::from(host.random()) << 64 | u128::from(host.random());
        pontoon_proto::id::encode(place & !rest | random & rest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn neighbours_are_different_and_begin_alike() {
        let host = Host::default();
        let mut make = neighbours(&host);
        let ids: BTreeSet<String> = (0..1000).map(|_| make()).collect();
        assert_eq!(ids.len(), 1000);
        let begin = |id: &str| u128::from_str_radix(id, 36).unwrap() >> (128 - SHARED);
        let begins: BTreeSet<u128> = ids.iter().map(|id| begin(id)).collect();
        assert_eq!(begins.len(), 1);
    }
}
