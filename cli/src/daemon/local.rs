//! The local socket: Engine, Swarm, Control (on managers) and server reflection. Its callers are trusted by its mode.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use pontoon_proto::v1::control_server::SERVICE_NAME as CONTROL;
use pontoon_proto::v1::swarm_server::SwarmServer;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::Service;

use super::SharedEngine;
use super::config::Config;
use super::membership::Membership;
use super::service::SwarmService;
use crate::error::Failure;

/// The largest message taken from a client; archives come in chunks.
const MESSAGE_LIMIT: usize = 16 << 20;

/// The controller's local services while this node is a manager; else an answer that says what to do.
#[derive(Clone, Debug, Default)]
pub struct ControlSlot {
    routes: Arc<Mutex<Option<Routes>>>,
    is_worker: Arc<std::sync::atomic::AtomicBool>,
    /// Why the controller of a manager does not run.
    trouble: Arc<Mutex<Option<String>>>,
}

impl ControlSlot {
    /// Sets or clears the controller.
    pub fn set(&self, routes: Option<Routes>) {
        *self.routes.lock().unwrap_or_else(PoisonError::into_inner) = routes;
    }

    /// Tells whether the node is in a cluster without being a manager: the answer differs.
    pub fn set_worker(&self, is_worker: bool) {
        self.is_worker
            .store(is_worker, std::sync::atomic::Ordering::Relaxed);
    }

    /// Says why this manager's controller does not run: all calls are answered with that until the controller is set.
    pub fn set_trouble(&self, reason: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Why the controller does not run.
    pub fn trouble(&self) -> Option<String> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Why this node can't do what only a manager can.
    pub fn refusal(&self) -> tonic::Status {
        if let Some(reason) = self.trouble() {
            return tonic::Status::unavailable(reason);
        }
        tonic::Status::failed_precondition(if self.is_worker.load(std::sync::atomic::Ordering::Relaxed) {
            "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. \
             Please run this command on a manager node or promote the current node to a manager."
        } else {
            "This node is not a swarm manager. Use \"pontoon swarm init\" or \"pontoon swarm join\" to connect \
             this node to swarm and try again."
        })
    }
}

impl NamedService for ControlSlot {
    const NAME: &'static str = CONTROL;
}

impl Service<http::Request<Body>> for ControlSlot {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match routes {
            Some(mut routes) => Box::pin(async move { Ok(routes.call(request).await?.map(Body::new)) }),
            None => {
                let response = self.refusal().into_http();
                Box::pin(async move { Ok(response) })
            }
        }
    }
}

/// Starts to serve the local socket; ends at `stop`.
///
/// # Errors
/// When the socket can't be made.
pub fn serve(
    config: &Config,
    engine: SharedEngine,
    membership: Arc<Membership>,
    stop: CancellationToken,
) -> Result<JoinHandle<Result<(), tonic::transport::Error>>, Failure> {
    let failed = |error| Failure::new(format!("describe the API: {error}"));
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pontoon_proto::FILE_DESCRIPTOR_SET)
    };
    let reflection = described().build_v1().map_err(failed)?;
    // grpcurl asks for the older one in its releases before 1.8.8.
    let older_reflection = described().build_v1alpha().map_err(failed)?;
    let path = config.socket();
    let listener = bind(&path, &config.group)?;
    let router = tonic::transport::Server::builder()
        .add_service(pontoon_engine::grpc::service(engine))
        .add_service(
            SwarmServer::new(SwarmService(membership.clone())).max_decoding_message_size(MESSAGE_LIMIT),
        )
        .add_service(membership.control())
        .add_service(reflection)
        .add_service(older_reflection);
    Ok(tokio::spawn(async move {
        let incoming = UnixListenerStream::new(listener);
        let served = router
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await;
        // A socket that nobody serves would make clients wait for nothing.
        let _ = std::fs::remove_file(path);
        served
    }))
}

/// Binds the socket with mode 0660, for root and the group if there is one. A socket left by a killed daemon is replaced:
/// the lock on the run folder says that no other daemon lives.
fn bind(path: &Path, group: &str) -> Result<UnixListener, Failure> {
    let failed = |what: &str, error: std::io::Error| {
        Failure::new(format!("{what} socket {}: {error}", path.display()))
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed("remove stale", error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|error| failed("bind", error))?;
    let gid = group_id(group);
    if let Some(gid) = gid {
        std::os::unix::fs::chown(path, Some(0), Some(gid))
            .map_err(|error| failed("give to its group", error))?;
    }
    let mode = if gid.is_some() { 0o660 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|error| failed("protect", error))?;
    Ok(listener)
}

/// The id of a group in /etc/group; a static binary does not ask NSS.
fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}
