//! An index of the nodes for all services that ask for the same of one: which of them can take a task, least loaded first, and
//! why the others can't. A service of few tasks then costs its tasks and what happened to nodes since, not a look at all of them.
//!
//! What a service has on a node already is no part of a shape (replicas per node, failures, the tasks counted first): `spread`
//! puts that on top.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pontoon_proto::v1::Node;

use super::filter::{self, Filter, Refusals, Suited};
use super::roster::{Roster, Seat};
use crate::constraint;
use crate::demand::Demand;

/// Shapes that are kept. One of 5,000 nodes takes about 250 KB.
const SHAPES: usize = 32;

/// Where a node stands among those that can take a task: its tasks, then its rank.
pub(super) type Place = (usize, u64, Seat);

/// Nodes with the same values of the labels down to here.
#[derive(Debug, Clone, Default)]
pub(super) struct Branch {
    pub(super) parent: usize,
    /// The last label's.
    pub(super) value: Arc<str>,
    /// By the next label's value.
    pub(super) branches: BTreeMap<Arc<str>, usize>,
    /// Those that can take a task; only where no label follows.
    pub(super) nodes: BTreeSet<Place>,
}

/// A node as the shape sees it.
#[derive(Debug, Clone, Copy)]
struct Standing {
    branch: usize,
    suited: Suited,
    refused: Option<Filter>,
    place: Place,
}

/// The index.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    demand: Arc<Demand>,
    /// The journal's end, and the epoch of ranks, that it was made from.
    at: u64,
    epoch: u64,
    /// The first is the root.
    branches: Vec<Branch>,
    standings: Vec<Option<Standing>>,
    refusals: Refusals,
    /// Nodes that can take a task.
    open: usize,
}

impl Shape {
    fn new(demand: &Arc<Demand>, roster: &Roster) -> Self {
        let mut shape = Self {
            demand: demand.clone(),
            at: roster.now(),
            epoch: roster.epoch,
            branches: vec![Branch::default()],
            standings: vec![None; roster.len()],
            refusals: Refusals::default(),
            open: 0,
        };
        for seat in 0..roster.len() {
            shape.look(roster, seat as Seat, true);
        }
        shape
    }

    /// Takes in what happened to nodes since it was last used.
    pub(super) fn catch_up(&mut self, roster: &Roster) {
        // Labels whose values come and go leave branches behind.
        let crowded = self.branches.len() > 4 * roster.len() + 64;
        match roster.since(self.at) {
            Some(touches) if self.epoch == roster.epoch && !crowded => {
                self.standings.resize(roster.len(), None);
                for touch in touches {
                    self.look(roster, touch.seat, touch.node);
                }
                self.at = roster.now();
            }
            _ => *self = Self::new(&self.demand, roster),
        }
    }

    /// Looks at a node.
    fn look(&mut self, roster: &Roster, seat: Seat, anew: bool) {
        let entry = roster.entry(seat);
        let old = self.standings[seat as usize];
        let Some(node) = &entry.node else {
            self.leave(old);
            self.standings[seat as usize] = None;
            return;
        };
        let (branch, suited) = match old {
            Some(old) if !anew => (old.branch, old.suited),
            _ => (self.branch_of(node), filter::suited(node, &self.demand)),
        };
        let new = Standing {
            branch,
            suited,
            refused: filter::refuses(suited, node, entry.capacity, &entry.usage, &self.demand),
            place: (entry.usage.active, entry.rank, seat),
        };
        self.leave(old);
        match new.refused {
            Some(filter) => self.refusals.count(filter),
            None => {
                self.branches[branch].nodes.insert(new.place);
                self.open += 1;
            }
        }
        self.standings[seat as usize] = Some(new);
    }

    fn leave(&mut self, old: Option<Standing>) {
        let Some(old) = old else { return };
        match old.refused {
            Some(filter) => self.refusals.discount(filter),
            None => {
                self.branches[old.branch].nodes.remove(&old.place);
                self.open -= 1;
            }
        }
    }

    /// The innermost branch that a node is in.
    fn branch_of(&mut self, node: &Node) -> usize {
        let mut at = 0;
        for key in &self.demand.spread {
            let value = constraint::label(node, key).unwrap_or_default();
            at = match self.branches[at].branches.get(value) {
                Some(next) => *next,
                None => {
                    let next = self.branches.len();
                    let value = Arc::<str>::from(value);
                    self.branches[at].branches.insert(value.clone(), next);
                    self.branches.push(Branch {
                        parent: at,
                        value,
                        ..Branch::default()
                    });
                    next
                }
            };
        }
        at
    }

    pub(super) fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// The innermost branch of a node, and whether it can take a task; none if there is no such node.
    pub(super) fn stands(&self, seat: Seat) -> Option<(usize, bool)> {
        let standing = self.standings.get(seat as usize)?.as_ref()?;
        Some((standing.branch, standing.refused.is_none()))
    }

