//! Which of the nodes that can take a task takes it: the labels that the service spreads over first, level by level,
//! then the least loaded node of the branch. A pick costs the branches on its way and a step in an order, not the nodes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, btree_map, btree_set};
use std::sync::Arc;

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

/// What is left of a branch for the tasks of one group. Made when the group first has to do with the branch.
#[derive(Debug)]
struct Offer<'a> {
    /// Tasks of the service on all nodes of the branch, those that can take no more included.
    tasks: usize,
    /// Branches in which the service has no task: before all others, by their values.
    fresh: btree_map::Values<'a, Arc<str>, usize>,
    /// Those in which it has some: fewest first.
    begun: BinaryHeap<Reverse<(usize, &'a str, usize)>>,
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
    offers: BTreeMap<usize, Offer<'a>>,
    /// By seat, whether the service has to do with the node: it is among the scored, once it can take a task.
    known: Vec<bool>,
    /// Where it fails.
    failures: BTreeMap<Seat, usize>,
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
        let mut picker = Self {
            shape,
            service,
            limit,
            offers: BTreeMap::new(),
            known: vec![false; roster.len()],
            failures: failures.collect(),
        };
        for seat in picker.failures.keys().copied().collect::<Vec<_>>() {
            if roster.of_service(service, seat) == 0 {
                picker.offer(roster, seat);
            }
        }
        for (seat, tasks) in roster.spots(service).into_iter().flatten() {
            picker.count(*seat, *tasks);
            picker.offer(roster, *seat);
        }
        picker.begin();
        picker
    }

    fn at(&mut self, branch: usize) -> &mut Offer<'a> {
        let shape = self.shape;
        self.offers.entry(branch).or_insert_with(|| {
            let branch = &shape.branches()[branch];
            Offer {
                tasks: 0,
                fresh: branch.branches.values(),
                begun: BinaryHeap::new(),
                plain: branch.nodes.iter(),
                scored: BinaryHeap::new(),
            }
        })
    }

    /// Counts the service's tasks on a node, whether it can take more or not.
    fn count(&mut self, seat: Seat, tasks: usize) {
        let Some((mut branch, _)) = self.shape.stands(seat) else {
            return;
        };
        self.at(branch).tasks += tasks;
        while branch != 0 {
            branch = self.shape.branches()[branch].parent;
            self.at(branch).tasks += tasks;
        }
    }

    /// Puts the branches in order in which tasks were counted.
    fn begin(&mut self) {
        let counted = self.offers.iter().filter(|(_, offer)| offer.tasks > 0);
        for (branch, tasks) in counted
            .map(|(branch, offer)| (*branch, offer.tasks))
            .collect::<Vec<_>>()
        {
            if branch != 0 {
                self.back(branch, tasks);
            }
        }
    }

    /// Has a branch in which the service has tasks wait for its next turn.
    fn back(&mut self, branch: usize, tasks: usize) {
        let shape = self.shape;
        let of = &shape.branches()[branch];
        self.at(of.parent).begun.push(Reverse((tasks, &of.value, branch)));
    }

    /// Offers a node that the service has to do with, if it can take a task.
    pub(super) fn offer(&mut self, roster: &Roster, seat: Seat) {
        self.known[seat as usize] = true;
        let of_service = roster.of_service(self.service, seat);
        let full = self.limit != 0 && of_service as u64 >= self.limit;
        let Some((branch, _)) = self.shape.stands(seat) else {
            return;
        };
        if full || !self.shape.takes(roster, seat) {
            return;
        }
        let entry = roster.entry(seat);
        let score = Score {
            failures: self.failures.get(&seat).copied().unwrap_or(0),
            of_service,
            place: (entry.usage.active, entry.rank, seat),
        };
        self.at(branch).scored.push(Reverse(score));
    }

    /// Takes the best node and counts a task on it; none if no node can take one.
    pub(super) fn pick(&mut self) -> Option<Seat> {
        Some(self.pick_in(0)?.0)
    }

    /// Also how many tasks the service then has in the branch.
    fn pick_in(&mut self, branch: usize) -> Option<(Seat, usize)> {
        let seat = if self.shape.branches()[branch].branches.is_empty() {
            self.pick_node(branch)?
        } else {
            // One that has nothing left does not come back, and the next best is asked.
            loop {
                let inner = self.next_branch(branch)?;
                if let Some((seat, tasks)) = self.pick_in(inner) {
                    self.back(inner, tasks);
                    break seat;
                }
            }
        };
        let offer = self.at(branch);
        offer.tasks += 1;
        Some((seat, offer.tasks))
    }

    /// The branch below that has the fewest tasks of the service.
    fn next_branch(&mut self, branch: usize) -> Option<usize> {
        while let Some(inner) = self.at(branch).fresh.next() {
            if self.offers.get(inner).is_none_or(|offer| offer.tasks == 0) {
                return Some(*inner);
            }
        }
        let Reverse((_, _, inner)) = self.at(branch).begun.pop()?;
        Some(inner)
    }

    fn pick_node(&mut self, branch: usize) -> Option<Seat> {
        while let Some((_, _, seat)) = self.at(branch).plain.next() {
            if !self.known[*seat as usize] {
                return Some(*seat);
            }
        }
        let Reverse(score) = self.at(branch).scored.pop()?;
        Some(score.place.2)
    }
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{Annotations, Node, NodeSpec, NodeState, NodeStatus};

    use super::super::shape::Shapes;
    use super::*;
    use crate::demand::{Demand, Share};

    /// Nodes that each have a value of the label `rack` of their own.
    fn racks(nodes: usize) -> Roster {
        let mut roster = Roster::default();
        for number in 0..nodes {
            let node = Node {
                id: format!("n{number:04}"),
                spec: Some(NodeSpec {
                    annotations: Some(Annotations {
                        labels: [("rack".to_owned(), format!("r{:04}", nodes - number))].into(),
                        ..Annotations::default()
                    }),
                    ..NodeSpec::default()
                }),
                status: Some(NodeStatus {
                    state: NodeState::Ready.into(),
                    ..NodeStatus::default()
                }),
                ..Node::default()
            };
            roster.set_node(&node.id.clone(), Some(&Arc::new(node)));
        }
        roster
    }

    #[test]
    fn a_label_of_many_values_costs_those_that_are_picked() {
        let mut roster = racks(1000);
        let demand = Arc::new(Demand {
            service: "s".into(),
            spread: vec!["node.labels.rack".to_owned()],
            ..Demand::default()
        });
        let place = |roster: &mut Roster, seat: Seat, task: usize| {
            let share = Share {
                demand: demand.clone(),
                generic: Box::default(),
                active: true,
            };
            roster.add(format!("t{task}").as_str().into(), seat, share);
        };
        // The first racks have their tasks already, the very first has two.
        let last = roster.seat("n0999");
        place(&mut roster, last, 0);
        place(&mut roster, last, 1);
        let second = roster.seat("n0998");
        place(&mut roster, second, 2);
        let shape = Shapes::default().take(&demand, &roster);
        let service = Id::from("s");
        let mut picker = Picker::new(&shape, &roster, &service, 0, std::iter::empty());
        // In the order of the values: those without a task, then those with one, and those with two at last.
        let order = (0..998)
            .rev()
            .chain([998])
            .chain((0..998).rev())
            .chain([999, 998]);
        for (task, number) in (3..).zip(order) {
            let seat = picker.pick().unwrap();
            assert_eq!(seat, roster.seat(&format!("n{number:04}")), "task {task}");
            place(&mut roster, seat, task);
            picker.offer(&roster, seat);
            if task == 12 {
                assert_eq!(
                    picker.offers.len(),
                    1 + 2 + 10,
                    "the root, what had tasks, what got one"
                );
            }
        }
    }
}
