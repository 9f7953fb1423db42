//! The live connections of the cluster port by node, so that those of a removed or demoted node can be cut.
//!
//! A certificate can't be taken back, and a connection outlives every change of its node: what the store says must
//! reach those that are open. Filled by the listener; cut by the controller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// Registry of live connections; cheap to clone.
#[derive(Clone, Default)]
pub struct Connections {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    by_node: HashMap<String, HashMap<u64, CancellationToken>>,
}

/// Keeps a connection in the registry while it lives.
pub(crate) struct Registration {
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
        self.lock().by_node.get(node_id).map_or(0, HashMap::len)
    }

    /// The nodes that have a connection.
    pub fn nodes(&self) -> Vec<String> {
        self.lock().by_node.keys().cloned().collect()
    }

    pub(crate) fn register(&self, node_id: &str, token: CancellationToken) -> Registration {
        let mut inner = self.lock();
        inner.next += 1;
        let number = inner.next;
        inner
            .by_node
            .entry(node_id.to_owned())
            .or_default()
            .insert(number, token);
        Registration {
            connections: self.clone(),
            node_id: node_id.to_owned(),
            number,
        }
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
