//! The cluster object, its join tokens and its unlock key.

use std::sync::Arc;

use pontoon_identity::{RootCa, UnlockKey, generate_secret};
use pontoon_proto::v1::{
    Cluster, ClusterSpec, JoinTokens, NodeRole, RotateJoinTokenRequest, RotateRootRequest, UnlockKeyResponse,
    UpdateClusterRequest,
};
use pontoon_store::{Kind, Snapshot};
use tonic::Status;

use super::view;
use crate::ca;
use crate::core::Core;
use crate::settings::check_settings;
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

/// Replaces the spec. Turning autolock on makes an unlock key, turning it off drops it.
pub(super) async fn update(core: &Core, request: UpdateClusterRequest) -> Result<Cluster, Status> {
    let spec = request
        .spec
        .ok_or_else(|| Status::invalid_argument("the request has no cluster spec"))?;
    let has_snapshots = core.log.has_snapshots();
    if spec.autolock_managers && !core.log.seals() {
        // The state does not lie on the managers' disks; a lock there would promise what it can't keep.
        let refused = crate::Error::no_autolock();
        return Err(Status::failed_precondition(refused.to_string()));
    }
    let update = move |tx: &mut pontoon_store::Tx, _: &crate::writer::Scope| {
        let mut cluster = Cluster::clone(cluster_of(tx)?);
        if !tx.is_at(Kind::Cluster, &cluster.id, request.version) {
            return Err(status::out_of_sequence());
        }
        let before = cluster.spec.take().unwrap_or_default();
        keeps_what_is_fixed(&before, &spec)?;
        check_settings(&spec).map_err(Status::invalid_argument)?;
        let snapshots = |spec: &ClusterSpec| (spec.snapshot_interval, spec.old_snapshots);
        if !has_snapshots && snapshots(&before) != snapshots(&spec) {
            return Err(Status::failed_precondition(
                "the managers take no snapshots of their own here: the store that they share has its own settings for that",
            ));
        }
        if !spec.autolock_managers {
            cluster.unlock_key.clear();
        } else if cluster.unlock_key.is_empty() {
            cluster.unlock_key = UnlockKey::generate().as_bytes().to_vec().into();
        }
        cluster.spec = Some(spec);
        tx.put_cluster(cluster).map_err(status::from_store)
    };
    core.writer()?.write(update).await?;
    get(core).await
}

/// Subnets and tunnels that exist were made with these.
fn keeps_what_is_fixed(before: &ClusterSpec, after: &ClusterSpec) -> Result<(), Status> {
    let fixed = |spec: &ClusterSpec| {
        (
            spec.default_address_pool.clone(),
            spec.subnet_size,
            spec.data_path_port,
        )
    };
    if fixed(before) == fixed(after) {
        return Ok(());
    }
    Err(Status::invalid_argument(
        "the address pools and the data path's port are fixed when a swarm is made and can't be changed",
    ))
}

/// The unlock key's text; empty without autolock.
fn unlock_key_of(cluster: &Cluster) -> UnlockKeyResponse {
    let key = UnlockKey::from_bytes(&cluster.unlock_key);
    UnlockKeyResponse {
        key: key.map_or_else(String::new, |key| key.reveal().to_string()),
    }
}

pub(super) async fn unlock_key(core: &Core) -> Result<UnlockKeyResponse, Status> {
    let snapshot = core.read().await?;
    cluster_of(&snapshot).map(|cluster| unlock_key_of(cluster))
}

/// Makes a new unlock key; all managers seal their keys by it once they have this entry.
pub(super) async fn rotate_unlock_key(core: &Core) -> Result<UnlockKeyResponse, Status> {
    let rotate = |tx: &mut pontoon_store::Tx, _: &crate::writer::Scope| {
        let mut cluster = Cluster::clone(cluster_of(tx)?);
        if cluster.unlock_key.is_empty() {
            return Err(Status::failed_precondition(
                "cannot rotate because autolock is not turned on",
            ));
        }
        cluster.unlock_key = UnlockKey::generate().as_bytes().to_vec().into();
        let response = unlock_key_of(&cluster);
        tx.put_cluster(cluster).map_err(status::from_store)?;
        Ok(response)
    };
    core.writer()?.write(rotate).await
}

/// Begins to replace the root; the nodes follow by themselves.
pub(super) async fn rotate_root(core: &Core, request: RotateRootRequest) -> Result<Cluster, Status> {
    let begin = move |tx: &mut pontoon_store::Tx, _: &crate::writer::Scope| {
        let mut cluster = Cluster::clone(cluster_of(tx)?);
        if !tx.is_at(Kind::Cluster, &cluster.id, request.version) {
            return Err(status::out_of_sequence());
        }
        ca::root::begin(&mut cluster, &request)?;
        tx.put_cluster(cluster).map_err(status::from_store)
    };
    core.writer()?.write(begin).await?;
    cluster_of(&core.snapshot()).map(|cluster| view::cluster(cluster))
}
