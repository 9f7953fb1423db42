//! The Ca service: the root for those who join, certificates for a join token or as renewal.
//!
//! Owned here: that a certificate and what the store says of its node never contradict each other. A new node's object
//! is in the log before its certificate is handed out; a renewal carries the role that the node has *now*. Served by
//! every manager, also without a client certificate; issuing goes to the leader. `root`: the root and its replacement;
//! `rotation`: takes the nodes over to another; `limit`: failed attempts to join.

pub(crate) mod limit;
pub(crate) mod root;
pub(crate) mod rotation;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use pontoon_identity::{ConnectionInfo, Credentials, DEFAULT_EXPIRY, JoinToken, PeerIdentity};
use pontoon_proto::v1::ca_server::Ca;
use pontoon_proto::v1::{
    Annotations, Cluster, GetRootRequest, GetRootResponse, IssueCertificateRequest, IssueCertificateResponse,
    Node, NodeRole, NodeSpec, NodeState, NodeStatus,
};
use pontoon_store::{Snapshot, Tx};
use tonic::{Request, Response, Status};
use tracing::info;

use crate::core::Core;
use crate::writer::Scope;
use crate::{forward, roles, status};

/// A request for a certificate is some 500 bytes.
pub(crate) const MAX_MESSAGE: usize = 64 << 10;

/// The service.
#[derive(Clone)]
pub(crate) struct CaService {
    core: Arc<Core>,
}

/// On whose behalf a certificate is asked for.
enum Applicant {
    /// A new node in this role.
    New(NodeRole, IssueCertificateRequest),
    /// A node of the cluster.
    Renewal(PeerIdentity),
}

impl CaService {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self { core: core.clone() }
    }

    fn applicant(
        &self,
        caller: Option<PeerIdentity>,
        message: IssueCertificateRequest,
        cluster: &Cluster,
    ) -> Result<Applicant, Status> {
        if !message.token.is_empty() {
            return role_of_token(cluster, &message.token).map(|role| Applicant::New(role, message));
        }
        caller.map(Applicant::Renewal).ok_or_else(|| {
            Status::unauthenticated("a valid join token is necessary to join this cluster: none was given")
        })
    }
}

/// Who asks: the peer, or whom a manager that passed the call on speaks for.
fn caller(request: &Request<IssueCertificateRequest>) -> Option<PeerIdentity> {
    let headers = request.metadata().clone().into_headers();
    match forward::original_caller(&headers) {
        Some(original) => original,
        None => request
            .extensions()
            .get::<ConnectionInfo>()
            .and_then(|info| info.peer.clone()),
    }
}

/// The role that a token lets in.
fn role_of_token(cluster: &Cluster, text: &str) -> Result<NodeRole, Status> {
    let token: JoinToken = text
        .parse()
        .map_err(|error: pontoon_identity::TokenError| Status::invalid_argument(error.to_string()))?;
    let tokens = cluster
        .root_ca
        .as_ref()
        .and_then(|root| root.join_tokens.clone())
        .unwrap_or_default();
    for (role, own) in [
        (NodeRole::Worker, &tokens.worker),
        (NodeRole::Manager, &tokens.manager),
    ] {
        let Ok(own) = own.parse::<JoinToken>() else {
            continue;
        };
        if own.matches(&token) {
            return Ok(role);
        }
        if own.root_digest != token.root_digest {
            return Err(Status::permission_denied(
                "the join token is of another cluster, or of this one before its root was replaced: \
                 `pontoon swarm join-token` on a manager shows the one that holds now",
            ));
        }
    }
    Err(Status::permission_denied(
        "a valid join token is necessary to join this cluster: the token's secret is wrong, or it was rotated",
    ))
}

fn cluster_of(snapshot: &Snapshot) -> Result<&Arc<Cluster>, Status> {
    snapshot
        .cluster()
        .ok_or_else(|| Status::unavailable("this manager has not received the cluster's state yet"))
}

/// Lifetime of the certificates that are issued now.
pub(crate) fn expiry_of(cluster: &Cluster) -> Duration {
    let wished = cluster
        .spec
        .as_ref()
        .and_then(|spec| u64::try_from(spec.node_cert_expiry).ok());
    wished
        .filter(|expiry| *expiry > 0)
        .map_or(DEFAULT_EXPIRY, Duration::from_nanos)
}

/// The longest time for which a certificate that was issued in the cluster may be valid, in nanoseconds.
pub(crate) fn longest_expiry(cluster: &Cluster) -> i64 {
    i64::try_from(expiry_of(cluster).max(DEFAULT_EXPIRY).as_nanos()).unwrap_or(i64::MAX)
}

