//! Keeps `Node.manager_status` as the log's membership says. Runs at the leader.

use std::collections::BTreeMap;
use std::sync::Arc;

use pontoon_proto::v1::{ManagerStatus, Node};
use pontoon_raft::Member;
use pontoon_store::{Snapshot, Tx};

use crate::core::Core;
use crate::leader::Leading;

/// Runs until leadership is lost: compares at each change of members or nodes.
pub(crate) async fn run(core: Arc<Core>, leading: Arc<Leading>) {
    let mut members = core.log.members_watch();
    let mut versions = core.replica.versions();
    loop {
        versions.borrow_and_update();
        let now = members.borrow_and_update().clone();
        let snapshot = core.snapshot();
        if differs(&snapshot, &now) {
            let written = leading.writer.observe(move |tx, _| update(tx, &now)).await;
            // Fails only with the leadership, which ends this task.
            let _ = written.await;
        }
        let mut seen = snapshot.version();
        loop {
            tokio::select! {
                biased;
                () = leading.stop.cancelled() => return,
                changed = members.changed() => if changed.is_err() { return } else { break },
                changed = versions.changed() => if changed.is_err() { return },
            }
            versions.borrow_and_update();
            if core.replica.nodes_changed_since(&mut seen) {
                break;
            }
        }
    }
}

fn differs(snapshot: &Snapshot, members: &[Member]) -> bool {
    let members = by_node(members);
    snapshot
        .nodes()
        .any(|node| wanted(node, &members) != node.manager_status)
}

fn by_node(members: &[Member]) -> BTreeMap<&str, &Member> {
    members
        .iter()
        .map(|member| (member.node_id.as_str(), member))
        .collect()
}

/// What should be stored for a node.
fn wanted(node: &Node, members: &BTreeMap<&str, &Member>) -> Option<ManagerStatus> {
    members.get(node.id.as_str()).map(|member| ManagerStatus {
        raft_id: member.id,
        addr: member.addr.clone(),
        ..ManagerStatus::default()
    })
}

fn update(tx: &mut Tx, members: &[Member]) {
    let members = by_node(members);
    let changed: Vec<Node> = tx
        .nodes()
        .filter_map(|node| {
            let manager_status = wanted(node, &members);
            (manager_status != node.manager_status).then(|| Node {
                manager_status,
                ..Node::clone(node)
            })
        })
        .collect();
    for node in changed {
        // Only an empty id is refused, and these come from the store.
        let _ = tx.put_node(node);
    }
}
