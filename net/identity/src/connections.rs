//! The live connections of the cluster port by node, so that those of a removed or demoted node can be cut.
//!
//! A certificate can't be taken back, and a connection outlives every change of its node: what the store says must
//! reach those that are open. Filled by the listener, which takes only so many of one node and of those without a certificate;
//! cut by the controller.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// Connections that one node may have: a few to its managers, and one from each node that gets images from it.
const OF_A_NODE: usize = 256;
/// Connections without a certificate, all together: of nodes that join, which takes each a moment.
const OF_STRANGERS: usize = 1024;
/// So the connections without a certificate are counted; no node has this id.
const STRANGERS: &str = "";

/// Registry of live connections; cheap to clone.
#[derive(Clone, Default)]
pub struct Connections {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    by_node: BTreeMap<String, BTreeMap<u64, CancellationToken>>,
}

/// Keeps a connection in the registry while it lives.
pub struct Registration {
    connections: Connections,
    node_id: String,
    number: u64,
}

impl Connections {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Closes every connection of the node; how many there were.
    pub fn cut(&self, node_id: &str) -> usize {
        let tokens = self.lock().by_node.remove(node_id).unwrap_or_default();
        tokens.values().for_each(CancellationToken::cancel);
        tokens.len()
    }

    /// How many connections the node has.
    pub fn count(&self, node_id: &str) -> usize {
        self.lock().by_node.get(node_id).map_or(0, BTreeMap::len)
    }

    /// The nodes that have a connection.
    pub fn nodes(&self) -> Vec<String> {
        self.lock()
            .by_node
            .keys()
            .filter(|id| *id != STRANGERS)
            .cloned()
            .collect()
    }

    /// Takes a connection in, of a node or of somebody without a certificate; none when there are too many.
    /// `token` is cancelled when it is to be closed.
    pub fn register(&self, node_id: Option<&str>, token: CancellationToken) -> Option<Registration> {
        let (node_id, most) = match node_id {
            Some(STRANGERS) | None => (STRANGERS, OF_STRANGERS),
            Some(node_id) => (node_id, OF_A_NODE),
        };
        let mut inner = self.lock();
        inner.next += 1;
        let number = inner.next;
        let connections = inner.by_node.entry(node_id.to_owned()).or_default();
        if connections.len() >= most {
            return None;
        }
        connections.insert(number, token);
        Some(Registration {
            connections: self.clone(),
            node_id: node_id.to_owned(),
            number,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut inner = self.connections.lock();
        if let Some(connections) = inner.by_node.get_mut(&self.node_id) {
            connections.remove(&self.number);
            if connections.is_empty() {
                inner.by_node.remove(&self.node_id);
            }
        }
    }
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes = self.lock().by_node.len();
        f.debug_struct("Connections").field("nodes", &nodes).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_only_so_many_of_each() {
        let connections = Connections::new();
        let open = |node: Option<&str>, count: usize| -> Vec<Registration> {
            (0..count)
                .map_while(|_| connections.register(node, CancellationToken::new()))
                .collect()
        };
        let of_one = open(Some("n1"), 1000);
        let of_other = open(Some("n2"), 3);
        let strangers = open(None, 5000);
        assert_eq!(
            (of_one.len(), of_other.len(), strangers.len()),
            (OF_A_NODE, 3, OF_STRANGERS)
        );
        assert_eq!(connections.nodes().len(), 2);
        drop(strangers);
        assert!(connections.register(None, CancellationToken::new()).is_some());
        assert_eq!(connections.cut("n1"), OF_A_NODE);
    }
}
