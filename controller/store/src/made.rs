//! What a transaction has made: the entry for the log, and what applying it leads to. The writer that made it need not decode and apply its own
//! entry: when that commits, [`Store::publish`](crate::Store::publish) takes what is known already.

use crate::{Event, Snapshot};

/// A changeset, and what it leads to. Made by [`Tx::finish`](crate::Tx::finish).
#[derive(Debug)]
pub struct Made {
    /// The encoded changeset.
    pub entry: Vec<u8>,
    pub(crate) base: Snapshot,
    pub(crate) next: Snapshot,
    pub(crate) at: i64,
    pub(crate) events: Vec<Event>,
}

impl Made {
    /// The snapshot that it leads to.
    #[must_use]
    pub fn next(&self) -> &Snapshot {
        &self.next
    }

    /// When it was made.
    #[must_use]
    pub fn at(&self) -> i64 {
        self.at
    }
}
