//! The nodes and what is used of each: sums that follow the tasks, and where each service has its own. Kept in the reconciler's
//! state from the differences that it takes in (`state`), and by the scheduler as it decides.
//!
//! A node has a number here, its seat, as long as the state lives. What happens to seats is noted in order, so that an index over
//! them (`shape`) brings itself up to date by what was touched since it was last used, however many indexes there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pontoon_proto::v1::{Node, Resources};
use pontoon_store::Id;

use super::failures::Failures;
use crate::demand::{Share, Usage, capacity};

/// A node's number. It says nothing of the order of nodes: that is the rank's.
pub(crate) type Seat = u32;

/// Between the ranks of nodes that follow each other.
const GAP: u64 = 1 << 32;

/// A node's entry.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: Id,
    /// None: it is not in the cluster, yet or any more.
    pub(super) node: Option<Arc<Node>>,
    pub(super) capacity: Resources,
    pub(super) usage: Usage,
    /// Ranks are in the order of ids.
    pub(super) rank: u64,
    /// The journal's end when it was last touched.
    touched: u64,
}

/// That something happened to a seat.
#[derive(Debug, Clone, Copy)]
pub(super) struct Touch {
    pub(super) seat: Seat,
    /// The node itself is another one, not only what is used of it.
    pub(super) node: bool,
}

/// All nodes, and what their tasks use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roster {
    entries: Vec<Entry>,
    seats: HashMap<Id, Seat>,
    order: BTreeMap<Id, Seat>,
    /// How each placed task is counted, and where.
    shares: BTreeMap<Id, (Seat, Share)>,
    /// By service, its tasks that are to run: how many on which seat.
    spots: HashMap<Id, BTreeMap<Seat, usize>>,
    pub(crate) failures: Failures,
    journal: Vec<Touch>,
    /// How many touches the journal no longer holds.
    forgotten: u64,
    /// Counts how often all ranks were given anew.
    pub(super) epoch: u64,
}

impl Roster {
    /// The seat of a node, which may be unknown until now.
    pub(crate) fn seat(&mut self, id: &str) -> Seat {
        if let Some(seat) = self.seats.get(id.as_bytes()) {
            return *seat;
        }
        let id = Id::from(id);
        let seat = Seat::try_from(self.entries.len()).expect("fewer than 2^32 nodes");
        let before = self.order.range(..id.clone()).next_back().map(|(_, seat)| *seat);
        let after = self.order.range(id.clone()..).next().map(|(_, seat)| *seat);
        let low = before.map_or(0, |seat| self.entry(seat).rank);
        let high = after.map_or_else(|| low.saturating_add(2 * GAP), |seat| self.entry(seat).rank);
        self.seats.insert(id.clone(), seat);
        self.order.insert(id.clone(), seat);
        self.entries.push(Entry {
            id,
            node: None,
            capacity: Resources::default(),
            usage: Usage::default(),
            rank: low + (high - low) / 2,
            touched: 0,
        });
        if high - low < 2 {
            self.rank_anew();
        }
        seat
    }

    /// No rank is left between two neighbours.
    fn rank_anew(&mut self) {
        for (seat, rank) in self.order.values().zip(1..) {
            self.entries[*seat as usize].rank = rank * GAP;
        }
        self.epoch += 1;
    }

    pub(super) fn entry(&self, seat: Seat) -> &Entry {
        &self.entries[seat as usize]
    }

    /// How many seats there are, those of nodes that are gone among them.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What is used of a node.
    pub(crate) fn usage(&self, id: &str) -> Option<&Usage> {
        let seat = self.seats.get(id.as_bytes())?;
        Some(&self.entry(*seat).usage)
    }

    /// Takes in what became of a node.
    pub(crate) fn set_node(&mut self, id: &str, node: Option<&Arc<Node>>) {
        let seat = self.seat(id);
        let entry = &mut self.entries[seat as usize];
        entry.capacity = node.map(|node| capacity(node)).unwrap_or_default();
        entry.node = node.cloned();
        self.touch(seat, true);
    }

