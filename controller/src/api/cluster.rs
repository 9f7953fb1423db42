//! The cluster object and its join tokens.

use std::sync::Arc;

use pontoon_identity::{RootCa, generate_secret};
use pontoon_proto::v1::{Cluster, JoinTokens, NodeRole, RotateJoinTokenRequest};
use pontoon_store::Snapshot;
use tonic::Status;

use super::view;
use crate::core::Core;
use crate::status;

fn cluster_of(snapshot: &Snapshot) -> Result<&Arc<Cluster>, Status> {
    snapshot
        .cluster()
        .ok_or_else(|| Status::unavailable("this manager has not received the cluster's state yet"))
}

pub(super) async fn get(core: &Core) -> Result<Cluster, Status> {
    let snapshot = core.read().await?;
    cluster_of(&snapshot).map(|cluster| view::cluster(cluster))
}

pub(super) async fn join_tokens(core: &Core) -> Result<JoinTokens, Status> {
    let snapshot = core.read().await?;
    let root = cluster_of(&snapshot)?.root_ca.as_ref();
    Ok(root.and_then(|root| root.join_tokens.clone()).unwrap_or_default())
}

/// Makes one of the tokens void and a new one in its place.
pub(super) async fn rotate(core: &Core, request: RotateJoinTokenRequest) -> Result<JoinTokens, Status> {
    let role = NodeRole::try_from(request.role)
        .map_err(|_| Status::invalid_argument("the role must be worker or manager"))?;
    let rotate = move |tx: &mut pontoon_store::Tx, _: &crate::writer::Scope| {
        let mut cluster = Cluster::clone(cluster_of(tx)?);
        let root = cluster
            .root_ca
            .as_mut()
            .ok_or_else(|| Status::internal("the cluster has no root"))?;
        let ca =
            RootCa::from_pem(&root.certificate, &root.key).map_err(|e| Status::internal(e.to_string()))?;
        let token = ca.join_token(generate_secret()).to_string();
        let tokens = root.join_tokens.get_or_insert_with(JoinTokens::default);
        match role {
            NodeRole::Worker => tokens.worker = token,
            NodeRole::Manager => tokens.manager = token,
        }
        let tokens = tokens.clone();
        tx.put_cluster(cluster).map_err(status::from_store)?;
        Ok(tokens)
    };
    core.writer()?.write(rotate).await
}
