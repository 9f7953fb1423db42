//! The cluster port: one listener for as long as the node is in its cluster, whatever its role. Every node gives image content to
//! others there; the managers' services are behind it while this node is one. Made and ended by `node`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use pontoon_agent::Images;
use pontoon_identity::{Connections, Identity, TlsListener, serve};
use pontoon_proto::v1::{ca_server, control_server, dispatcher_server, raft_server};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::Service;

use super::describe;

/// Pause before a port that is taken is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// The managers' services: the only ones besides the peers'.
const MANAGERS: [&str; 4] = [
    control_server::SERVICE_NAME,
    ca_server::SERVICE_NAME,
    dispatcher_server::SERVICE_NAME,
    raft_server::SERVICE_NAME,
];

type Slot = Arc<Mutex<Option<Routes>>>;

/// The port.
#[derive(Debug)]
pub struct ClusterPort {
    connections: Connections,
    managers: Slot,
    /// What keeps it from listening; none when it listens.
    failure: watch::Receiver<Option<String>>,
    stop: CancellationToken,
    server: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl ClusterPort {
    /// Listens. A port that is taken is an error, unless the caller is `patient`: then it is tried again until it is free.
    ///
    /// # Errors
    /// The address can't be listened on.
    pub async fn open(
        addr: SocketAddr,
        identity: Arc<Identity>,
        images: &Arc<Images>,
        patient: bool,
    ) -> Result<Self, String> {
        let (connections, managers) = (Connections::new(), Slot::default());
        let bind = {
            let connections = connections.clone();
            move || {
                let bound = TlsListener::bind(addr, identity.clone(), connections.clone());
                async move { bound.await.map_err(|error| format!("listen on {addr}: {error}")) }
            }
        };
        let first = bind().await;
        if let Err(reason) = &first
            && !patient
        {
            return Err(reason.clone());
        }
        let routes = Routes::new(Managers::<0>(managers.clone()))
            .add_service(Managers::<1>(managers.clone()))
            .add_service(Managers::<2>(managers.clone()))
            .add_service(Managers::<3>(managers.clone()))
            .add_service(images.service());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (state, failure) = watch::channel(first.as_ref().err().cloned());
        let server = tokio::spawn(async move {
            let mut bound = first;
            let listener = loop {
                match bound {
                    Ok(listener) => break listener,
                    Err(reason) => {
                        tracing::warn!(reason, "other nodes can't get images from this one; trying again");
                        tokio::time::sleep(AGAIN).await;
                        bound = bind().await;
                    }
                }
            };
            state.send_replace(None);
            if let Err(error) = serve(listener, routes, stopped.cancelled_owned()).await {
                tracing::error!(error = %describe(&error), "the cluster port is not served any more");
            }
        });
        Ok(Self {
            connections,
            managers,
            failure,
            stop,
            server: tokio::sync::Mutex::new(Some(server)),
        })
    }

    /// The connections that come in by it.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Whether it listens: a manager needs that.
    ///
    /// # Errors
    /// Why it does not.
    pub fn ready(&self) -> Result<(), String> {
        match &*self.failure.borrow() {
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        }
    }

    /// Shows the managers' services, or takes them away and cuts all connections: streams of agents never end by themselves.
    pub fn set_manager(&self, routes: Option<Routes>) {
        let ends = routes.is_none();
        *self.managers.lock().unwrap_or_else(PoisonError::into_inner) = routes;
        if ends {
            for node in self.connections.nodes() {
                self.connections.cut(&node);
            }
        }
    }

    /// Ends it. Streams never end by themselves: they are cut.
    pub async fn close(&self) {
        self.stop.cancel();
        if let Some(server) = self.server.lock().await.take() {
            server.abort();
            let _ = server.await;
        }
    }
}

impl Drop for ClusterPort {
    fn drop(&mut self) {
        // A start that failed keeps no port.
        self.stop.cancel();
    }
}

/// One of the managers' services, while this node is a manager.
#[derive(Clone)]
struct Managers<const N: usize>(Slot);

impl<const N: usize> NamedService for Managers<N> {
    const NAME: &'static str = MANAGERS[N];
}

impl<const N: usize> Service<http::Request<Body>> for Managers<N> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let routes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match routes {
            Some(mut routes) => Box::pin(async move { Ok(routes.call(request).await?.map(Body::new)) }),
            None => {
                let refusal = tonic::Status::failed_precondition("this node is not a manager");
                Box::pin(std::future::ready(Ok(refusal.into_http())))
            }
        }
    }
}
