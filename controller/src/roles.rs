//! The role manager: takes a demoted or removed manager out of the log's group. Runs at the leader.
//!
//! For a promotion the node sees its new role in its own object, renews its certificate and joins as a learner; it votes
//! once it has caught up, whoever leads by then. For a demotion the member goes first, then the node's role follows (and with it what its certificate is renewed for), so
//! that a manager certificate is never taken from a member that the quorum still counts. A leader that is to be demoted
//! hands over; its successor does the rest.
//!
//! ```text
//! promote: spec.role=manager → (agent renews) role=manager → (agent joins) learner → voter, once it has caught up
//! demote:  spec.role=worker  → member removed → role=worker → (agent renews)
//! ```

use std::sync::Arc;
use std::time::Duration;

use pontoon_proto::v1::{Node, NodeRole};
use pontoon_raft::{Member, MembershipError, Role};
use pontoon_store::Tx;
use tracing::{debug, info, warn};

use crate::core::Core;
use crate::leader::Leading;

/// A change that was refused (the quorum would be lost) is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// So often is looked whether a new member has caught up.
const CATCHING_UP: Duration = Duration::from_millis(100);

/// Runs until leadership is lost.
pub(crate) async fn run(core: Arc<Core>, leading: Arc<Leading>) {
    let mut members = core.log.members_watch();
    let mut versions = core.replica.versions();
    loop {
        versions.borrow_and_update();
        members.borrow_and_update();
        let mut seen = core.snapshot().version();
        let again = tokio::select! {
            () = leading.stop.cancelled() => return,
            again = settle(&core, &leading) => again,
        };
        loop {
            tokio::select! {
                () = leading.stop.cancelled() => return,
                () = tokio::time::sleep(again.unwrap_or(RETRY)), if again.is_some() => break,
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

/// One pass; after what time something must be tried again, if so.
async fn settle(core: &Core, leading: &Leading) -> Option<Duration> {
    let snapshot = core.snapshot();
    snapshot.cluster()?;
    let mut again = None;
    for member in core.log.members() {
        let keeps = snapshot.node(&member.node_id).is_some_and(|node| {
            node.spec
                .as_ref()
                .is_some_and(|spec| spec.role() == NodeRole::Manager)
        });
        if keeps {
            if member.role == Role::Learner && !promoted(core, &member).await {
                again = Some(CATCHING_UP);
            }
            continue;
        }
        match dismiss(core, member.id).await {
            Ok(()) => info!(node = member.node_id, "taken out of the managers' group"),
            Err(error) => {
                warn!(node = member.node_id, %error, "can't take a manager out of the group yet");
                again.get_or_insert(RETRY);
            }
        }
    }
    let members = core.log.members();
    let is_member = |node: &Node| members.iter().any(|member| member.node_id == node.id);
    if snapshot.nodes().any(|node| is_due(node) && !is_member(node)) {
        let written = leading
            .writer
            .observe(move |tx, _| demote(tx, |node| !is_member_of(&members, node)))
            .await;
        match written.await {
            Ok(Ok(())) => {}
            _ => again = again.or(Some(RETRY)),
        }
    }
    again
}

/// Makes a learner a voter if it has caught up; false if it has not yet.
async fn promoted(core: &Core, member: &Member) -> bool {
    match core.log.promote(member.id).await {
        Ok(()) => {
            info!(node = member.node_id, "a new manager has caught up and votes now");
            true
        }
        Err(error) => {
            debug!(node = member.node_id, %error, "a new manager does not vote yet");
            false
        }
    }
}

fn is_member_of(members: &[Member], node: &Node) -> bool {
    members.iter().any(|member| member.node_id == node.id)
}

/// Removes a member; a leader that is itself meant hands over first, and its successor finds the same work.
async fn dismiss(core: &Core, raft_id: u64) -> Result<(), MembershipError> {
    if raft_id == core.log.id() {
        return core.log.transfer_leadership(None).await;
    }
    core.log.remove(raft_id).await
}

/// A node whose wish is worker but whose role is still manager.
fn is_due(node: &Node) -> bool {
    node.role() == NodeRole::Manager
        && node
            .spec
            .as_ref()
            .is_some_and(|spec| spec.role() == NodeRole::Worker)
}

fn demote(tx: &mut Tx, has_left: impl Fn(&Node) -> bool) {
    let due: Vec<Node> = tx
        .nodes()
        .filter(|node| is_due(node) && has_left(node))
        .map(|node| Node::clone(node))
        .collect();
    for node in due {
        let node = Node {
            role: NodeRole::Worker.into(),
            manager_status: None,
            ..node
        };
        // Only an empty id is refused, and these come from the store.
        let _ = tx.put_node(node);
    }
}
