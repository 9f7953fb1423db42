//! Nodes: availability, labels, promotion and demotion, removal.

use pontoon_proto::v1::{
    Cluster, GetRequest, ListNodesResponse, ListRequest, Node, NodeRole, NodeSpec, NodeState,
    RemoveNodeRequest, RemoveResponse, UpdateNodeRequest,
};
use pontoon_raft::{Member, Role};
use pontoon_reconcile::{edit, spec};
use pontoon_store::{Kind, Tx};
use tonic::Status;

use super::{filter, invalid, refused, vanished, view};
use crate::ca;
use crate::core::Core;
use crate::status;
use crate::writer::Scope;

pub(super) async fn list(core: &Core, request: ListRequest) -> Result<ListNodesResponse, Status> {
    let snapshot = core.read().await?;
    let managers = view::Managers::new(core);
    let fits = |node: &Node| {
        let annotations = node.spec.as_ref().and_then(|spec| spec.annotations.as_ref());
        let hostname = node
            .description
            .as_ref()
            .map_or("", |description| description.hostname.as_str());
        filter::matches(&request, &node.id, hostname, annotations)
            && filter::any(&request.roles, |role| *role == node.role)
    };
    let nodes = snapshot.nodes().filter(|node| fits(node));
    Ok(ListNodesResponse {
        nodes: nodes.map(|node| managers.node(node)).collect(),
    })
}

pub(super) async fn get(core: &Core, request: GetRequest) -> Result<Node, Status> {
    let snapshot = core.read().await?;
    let node = snapshot.find_node(&request.target).map_err(status::from_store)?;
    Ok(view::Managers::new(core).node(node))
}

/// Writes a node's spec. Its role is a wish: the role manager and the node itself carry it out.
pub(super) async fn update(core: &Core, request: UpdateNodeRequest) -> Result<Node, Status> {
    let UpdateNodeRequest {
        target,
        version,
        spec: wish,
    } = request;
    let wish = wish.ok_or_else(|| Status::invalid_argument("the node's spec is missing"))?;
    spec::validate_node(&wish).map_err(|problems| invalid(&problems))?;
    let (members, keeps_quorum) = (core.log.members(), core.log.keeps_quorum());
    let update = move |tx: &mut Tx, _: &Scope| {
        let node = tx.find_node(&target).map_err(status::from_store)?.clone();
        if !tx.is_at(Kind::Node, &node.id, version) {
            return Err(status::out_of_sequence());
        }
        let was = node.spec.as_ref().map_or(NodeRole::Worker, NodeSpec::role);
        if was == NodeRole::Manager && wish.role() == NodeRole::Worker {
            may_demote(tx, &node, &members, keeps_quorum)?;
        }
        tx.put_node(Node {
            spec: Some(wish),
            ..Node::clone(&node)
        })
        .map_err(status::from_store)?;
        Ok(node.id.clone())
    };
    let id = core.writer()?.write(update).await?;
    let snapshot = core.snapshot();
    snapshot
        .node(&id)
        .map(|node| view::Managers::new(core).node(node))
        .ok_or_else(vanished)
}

/// Refuses a demotion after which nobody, or too few, could decide. Those that are to be demoted already don't count.
/// An external store has the quorum to itself: any one manager is enough then.
fn may_demote(tx: &Tx, node: &Node, members: &[Member], keeps_quorum: bool) -> Result<(), Status> {
    let wishes_manager = |other: &&std::sync::Arc<Node>| {
        other
            .spec
            .as_ref()
            .is_some_and(|spec| spec.role() == NodeRole::Manager)
    };
    if tx.nodes().filter(wishes_manager).all(|other| other.id == node.id) {
        return Err(Status::failed_precondition(
            "attempting to demote the last manager of the swarm",
        ));
    }
    let stays = |member: &&Member| {
        member.role == Role::Voter
            && member.node_id != node.id
            && tx.node(&member.node_id).as_ref().is_some_and(wishes_manager)
    };
    let is_voter = members
        .iter()
        .any(|member| member.role == Role::Voter && member.node_id == node.id);
    let voters = members.iter().filter(stays).count();
    let reachable = members
        .iter()
        .filter(stays)
        .filter(|member| member.reachable)
        .count();
    if keeps_quorum && is_voter && reachable < voters / 2 + 1 {
        return Err(Status::failed_precondition(format!(
            "can't remove member from the raft: this would result in a loss of quorum ({reachable} of {voters} \
             remaining managers are reachable)"
        )));
    }
    Ok(())
}

/// Removes a node that is down, or any worker with `force`. Its connections are cut on every manager.
pub(super) async fn remove(core: &Core, request: RemoveNodeRequest) -> Result<RemoveResponse, Status> {
    let RemoveNodeRequest { target, force } = request;
    let members = core.log.members();
    let remove = move |tx: &mut Tx, scope: &Scope| {
        let node = tx.find_node(&target).map_err(status::from_store)?.clone();
        let wish = node.spec.as_ref().map_or(NodeRole::Worker, NodeSpec::role);
        let is_member = members.iter().any(|member| member.node_id == node.id);
        if is_member && (wish == NodeRole::Manager || node.role() == NodeRole::Manager) {
            return Err(Status::failed_precondition(format!(
                "node {} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before \
                 removal",
                node.id
            )));
        }
        let state = node
            .status
            .as_ref()
            .map_or(NodeState::Unknown, |status| status.state());
        if !force && state == NodeState::Ready {
            return Err(Status::failed_precondition(format!(
                "node {} is not down and can't be removed: let it leave with `pontoon swarm leave` there, or use --force",
                node.description
                    .as_ref()
                    .map_or(node.id.as_str(), |description| description.hostname.as_str())
            )));
        }
        edit::remove_node(tx, &node.id).map_err(refused)?;
        outlaw(tx, &node.id, scope.now)?;
        Ok(RemoveResponse { id: node.id.clone() })
    };
    core.writer()?.write(remove).await
}

/// Remembers a removed node as long as its certificate may be valid, for every manager: those that can't ask the leader too.
fn outlaw(tx: &mut Tx, node_id: &str, now: i64) -> Result<(), Status> {
    let Some(mut cluster) = tx.cluster().map(|cluster| Cluster::clone(cluster)) else {
        return Ok(());
    };
    let longest = ca::longest_expiry(&cluster);
    cluster.removed_nodes.retain(|_, until| *until > now);
    cluster
        .removed_nodes
        .insert(node_id.to_owned(), now.saturating_add(longest));
    tx.put_cluster(cluster).map_err(status::from_store)
}
