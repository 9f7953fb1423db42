//! Cuts the connections of nodes that were removed or are no longer managers. Runs on every manager.
//!
//! A certificate stays valid until it expires and a connection outlives every change of its node, so what the store
//! says has to be enforced on those that are open. New ones are checked by `access`.

use std::sync::Arc;

use pontoon_proto::v1::NodeRole;
use pontoon_store::{Event, Object, Snapshot};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::core::Core;

/// Runs until `stop`.
pub(crate) async fn run(core: Arc<Core>, stop: CancellationToken) {
    let mut versions = core.replica.versions();
    let mut last = core.snapshot();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = versions.changed() => if changed.is_err() { return },
        }
        versions.borrow_and_update();
        let now = core.snapshot();
        for node_id in outcast(&core, &last, &now) {
            if core.connections.cut(&node_id) > 0 {
                info!(
                    node = node_id,
                    "connections cut: the node was removed or is no longer a manager"
                );
            }
        }
        last = now;
    }
}

/// Nodes that lost a right between the two versions.
fn outcast(core: &Core, last: &Snapshot, now: &Snapshot) -> Vec<String> {
    let Ok(changes) = core.replica.store().changes_since(last.version()) else {
        // A snapshot replaced everything: compare those that are connected.
        let lost = |id: &String| last.node(id).is_some() && now.node(id).is_none();
        return core.connections.nodes().into_iter().filter(lost).collect();
    };
    let mut nodes = Vec::new();
    for event in changes.iter().flat_map(|applied| &applied.events) {
        match event {
            Event::Delete(Object::Node(node)) => nodes.push(node.id.clone()),
            Event::Put(Object::Node(node)) => {
                let was = last
                    .node(&node.id)
                    .is_some_and(|old| old.role() == NodeRole::Manager);
                if was && node.role() == NodeRole::Worker {
                    nodes.push(node.id.clone());
                }
            }
            _ => {}
        }
    }
    nodes
}