/// Makes the node of a token.
fn join(
    tx: &mut Tx,
    scope: &Scope,
    role: NodeRole,
    message: &IssueCertificateRequest,
) -> Result<Node, Status> {
    // The token may have been rotated since it was looked at.
    let now = role_of_token(cluster_of(tx)?, &message.token)?;
    if now != role {
        return Err(Status::permission_denied("the join token was rotated"));
    }
    let spec = NodeSpec {
        annotations: Some(Annotations::default()),
        role: role.into(),
        availability: message.availability,
    };
    let state = NodeStatus {
        state: NodeState::Unknown.into(),
        since: scope.now,
        ..NodeStatus::default()
    };
    let node = Node {
        id: scope.new_id(),
        spec: Some(spec),
        status: Some(state),
        role: role.into(),
        ..Node::default()
    };
    tx.put_node(node.clone()).map_err(status::from_store)?;
    Ok(node)
}

/// The role that a node's certificate is renewed for. A manager that is to be demoted stays one until it has left the
/// log's group.
fn renew(tx: &mut Tx, scope: &Scope, peer: &PeerIdentity) -> Result<Node, Status> {
    let node = tx.node(&peer.node_id).cloned().ok_or_else(|| {
        Status::not_found(format!(
            "node {} is not part of the swarm: it was removed",
            peer.node_id
        ))
    })?;
    let wish = node.spec.as_ref().map_or(NodeRole::Worker, NodeSpec::role);
    let role = if node.manager_status.is_some() {
        NodeRole::Manager
    } else {
        wish
    };
    roles::note(tx, &node, role, scope.host.now());
    let node = Node {
        role: role.into(),
        ..Node::clone(&node)
    };
    tx.put_node(node.clone()).map_err(status::from_store)?;
    Ok(node)
}

/// Gives this manager a certificate by the root that it holds itself.
pub(crate) fn reissue(core: &Core) -> Result<(), Status> {
    let snapshot = core.snapshot();
    let cluster = cluster_of(&snapshot)?;
    let me = core.identity.peer();
    let is_manager = snapshot
        .node(&me.node_id)
        .is_some_and(|node| node.role() == NodeRole::Manager);
    if !is_manager {
        return Err(Status::permission_denied(format!(
            "node {} is no manager of the swarm, as far as its log goes",
            me.node_id
        )));
    }
    let stored = root::of(cluster)?;
    let invalid = |error: pontoon_identity::Error| Status::internal(pontoon_identity::describe(&error));
    let issued = root::issuer(stored)?
        .issue_credentials(&me, expiry_of(cluster))
        .map_err(invalid)?;
    let credentials = Credentials {
        root: String::from_utf8_lossy(&stored.certificate).into_owned(),
        ..issued
    };
    core.identity.replace(&credentials).map_err(invalid)?;
    info!("this manager has given itself a certificate: its own was no longer valid");
    Ok(())
}

#[tonic::async_trait]
impl Ca for CaService {
    async fn get_root(&self, _: Request<GetRootRequest>) -> Result<Response<GetRootResponse>, Status> {
        let certificate = self.core.identity.root_pem().into();
        Ok(Response::new(GetRootResponse { certificate }))
    }

    async fn issue_certificate(
        &self,
        request: Request<IssueCertificateRequest>,
    ) -> Result<Response<IssueCertificateResponse>, Status> {
        let caller = caller(&request);
        let message = request.into_inner();
        let writer = self.core.writer()?;
        let snapshot = self.core.snapshot();
        let cluster = cluster_of(&snapshot)?.clone();
        let root = root::issuer(root::of(&cluster)?)?;
        let csr = message.csr.clone();
        // Before the role is looked up: a demotion in between makes the certificate void.
        let now = u64::try_from(self.core.host.now()).unwrap_or(0);
        let asked_at = UNIX_EPOCH + Duration::from_nanos(now);
        let sign = |node_id: &str, role| {
            let subject = PeerIdentity {
                node_id: node_id.to_owned(),
                role,
                cluster_id: cluster.id.clone(),
            };
            root.issue(&csr, &subject, expiry_of(&cluster), asked_at)
                .map_err(|error| Status::invalid_argument(error.to_string()))
        };
        let applicant = self.applicant(caller, message, &cluster)?;
        // A request that can't be signed must not leave a node behind.
        sign("probe", NodeRole::Worker)?;
        let node = match applicant {
            Applicant::New(role, message) => {
                writer
                    .write(move |tx, scope| join(tx, scope, role, &message))
                    .await?
            }
            Applicant::Renewal(peer) => writer.write(move |tx, scope| renew(tx, scope, &peer)).await?,
        };
        let certificate = sign(&node.id, node.role())?;
        info!(node = node.id, role = ?node.role(), "certificate issued");
        Ok(Response::new(IssueCertificateResponse {
            role: node.role,
            node_id: node.id,
            cluster_id: cluster.id.clone(),
            certificate: certificate.into(),
            manager_addrs: self
                .core
                .log
                .members()
                .into_iter()
                .map(|member| member.addr)
                .collect(),
        }))
    }
}
