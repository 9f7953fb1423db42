//! What a new cluster's store begins with: the cluster and its first node. Called by `Manager::bootstrap`.

use pontoon_identity::{PeerIdentity, UnlockKey};
use pontoon_proto::v1::{Annotations, Cluster, Node, NodeRole, NodeState, NodeStatus, RootCa as StoredRoot};
use pontoon_store::Tx;
use tonic::Status;

use crate::ca;
use crate::config::InitOptions;
use crate::status;
use crate::writer::Scope;

/// Writes the cluster and this node.
pub(crate) fn first_state(
    tx: &mut Tx,
    scope: &Scope,
    me: &PeerIdentity,
    init: InitOptions,
) -> Result<(), Status> {
    let InitOptions {
        root,
        mut spec,
        mut node,
        description,
    } = init;
    let annotations = spec.annotations.get_or_insert_with(Annotations::default);
    if annotations.name.is_empty() {
        annotations.name = "default".to_owned();
    }
    let unlock_key = if spec.autolock_managers {
        UnlockKey::generate().as_bytes().to_vec().into()
    } else {
        Default::default()
    };
    let cluster = Cluster {
        id: me.cluster_id.clone(),
        spec: Some(spec),
        unlock_key,
        root_ca: Some(StoredRoot {
            certificate: root.certificate_pem().to_owned().into(),
            key: root.key_pem().to_owned().into(),
            join_tokens: Some(ca::root::tokens(&root)),
            ..StoredRoot::default()
        }),
        ..Cluster::default()
    };
    tx.put_cluster(cluster).map_err(status::from_store)?;
    node.set_role(NodeRole::Manager);
    node.annotations.get_or_insert_with(Annotations::default);
    let state = NodeStatus {
        state: NodeState::Unknown.into(),
        since: scope.now,
        ..NodeStatus::default()
    };
    let node = Node {
        id: me.node_id.clone(),
        spec: Some(node),
        description,
        status: Some(state),
        role: NodeRole::Manager.into(),
        ..Node::default()
    };
    tx.put_node(node).map_err(status::from_store)
}
