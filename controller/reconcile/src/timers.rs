//! When something must be looked at again although nothing was written. Part of the reconciler's state; each entry
//! follows from the objects and is set again whenever its subject is looked at, so that none outlives a leader.

use std::collections::{BTreeMap, BTreeSet};

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

/// The time to look at each subject.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timers {
    by_time: BTreeSet<(i64, Subject)>,
    times: BTreeMap<Subject, i64>,
}

impl Timers {
    /// Asks for a look at `subject` at `at`, if none is asked for before that.
    pub(crate) fn set(&mut self, at: i64, subject: Subject) {
        if self.times.get(&subject).is_some_and(|earlier| *earlier <= at) {
            return;
        }
        self.clear(&subject);
        self.times.insert(subject.clone(), at);
        self.by_time.insert((at, subject));
    }

    /// Forgets a subject: it is being looked at now.
    pub(crate) fn clear(&mut self, subject: &Subject) {
        if let Some((subject, at)) = self.times.remove_entry(subject) {
            self.by_time.remove(&(at, subject));
        }
    }

    /// Takes the next subject that is due at `now`.
    pub(crate) fn pop_due(&mut self, now: i64) -> Option<Subject> {
        if self.by_time.first()?.0 > now {
            return None;
        }
        let (_, subject) = self.by_time.pop_first()?;
        self.times.remove(&subject);
        Some(subject)
    }

    /// The earliest time asked for.
    pub(crate) fn next(&self) -> Option<i64> {
        self.by_time.first().map(|(at, _)| *at)
    }
}
