//! When something must be looked at again although nothing was written. Part of the reconciler's state; each entry
//! follows from the objects and is set again whenever its subject is looked at, so that none outlives a leader.

use std::collections::BTreeSet;

use pontoon_store::Id;

/// A replica's place in a service: the slot number and no node, or 0 and the node (global services).
pub(crate) type SlotKey = (u64, Id);

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// A slot of a service.
    Slot(Id, SlotKey),
    /// A service with an update under way.
    Service(Id),
    /// A node that is down.
    Node(Id),
}

/// Subjects by time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timers(BTreeSet<(i64, Subject)>);

impl Timers {
    /// Asks for a look at `subject` at `at`.
    pub(crate) fn set(&mut self, at: i64, subject: Subject) {
        self.0.insert((at, subject));
    }

    /// Takes the next subject that is due at `now`.
    pub(crate) fn pop_due(&mut self, now: i64) -> Option<Subject> {
        if self.0.first()?.0 > now {
            return None;
        }
        self.0.pop_first().map(|(_, subject)| subject)
    }

    /// The earliest time asked for.
    pub(crate) fn next(&self) -> Option<i64> {
        self.0.first().map(|(at, _)| *at)
    }
}
