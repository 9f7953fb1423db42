//! The clock and the source of ids of the impure side; reconcile and store get both as arguments.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A fresh id for a cluster object.
pub(crate) fn new_id() -> String {
    pontoon_proto::id::encode(rand::random())
}
