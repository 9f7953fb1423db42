//! Objects as callers see them: without the root's key and the tokens, with what only the log knows of managers.

use std::sync::Arc;

use pontoon_proto::v1::{Change, Cluster, Node, Reachability, RootCa, RootRotation, Service, change};
use pontoon_raft::Member;
use pontoon_store::{Event, Object};

use crate::ca;
use crate::core::Core;

/// A cluster without its secrets (the root's key, the tokens, the unlock key), with what its nodes' certificates are to be like.
pub(super) fn cluster(cluster: &Cluster) -> Cluster {
    let public = |root: &RootCa| RootCa {
        certificate: root.certificate.clone(),
        rotation: root.rotation.as_ref().map(|next| RootRotation {
            certificate: next.certificate.clone(),
            ..RootRotation::default()
        }),
        cross_signed: root.cross_signed.clone(),
        ..RootCa::default()
    };
    Cluster {
        id: cluster.id.clone(),
        meta: cluster.meta,
        spec: cluster.spec.clone(),
        root_ca: cluster.root_ca.as_ref().map(public),
        removed_nodes: cluster.removed_nodes.clone(),
        demoted_nodes: cluster.demoted_nodes.clone(),
        tls_info: cluster
            .root_ca
            .as_ref()
            .and_then(|root| ca::root::wanted(root).ok()),
        ..Cluster::default()
    }
}

/// A service without what its agents log in to a registry with.
pub(super) fn service(service: &Service) -> Service {
    let mut shown = service.clone();
    let retained = shown
        .retained
        .iter_mut()
        .filter_map(|retained| retained.spec.as_mut());
    let specs = shown
        .spec
        .iter_mut()
        .chain(&mut shown.previous_spec)
        .chain(retained);
    for task in specs.filter_map(|spec| spec.task.as_mut()) {
        task.registry_auth = None;
    }
    shown
}

/// The managers as the log sees them at one moment.
pub(super) struct Managers {
    members: Vec<Member>,
    leader: Option<u64>,
}

impl Managers {
    pub(super) fn new(core: &Core) -> Self {
        Self {
            members: core.log.members(),
            leader: core.leader().map(|leader| leader.id),
        }
    }

    /// A node with its manager status filled.
    pub(super) fn node(&self, node: &Arc<Node>) -> Node {
        let mut node = Node::clone(node);
        if let Some(status) = &mut node.manager_status {
            status.leader = self.leader == Some(status.raft_id);
            let member = self.members.iter().find(|member| member.id == status.raft_id);
            status.set_reachability(match member {
                Some(member) if member.reachable => Reachability::Reachable,
                Some(_) => Reachability::Unreachable,
                None => Reachability::Unknown,
            });
        }
        node
    }
}

/// An object as a change of a watch.
pub(super) fn put(object: &Object, managers: &Managers) -> Change {
    let change = match object {
        Object::Cluster(of) => change::Change::PutCluster(cluster(of)),
        Object::Node(node) => change::Change::PutNode(managers.node(node)),
        Object::Service(of) => change::Change::PutService(service(of)),
        other => return other.to_put(),
    };
    Change { change: Some(change) }
}

/// An event as a change of a watch.
pub(super) fn event(event: &Event, managers: &Managers) -> Change {
    match event {
        Event::Put(object) => put(object, managers),
        Event::Delete(_) => event.to_change(),
    }
}
