//! Who may call what on the cluster port: one table, one layer around each service.
//!
//! Owned here: the decision from the peer's certificate and, at the leader, from the store (a demoted or removed node
//! keeps its certificate). A stale follower must not decide by its store: it could lock the leader out. Metadata that
//! only managers may set is taken off other requests. Called for every request of the cluster port.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Request, Response};
use pontoon_identity::{ConnectionInfo, PeerIdentity};
use pontoon_proto::v1::NodeRole;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::core::Core;
use crate::forward;
use crate::layer::{self, Around, Calls, Layered};
use crate::roles;

/// Who may call a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    /// Anybody, without a certificate too.
    Anybody,
    /// Nodes of the cluster.
    Node,
    /// Managers.
    Manager,
}

/// The table. What is not in it is for managers.
fn right(path: &str) -> Right {
    match path.rsplit_once('/').map_or("", |(service, _)| service) {
        "/pontoon.v1.Ca" => Right::Anybody,
        "/pontoon.v1.Dispatcher" => Right::Node,
        _ => Right::Manager,
    }
}

/// Calls whose caller the leader looks up in the store as well. Not the log's messages: a member that is behind would
/// refuse a manager that it does not know yet.
fn looked_up(path: &str) -> bool {
    path.starts_with("/pontoon.v1.Control/")
        || path.starts_with("/pontoon.v1.Dispatcher/")
        || path == "/pontoon.v1.Raft/Join"
}

fn check(core: &Core, path: &str, info: Option<&ConnectionInfo>) -> Result<(), Status> {
    let right = right(path);
    if right == Right::Anybody {
        return Ok(());
    }
    let Some((info, peer)) = info.and_then(|info| Some((info, info.peer.as_ref()?))) else {
        return Err(Status::unauthenticated(
            "this call needs a node certificate: let the node join the swarm with a join token",
        ));
    };
    let refused = |what: &str| Status::permission_denied(format!("node {}: {what}", peer.node_id));
    if right == Right::Manager && peer.role != NodeRole::Manager {
        return Err(refused(
            "its certificate is a worker's; this call is for managers only",
        ));
    }
    let snapshot = core.snapshot();
    let removed = || {
        Status::not_found(format!(
            "node {} is not part of the swarm: it was removed; let it leave and join again",
            peer.node_id
        ))
    };
    // Ids are never given twice, so what this manager knows to be removed stays so, however far behind it is.
    if snapshot
        .cluster()
        .is_some_and(|cluster| cluster.removed_nodes.contains_key(&peer.node_id))
    {
        return Err(removed());
    }
    // The log's service looks at this itself: it has more to say to a member that was removed.
    let is_log = path.starts_with("/pontoon.v1.Raft/");
    if right == Right::Manager && !is_log && roles::is_demoted(&snapshot, &peer.node_id, info.issued_at) {
        return Err(roles::no_longer_a_manager(&peer.node_id));
    }
    if !looked_up(path) || core.leading().is_none() {
        return Ok(());
    }
    match snapshot.node(&peer.node_id) {
        None => Err(removed()),
        Some(node) if right == Right::Manager && node.role() != NodeRole::Manager => {
            Err(roles::no_longer_a_manager(&peer.node_id))
        }
        Some(_) => Ok(()),
    }
}

/// Managers pass calls on for others. One that was demoted must not, though its certificate still says manager: it
/// could ask for a certificate in anybody's name.
fn may_speak_for_others(core: &Core, peer: &PeerIdentity) -> bool {
    if peer.role != NodeRole::Manager {
        return false;
    }
    // Only the leader acts on what they say.
    core.leading().is_none()
        || core
            .snapshot()
            .node(&peer.node_id)
            .is_some_and(|node| node.role() == NodeRole::Manager)
}

/// From where a certificate is asked for, unless a manager passes the call on: it has looked already.
fn joining_from(request: &Request<Body>, peer: Option<&PeerIdentity>) -> Option<IpAddr> {
    let info = request.extensions().get::<ConnectionInfo>()?;
    let by_manager = peer.is_some_and(|peer| peer.role == NodeRole::Manager);
    (request.uri().path() == "/pontoon.v1.Ca/IssueCertificate" && !by_manager).then(|| info.remote_addr.ip())
}

/// True for an answer that says that the request was bad, not that there is no leader.
fn is_refusal(headers: &HeaderMap) -> bool {
    matches!(
        Status::from_header_map(headers).map(|status| status.code()),
        Some(Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::OutOfRange)
    )
}

/// A service behind the table.
pub(crate) type Guard<S> = Layered<Table, S>;

/// Lets through what the table allows.
#[derive(Clone)]
pub(crate) struct Table {
    core: Arc<Core>,
}

impl<S> Guard<S> {
    pub(crate) fn new(core: &Arc<Core>, inner: S) -> Self {
        Self::with(Table { core: core.clone() }, inner)
    }
}

impl Around for Table {
    async fn answer<S: Calls>(self, inner: S, mut request: Request<Body>) -> Response<Body> {
        let info = request.extensions().get::<ConnectionInfo>();
        if let Err(status) = check(&self.core, request.uri().path(), info) {
            return status.into_http();
        }
        let peer = info.and_then(|info| info.peer.clone());
        if !peer
            .as_ref()
            .is_some_and(|peer| may_speak_for_others(&self.core, peer))
        {
            forward::strip(request.headers_mut());
        }
        let joins = joining_from(&request, peer.as_ref());
        if let Some(addr) = joins
            && let Err(status) = self.core.attempts.check(addr, Instant::now())
        {
            return status.into_http();
        }
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let response = layer::call(inner, request).await;
        if let Some(addr) = joins.filter(|_| is_refusal(response.headers())) {
            self.core.attempts.failed(addr, Instant::now());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ca_is_open_and_only_sessions_are_for_workers() {
        assert_eq!(right("/pontoon.v1.Ca/IssueCertificate"), Right::Anybody);
        assert_eq!(right("/pontoon.v1.Dispatcher/Session"), Right::Node);
        assert_eq!(right("/pontoon.v1.Raft/Messages"), Right::Manager);
        assert_eq!(right("/pontoon.v1.Control/ListNodes"), Right::Manager);
        assert_eq!(right("/pontoon.v1.Unknown/Call"), Right::Manager);
        assert_eq!(right("nonsense"), Right::Manager);
        assert_eq!(right("/pontoon.v1.Ca/../Raft/Join"), Right::Manager);
        assert!(!looked_up("/pontoon.v1.Raft/Messages"));
    }
}
