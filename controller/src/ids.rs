//! Ids of cluster objects, by the machine's random numbers; reconcile and store get both time and ids as arguments.

use pontoon_raft::Host;

/// A fresh id for a cluster object.
pub(crate) fn new_id(host: &Host) -> String {
    let random = u128::from(host.random()) << 64 | u128::from(host.random());
    pontoon_proto::id::encode(random)
}
