//! Followers pass writes on to the leader: the raw gRPC call over mTLS, whatever its messages.
//!
//! Owned here: which calls need the leader, waiting for one during an election, protection against loops (a call that
//! was passed on once is not passed on again), and that a call which reached nobody is tried again while one whose
//! outcome is unknown is not. Wraps the Control and Ca services, on the cluster port and on the local socket.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::Full;
use pontoon_identity::PeerIdentity;
use pontoon_proto::v1::NodeRole;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower::ServiceExt;
use tracing::debug;

use crate::ca;
use crate::core::Core;
use crate::layer::{self, Around, Calls, Layered};
use crate::status;

/// On calls that a manager passed on: who made them, as `role:node id`, or `nobody` (the local socket, or no certificate).
const CALLER: HeaderName = HeaderName::from_static("pontoon-caller");
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Calls that only the leader can answer.
fn needs_leader(path: &str) -> bool {
    const CALLS: &[&str] = &[
        "/pontoon.v1.Control/RotateJoinToken",
        "/pontoon.v1.Control/RotateRoot",
        // Only the leader hears from every manager, so only it knows which are reachable.
        "/pontoon.v1.Control/ListNodes",
        "/pontoon.v1.Control/GetNode",
        "/pontoon.v1.Control/UpdateNode",
        "/pontoon.v1.Control/RemoveNode",
        "/pontoon.v1.Control/CreateService",
        "/pontoon.v1.Control/UpdateService",
        "/pontoon.v1.Control/RemoveService",
        "/pontoon.v1.Control/CreateNetwork",
        "/pontoon.v1.Control/RemoveNetwork",
        "/pontoon.v1.Control/ServiceLogs",
        "/pontoon.v1.Control/CheckNetworks",
        "/pontoon.v1.Ca/IssueCertificate",
    ];
    CALLS.contains(&path)
}

/// Takes off what only managers may say.
pub(crate) fn strip(headers: &mut HeaderMap) {
    headers.remove(CALLER);
}

/// Who made the call that a manager passed on, from its metadata; `None` for a call that comes straight.
pub(crate) fn original_caller(headers: &HeaderMap) -> Option<Option<PeerIdentity>> {
    let text = headers.get(CALLER)?.to_str().ok()?;
    let identity = text.split_once(':').and_then(|(role, node_id)| {
        let role = match role {
            "manager" => NodeRole::Manager,
            "worker" => NodeRole::Worker,
            _ => return None,
        };
        Some(PeerIdentity {
            node_id: node_id.to_owned(),
            role,
            cluster_id: String::new(),
        })
    });
    Some(identity)
}

fn caller_text(peer: Option<&PeerIdentity>) -> HeaderValue {
    let Some(peer) = peer else {
        return HeaderValue::from_static("nobody");
    };
    let role = if peer.role == NodeRole::Manager {
        "manager"
    } else {
        "worker"
    };
    HeaderValue::from_str(&format!("{role}:{}", peer.node_id))
        .unwrap_or_else(|_| HeaderValue::from_static("nobody"))
}

/// A service whose writes go to the leader.
pub(crate) type Forward<S> = Layered<ToLeader, S>;

/// Brings calls to the leader.
#[derive(Clone)]
pub(crate) struct ToLeader {
    core: Arc<Core>,
}

impl<S> Forward<S> {
    pub(crate) fn new(core: &Arc<Core>, inner: S) -> Self {
        Self::with(ToLeader { core: core.clone() }, inner)
    }
}

impl Around for ToLeader {
    async fn answer<S: Calls>(self, inner: S, request: Request<Body>) -> Response<Body> {
        if !needs_leader(request.uri().path()) || request.headers().contains_key(CALLER) {
            return layer::call(inner, request).await;
        }
        route(&self.core, inner, request).await
    }
}

/// A request that can be sent more than once.
struct Call {
    parts: http::request::Parts,
    body: Bytes,
}

