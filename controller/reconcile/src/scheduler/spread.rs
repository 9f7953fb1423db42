//! Which of the nodes that can take a task takes it: the labels that the service spreads over first, level by level,
//! then the least loaded node of the branch. A pick costs the branches on its way and a heap step, not the nodes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use pontoon_proto::v1::Node;
use pontoon_store::Id;

use crate::constraint;
use crate::demand::Usage;

/// How much a node is to be avoided within its branch; the lowest takes the task. Compared field by field from the first:
/// what is added (affinity, bin-packing, measured load) goes where it is to stand in that order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score {
    /// Failures of the service's version in the last minutes, once there are too many of them.
    failures: usize,
    /// Tasks of the service.
    of_service: usize,
    /// Tasks.
    tasks: usize,
}

impl Score {
    /// The node's score as it is used now.
    pub(super) fn new(usage: &Usage, service: &Id, version: u64, now: i64) -> Self {
        Self {
            failures: usage.failures(service, version, now),
            of_service: usage.of_service(service),
            tasks: usage.active,
        }
    }
}

#[derive(Debug)]
struct Candidate {
    score: Score,
    node: Arc<Node>,
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.score, &self.node.id).cmp(&(other.score, &other.node.id))
    }
}

/// A branch: nodes with the same values of the labels down to here.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Tasks of the service on all nodes of the branch, those that can take no more included.
    tasks: usize,
    branches: BTreeMap<String, Tree>,
    nodes: BinaryHeap<Reverse<Candidate>>,
    /// Candidates in the branch.
    open: usize,
}

impl Tree {
    /// Counts the service's tasks on a node, whether it can take more or not.
    pub(super) fn count(&mut self, node: &Node, keys: &[String], running: usize) {
        self.tasks += running;
        if let Some((key, rest)) = keys.split_first() {
            self.branch(node, key).count(node, rest, running);
        }
    }

    /// Offers a node.
    pub(super) fn add(&mut self, node: &Arc<Node>, keys: &[String], score: Score) {
        self.open += 1;
        match keys.split_first() {
            Some((key, rest)) => self.branch(node, key).add(node, rest, score),
            None => self.nodes.push(Reverse(Candidate {
                score,
                node: node.clone(),
            })),
        }
    }

    /// Whether no node is offered.
    pub(super) fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// Takes the best node and counts a task on it; none if no node is offered.
    pub(super) fn pick(&mut self) -> Option<Arc<Node>> {
        let open = self.branches.values_mut().filter(|branch| branch.open > 0);
        let node = match open.min_by_key(|branch| branch.tasks) {
            Some(branch) => branch.pick()?,
            None => self.nodes.pop()?.0.node,
        };
        self.open -= 1;
        self.tasks += 1;
        Some(node)
    }

    fn branch(&mut self, node: &Node, key: &str) -> &mut Tree {
        let value = constraint::label(node, key).unwrap_or_default();
        if !self.branches.contains_key(value) {
            self.branches.insert(value.to_owned(), Tree::default());
        }
        self.branches.get_mut(value).expect("the branch was just made")
    }
}
