//! Where tasks failed lately: nodes on which a version of a service keeps failing come last for it. Noted by the reconciler's
//! state as it takes in what ended, read where a group's candidates are scored.

use std::collections::{BTreeMap, HashMap};

use pontoon_store::Id;

use super::roster::Seat;
use crate::defaults;

/// Times of failures by service, spec version and node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failures {
    times: HashMap<Id, BTreeMap<(u64, Seat), Vec<i64>>>,
    /// How many there are, and how many there may be before those that are too old are looked for.
    count: usize,
    most: usize,
}

impl Failures {
    /// Notes a failure at `at`.
    pub(crate) fn add(&mut self, service: &Id, version: u64, seat: Seat, at: i64) {
        let of_service = self.times.entry(service.clone()).or_default();
        of_service.entry((version, seat)).or_default().push(at);
        self.count += 1;
        if self.count > self.most {
            self.forget_old(at);
            self.most = 2 * self.count + 64;
        }
    }

    fn forget_old(&mut self, now: i64) {
        let mut count = 0;
        self.times.retain(|_, of_service| {
            of_service.retain(|_, times| {
                times.retain(|time| now - *time < defaults::FAILURE_WINDOW);
                count += times.len();
                !times.is_empty()
            });
            !of_service.is_empty()
        });
        self.count = count;
    }

    /// Forgets a service that was removed.
    pub(crate) fn forget(&mut self, service: &Id) {
        if let Some(of_service) = self.times.remove(service) {
            self.count -= of_service.values().map(Vec::len).sum::<usize>();
        }
    }

    /// Nodes on which the version failed so often lately that they are to be avoided, and how often.
    pub(super) fn of(&self, service: &Id, version: u64, now: i64) -> impl Iterator<Item = (Seat, usize)> {
        let of_service = self.times.get(service).into_iter();
        let of_version = of_service.flat_map(move |times| times.range((version, 0)..=(version, Seat::MAX)));
        of_version.filter_map(move |((_, seat), times)| {
            let recent = times
                .iter()
                .filter(|time| now - **time < defaults::FAILURE_WINDOW);
            let recent = recent.count();
            (recent >= defaults::MAX_FAILURES).then_some((*seat, recent))
        })
    }
}