impl Call {
    fn request(&self) -> Request<Body> {
        let mut request = Request::new(Body::new(Full::new(self.body.clone())));
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.version_mut() = self.parts.version;
        *request.headers_mut() = self.parts.headers.clone();
        *request.extensions_mut() = self.parts.extensions.clone();
        request
    }

    /// The same call for another manager.
    fn passed_on(&self) -> Request<Body> {
        let mut request = self.request();
        request.extensions_mut().clear();
        let peer = self.parts.extensions.get::<PeerIdentity>();
        request.headers_mut().insert(CALLER, caller_text(peer));
        request
    }
}

/// Brings a call to whoever leads, trying again as long as nobody has looked at it.
async fn route<S: Calls>(core: &Core, inner: S, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let most = match parts.uri.path().starts_with("/pontoon.v1.Ca/") {
        // Anybody may call it.
        true => ca::MAX_MESSAGE,
        false => layer::MAX_REQUEST,
    };
    let body = match layer::whole(body, parts.uri.path(), most).await {
        Ok(body) => body,
        Err(status) => return status.into_http(),
    };
    let call = Call { parts, body };
    let deadline = Instant::now() + core.leader_timeout;
    let mut leadership = core.log.leadership();
    loop {
        // Seen before the try: a change during it counts as new, an old one does not make this a busy loop.
        leadership.mark_unchanged();
        let response = if core.leading().is_some() {
            Some(layer::call(inner.clone(), call.request()).await)
        } else {
            pass_on(core, &call).await
        };
        // Refused by one that does not lead, or no leader to ask: nothing was done.
        match response {
            Some(response) if !response.headers().contains_key(status::NOT_LEADER) => return response,
            _ if Instant::now() >= deadline => return core.no_leader().into_http(),
            _ => {}
        }
        let changed = tokio::time::timeout(RETRY_PAUSE, leadership.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            return core.no_leader().into_http();
        }
    }
}

/// The answer of the leader; `None` when there is none that could be reached.
async fn pass_on(core: &Core, call: &Call) -> Option<Response<Body>> {
    let leader = core.leader().filter(|leader| leader.id != core.log.id())?;
    let channel = match core.channels.get(&leader.addr) {
        Ok(channel) => channel,
        Err(error) => {
            debug!(addr = leader.addr, %error, "can't dial the leader");
            return None;
        }
    };
    match channel.oneshot(call.passed_on()).await {
        Ok(response) => Some(response),
        Err(error) => {
            core.channels.forget(&leader.addr);
            let reason = pontoon_identity::describe(&error);
            if pontoon_identity::never_connected(&error) {
                debug!(addr = leader.addr, reason, "can't reach the leader");
                return None;
            }
            let text = format!(
                "the connection to the leader was lost ({reason}); look whether the change was made before trying again"
            );
            Some(Status::unavailable(text).into_http())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_survives_being_passed_on() {
        let peer = PeerIdentity {
            node_id: "abc".to_owned(),
            role: NodeRole::Worker,
            cluster_id: String::new(),
        };
        let mut headers = HeaderMap::new();
        assert_eq!(original_caller(&headers), None);
        headers.insert(CALLER, caller_text(Some(&peer)));
        assert_eq!(original_caller(&headers), Some(Some(peer)));
        headers.insert(CALLER, caller_text(None));
        assert_eq!(original_caller(&headers), Some(None));
        strip(&mut headers);
        assert_eq!(original_caller(&headers), None);
    }

    #[test]
    fn reads_stay_here() {
        assert!(needs_leader("/pontoon.v1.Control/CreateService"));
        assert!(needs_leader("/pontoon.v1.Control/CheckNetworks"));
        assert!(!needs_leader("/pontoon.v1.Control/ListServices"));
        assert!(!needs_leader("/pontoon.v1.Control/Watch"));
        assert!(!needs_leader("/pontoon.v1.Ca/GetRoot"));
    }
}
