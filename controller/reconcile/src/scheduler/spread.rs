//! Which of the nodes that can take a task takes it: the labels that the service spreads over first, level by level,
//! then the least loaded node of the branch. A pick costs the branches on its way and a step in an order, not the nodes.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, btree_set};

use pontoon_store::Id;

use super::roster::{Roster, Seat};
use super::shape::{Place, Shape};

/// How much a node is to be avoided within its branch; the lowest takes the task. Compared field by field from the first:
/// what is added (affinity, bin-packing, measured load) goes where it is to stand in that order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    /// Failures of the service's version in the last minutes, once there are too many of them.
    failures: usize,
    /// Tasks of the service.
    of_service: usize,
    /// Tasks, and the node.
    place: Place,
}

/// What is left of a branch for the tasks of one group.
#[derive(Debug)]
struct Offer<'a> {
    /// Tasks of the service on all nodes of the branch, those that can take no more included.
    tasks: usize,
    /// No node of the branch takes a task any more.
    closed: bool,
    /// Nodes that the service has nothing to do with: before all others, and in the shape's order.
    plain: btree_set::Iter<'a, Place>,
    /// Those where it has tasks, or failed: the nodes of a large service, or a few.
    scored: BinaryHeap<Reverse<Score>>,
}

/// Picks nodes for one group's tasks.
#[derive(Debug)]
pub(super) struct Picker<'a> {
    shape: &'a Shape,
    service: &'a Id,
    /// Replicas on a node; 0 is no limit.
    limit: u64,
    offers: Vec<Offer<'a>>,
    /// By seat, failures of those that have a score.
    known: Vec<Option<usize>>,
}

impl<'a> Picker<'a> {
    /// `failures` on seats are those that count; the shape must be up to date.
    pub(super) fn new(
        shape: &'a Shape,
        roster: &Roster,
        service: &'a Id,
        limit: u64,
        failures: impl Iterator<Item = (Seat, usize)>,
    ) -> Self {
        let offer = |branch: &'a super::shape::Branch| Offer {
            tasks: 0,
            closed: false,
            plain: branch.nodes.iter(),
            scored: BinaryHeap::new(),
        };
        let mut picker = Self {
            shape,
            service,
            limit,
            offers: shape.branches().iter().map(offer).collect(),
            known: vec![None; roster.len()],
        };
        for (seat, failures) in failures {
            picker.known[seat as usize] = Some(failures);
            if roster.of_service(service, seat) == 0 {
                picker.offer(roster, seat);
            }
        }
        for (seat, tasks) in roster.spots(service).into_iter().flatten() {
            picker.count(*seat, *tasks);
            picker.offer(roster, *seat);
        }
        picker
    }

    /// Counts the service's tasks on a node, whether it can take more or not.
    fn count(&mut self, seat: Seat, tasks: usize) {
        let Some((mut at, _)) = self.shape.stands(seat) else {
            return;
        };
        self.offers[at].tasks += tasks;
        while at != 0 {
            at = self.shape.branches()[at].parent;
            self.offers[at].tasks += tasks;
        }
    }

    /// Offers a node that the service has to do with, if it can take a task.
    pub(super) fn offer(&mut self, roster: &Roster, seat: Seat) {
        let failures = *self.known[seat as usize].get_or_insert(0);
        let of_service = roster.of_service(self.service, seat);
        let full = self.limit != 0 && of_service as u64 >= self.limit;
        let Some((branch, _)) = self.shape.stands(seat) else {
            return;
        };
        if full || !self.shape.takes(roster, seat) {
            return;
        }
        let entry = roster.entry(seat);
        self.offers[branch].scored.push(Reverse(Score {
            failures,
            of_service,
            place: (entry.usage.active, entry.rank, seat),
        }));
    }

    /// Takes the best node and counts a task on it; none if no node can take one.
    pub(super) fn pick(&mut self) -> Option<Seat> {
        self.pick_in(0)
    }

    fn pick_in(&mut self, at: usize) -> Option<Seat> {
        let inner = &self.shape.branches()[at].branches;
        let picked = if inner.is_empty() {
            let offer = &mut self.offers[at];
            let plain = offer.plain.by_ref().map(|(_, _, seat)| *seat);
            let plain = plain
                .into_iter()
                .find(|seat| self.known[*seat as usize].is_none());
            plain.or_else(|| offer.scored.pop().map(|Reverse(score)| score.place.2))
        } else {
            loop {
                let open = inner.values().filter(|inner| !self.offers[**inner].closed);
                let Some(best) = open.min_by_key(|inner| self.offers[**inner].tasks) else {
                    break None;
                };
                // One that has nothing left is closed by that, and the next best is asked.
                if let Some(seat) = self.pick_in(*best) {
                    break Some(seat);
                }
            }
        };
        match picked {
            Some(_) => self.offers[at].tasks += 1,
            None => self.offers[at].closed = true,
        }
        picked
    }
}