    /// The service's tasks that are to run, by seat.
    pub(super) fn spots(&self, service: &Id) -> Option<&BTreeMap<Seat, usize>> {
        self.spots.get(service)
    }

    /// The service's tasks that are to run on a node.
    pub(super) fn of_service(&self, service: &Id, seat: Seat) -> usize {
        let spots = self.spots.get(service);
        spots.and_then(|spots| spots.get(&seat)).copied().unwrap_or(0)
    }

    /// How a task is counted.
    pub(crate) fn share(&self, task: &str) -> Option<(&Id, &Share)> {
        let (seat, share) = self.shares.get(task.as_bytes())?;
        Some((&self.entry(*seat).id, share))
    }

    /// Counts a task on a node. It must not be counted yet.
    pub(crate) fn add(&mut self, task: Id, seat: Seat, share: Share) {
        share.add(&mut self.entries[seat as usize].usage);
        if share.active {
            if let Some(spots) = self.spots.get_mut(&share.demand.service) {
                *spots.entry(seat).or_default() += 1;
            } else {
                self.spots
                    .insert(share.demand.service.clone(), BTreeMap::from([(seat, 1)]));
            }
        }
        self.shares.insert(task, (seat, share));
        self.touch(seat, false);
    }

    /// Counts a task no longer; false if it was not counted.
    pub(crate) fn take(&mut self, task: &str) -> bool {
        let Some((seat, share)) = self.shares.remove(task.as_bytes()) else {
            return false;
        };
        share.take(&mut self.entries[seat as usize].usage);
        if share.active
            && let Some(spots) = self.spots.get_mut(&share.demand.service)
        {
            if let Some(count) = spots.get_mut(&seat) {
                *count -= 1;
                if *count == 0 {
                    spots.remove(&seat);
                }
            }
            if spots.is_empty() {
                self.spots.remove(&share.demand.service);
            }
        }
        self.touch(seat, false);
        true
    }

    fn touch(&mut self, seat: Seat, node: bool) {
        // An index that is further behind than this is made anew sooner than it would catch up.
        if self.journal.len() > 4 * self.entries.len() + 1024 {
            let old = self.journal.len() / 2;
            self.journal.drain(..old);
            self.forgotten += old as u64;
        }
        self.journal.push(Touch { seat, node });
        self.entries[seat as usize].touched = self.now();
    }

    /// The journal's end.
    pub(super) fn now(&self) -> u64 {
        self.forgotten + self.journal.len() as u64
    }

    /// What was touched since the journal ended at `then`; none if that is too long ago.
    pub(super) fn since(&self, then: u64) -> Option<&[Touch]> {
        let known = then.checked_sub(self.forgotten)?;
        self.journal.get(usize::try_from(known).ok()?..)
    }

    /// Whether anything happened to a node since the journal ended at `then`.
    pub(super) fn is_touched(&self, id: &str, then: u64) -> bool {
        let seat = self.seats.get(id.as_bytes());
        seat.is_none_or(|seat| self.entry(*seat).touched > then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_in_the_order_of_ids_however_nodes_come() {
        let mut roster = Roster::default();
        let first = roster.epoch;
        // Each before all others, then each in the middle: the gaps are used up several times.
        let before = (0..200).rev().map(|number| format!("a{number:03}"));
        let middle =
            (0..200).map(|number| format!("b{:03}", if number % 2 == 0 { number } else { 999 - number }));
        for id in before.chain(middle) {
            roster.seat(&id);
        }
        let ranks: Vec<u64> = roster
            .order
            .values()
            .map(|seat| roster.entry(*seat).rank)
            .collect();
        assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
        assert!(roster.epoch > first);
        let ids: Vec<_> = roster.order.keys().cloned().collect();
        for id in ids {
            let seat = roster.seat(&id);
            assert!(roster.entry(seat).id == id);
        }
        assert_eq!(roster.len(), 400);
    }
}