    /// Whether a node can take a task as it is used now, which the shape may not know yet.
    pub(super) fn takes(&self, roster: &Roster, seat: Seat) -> bool {
        let standing = self.standings.get(seat as usize).copied().flatten();
        let entry = roster.entry(seat);
        let (Some(standing), Some(node)) = (standing, &entry.node) else {
            return false;
        };
        filter::refuses(standing.suited, node, entry.capacity, &entry.usage, &self.demand).is_none()
    }

    /// Why no node takes a task of a service: those that could have too many of it already.
    pub(super) fn explain(&self) -> String {
        let mut refusals = self.refusals.clone();
        refusals.add(Filter::MaxReplicas, self.open);
        refusals.explain()
    }
}

/// The shapes used last, newest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shapes(Vec<Shape>);

impl Shapes {
    /// Takes out the shape that fits a demand, up to date. Put it back.
    pub(super) fn take(&mut self, demand: &Arc<Demand>, roster: &Roster) -> Shape {
        match self.0.iter().position(|shape| shape.demand.asks_the_same(demand)) {
            Some(at) => {
                let mut shape = self.0.remove(at);
                shape.catch_up(roster);
                shape
            }
            None => Shape::new(demand, roster),
        }
    }

    pub(super) fn put(&mut self, shape: Shape) {
        self.0.insert(0, shape);
        self.0.truncate(SHAPES);
    }
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{NodeDescription, NodeState, NodeStatus, Resources};
    use pontoon_store::Id;

    use super::*;
    use crate::demand::Share;

    fn node(id: &str, cpus: i64) -> Arc<Node> {
        Arc::new(Node {
            id: id.to_owned(),
            status: Some(NodeStatus {
                state: NodeState::Ready.into(),
                ..NodeStatus::default()
            }),
            description: Some(NodeDescription {
                resources: Some(Resources {
                    nano_cpus: cpus,
                    ..Resources::default()
                }),
                ..NodeDescription::default()
            }),
            ..Node::default()
        })
    }

    fn one_cpu() -> Arc<Demand> {
        Arc::new(Demand {
            service: "s".into(),
            nano_cpus: 1,
            ..Demand::default()
        })
    }

    fn share(demand: &Arc<Demand>) -> Share {
        Share {
            demand: demand.clone(),
            generic: Box::default(),
            active: true,
        }
    }

    fn same(shape: &Shape, roster: &Roster) {
        let anew = Shape::new(&shape.demand, roster);
        let nodes = |shape: &Shape| -> Vec<_> { shape.branches.iter().map(|b| b.nodes.clone()).collect() };
        assert_eq!(nodes(shape), nodes(&anew));
        assert_eq!((shape.open, shape.explain()), (anew.open, anew.explain()));
    }

    #[test]
    fn an_index_is_as_one_made_anew_however_far_behind_it_was() {
        let (mut roster, mut shapes, demand) = (Roster::default(), Shapes::default(), one_cpu());
        for id in ["b", "c", "d"] {
            roster.set_node(id, Some(&node(id, 2)));
        }
        let shape = shapes.take(&demand, &roster);
        shapes.put(shape);
        for number in 0..5000 {
            let id = Id::from(format!("t{number}").as_str());
            let seat = roster.seat(["b", "c", "d"][number % 3]);
            roster.add(id.clone(), seat, share(&demand));
            if number >= 3 {
                assert!(roster.take(&id));
            }
            // A look now and then, and none for a long time.
            if number < 20 || number == 4999 {
                let shape = shapes.take(&demand, &roster);
                same(&shape, &roster);
                shapes.put(shape);
            }
        }
        // A new node before the others, more room, less, and one that is gone.
        roster.set_node("a", Some(&node("a", 1)));
        roster.set_node("b", Some(&node("b", 1)));
        roster.set_node("d", None);
        let shape = shapes.take(&demand, &roster);
        same(&shape, &roster);
        assert_eq!(shape.open, 2);
        assert!(shape.explain().contains("insufficient resources on 1 node"));
    }

    #[test]
    fn those_used_last_are_kept() {
        let (roster, mut shapes) = (Roster::default(), Shapes::default());
        let demand = |cpus| {
            Arc::new(Demand {
                nano_cpus: cpus,
                ..Demand::default()
            })
        };
        for cpus in 0..SHAPES as i64 + 10 {
            for cpus in [cpus, 0] {
                let shape = shapes.take(&demand(cpus), &roster);
                assert_eq!(shape.demand.nano_cpus, cpus);
                shapes.put(shape);
            }
        }
        assert_eq!(shapes.0.len(), SHAPES);
        assert!(shapes.0.iter().any(|shape| shape.demand.nano_cpus == 0));
        assert!(!shapes.0.iter().any(|shape| shape.demand.nano_cpus == 1));
    }
}
