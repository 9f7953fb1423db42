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
use std::time::{Duration, SystemTime};

use pontoon_proto::v1::{Cluster, Node, NodeRole};
use pontoon_raft::{Member, MembershipError, Role};
use pontoon_store::{Snapshot, Tx};
use tonic::Status;
use tracing::{debug, info, warn};

use crate::ca;
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
            biased;
            () = leading.stop.cancelled() => return,
            again = settle(&core, &leading) => again,
        };
        loop {
            tokio::select! {
                biased;
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
            .observe(move |tx, scope| {
                demote(tx, |node| !is_member_of(&members, node), scope.host.now());
            })
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

/// Remembers since when a node's manager certificates are void, or forgets it for one that is a manager again: its certificates count by when
/// they were issued, so a manager that is behind and has not heard of that does not refuse the new one. `now` is by the
/// clock that certificates are issued by, not the cluster's time, which one fast clock leaves ahead for good.
pub(crate) fn note(tx: &mut Tx, before: &Node, role: NodeRole, now: i64) {
    let Some(cluster) = tx.cluster() else { return };
    let known = cluster.demoted_nodes.contains_key(&before.id);
    let is_demotion = before.role() == NodeRole::Manager && role == NodeRole::Worker;
    let is_promotion = known && role == NodeRole::Manager;
    if !is_demotion && !is_promotion {
        return;
    }
    let mut cluster = Cluster::clone(cluster);
    let lifetime = ca::longest_expiry(&cluster);
    cluster
        .demoted_nodes
        .retain(|_, since| since.saturating_add(lifetime) > now);
    if is_demotion {
        cluster.demoted_nodes.insert(before.id.clone(), now);
    } else {
        cluster.demoted_nodes.remove(&before.id);
    }
    // Only an empty id is refused, and this one comes from the store.
    let _ = tx.put_cluster(cluster);
}

/// Whether a manager's certificate that was issued then is void, as far as this manager knows.
pub(crate) fn is_demoted(snapshot: &Snapshot, node_id: &str, issued_at: Option<SystemTime>) -> bool {
    let since = snapshot
        .cluster()
        .and_then(|cluster| cluster.demoted_nodes.get(node_id));
    let Some(since) = since.and_then(|since| u64::try_from(*since).ok()) else {
        return false;
    };
    issued_at.is_none_or(|issued| issued <= SystemTime::UNIX_EPOCH + Duration::from_nanos(since))
}

/// What a node with such a certificate is told.
pub(crate) fn no_longer_a_manager(node_id: &str) -> Status {
    Status::permission_denied(format!("node {node_id}: it is no longer a manager"))
}

fn demote(tx: &mut Tx, has_left: impl Fn(&Node) -> bool, now: i64) {
    let due: Vec<Node> = tx
        .nodes()
        .filter(|node| is_due(node) && has_left(node))
        .map(|node| Node::clone(node))
        .collect();
    for node in due {
        note(tx, &node, NodeRole::Worker, now);
        let node = Node {
            role: NodeRole::Worker.into(),
            manager_status: None,
            ..node
        };
        // Only an empty id is refused, and these come from the store.
        let _ = tx.put_node(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demotion_voids_the_certificates_from_before_it() {
        let at = |seconds: u64| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let nanoseconds = |seconds: i64| seconds * 1_000_000_000;
        let mut tx = Tx::new(Snapshot::default());
        tx.put_cluster(Cluster {
            id: "c".into(),
            ..Cluster::default()
        })
        .unwrap();
        let node = |id: &str, role: NodeRole| Node {
            id: id.into(),
            role: role.into(),
            ..Node::default()
        };
        let (manager, worker) = (node("n1", NodeRole::Manager), node("n2", NodeRole::Worker));
        note(&mut tx, &worker, NodeRole::Worker, nanoseconds(100));
        note(&mut tx, &worker, NodeRole::Manager, nanoseconds(100));
        assert!(tx.cluster().unwrap().demoted_nodes.is_empty());
        note(&mut tx, &manager, NodeRole::Worker, nanoseconds(100));
        assert!(is_demoted(&tx, "n1", at(50)) && is_demoted(&tx, "n1", at(100)));
        assert!(is_demoted(&tx, "n1", None));
        // One that is behind knows the manager that it became again by its new certificate.
        assert!(!is_demoted(&tx, "n1", at(101)) && !is_demoted(&tx, "n2", at(50)));
        let again = node("n1", NodeRole::Worker);
        note(&mut tx, &again, NodeRole::Manager, nanoseconds(200));
        assert!(!is_demoted(&tx, "n1", at(50)));
        // Forgotten when no certificate can be from before it.
        note(&mut tx, &manager, NodeRole::Worker, nanoseconds(300));
        let years = nanoseconds(20 * 365 * 86_400);
        note(&mut tx, &node("n3", NodeRole::Manager), NodeRole::Worker, years);
        let demoted = &tx.cluster().unwrap().demoted_nodes;
        assert_eq!(demoted.keys().collect::<Vec<_>>(), ["n3"]);
    }
}
