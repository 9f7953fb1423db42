//! The accept loop of the cluster port.
//!
//! Owned here: the handshakes, each in its own task with a time-out, so that a client that dawdles holds up nobody. The
//! TLS configuration is taken anew for each connection (tonic's own TLS can't be reloaded). Called by the daemon.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tracing::{debug, warn};

use crate::connections::Connections;
use crate::error::{Refusal, tls_error};
use crate::identity::Identity;
use crate::peer::{self, Parsed};
use crate::stream::{ConnectionInfo, TlsStream};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at once; more wait in the kernel's backlog.
const MAX_HANDSHAKES: usize = 512;
/// The serving side finds out within twice this time that a connection is dead. Heartbeats find out sooner; this only
/// frees what a dead connection holds.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The cluster port.
pub struct TlsListener {
    listener: TcpListener,
    identity: Arc<Identity>,
    connections: Connections,
    handshake_timeout: Duration,
}

impl TlsListener {
    /// Listens on `addr`.
    pub async fn bind(
        addr: impl ToSocketAddrs,
        identity: Arc<Identity>,
        connections: Connections,
    ) -> io::Result<Self> {
        Ok(Self::new(TcpListener::bind(addr).await?, identity, connections))
    }

    /// Uses a listener that is bound already.
    pub fn new(listener: TcpListener, identity: Arc<Identity>, connections: Connections) -> Self {
        Self {
            listener,
            identity,
            connections,
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }
    }

    /// Another time-out for handshakes than 10 s.
    pub fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Where it listens: tells the port that the kernel chose for port 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The accepted connections, for tonic's `serve_with_incoming`. Accepting ends when the stream is dropped.
    pub fn incoming(self) -> ReceiverStream<io::Result<TlsStream>> {
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(self.accept(sender));
        ReceiverStream::new(receiver)
    }

    async fn accept(self, sender: mpsc::Sender<io::Result<TlsStream>>) {
        let slots = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                () = sender.closed() => return,
                accepted = self.listener.accept() => accepted,
            };
            let (socket, remote_addr) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors or memory: waiting is all that helps, ending would kill the port.
                    warn!(%error, "can't accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let handshake = Handshake {
                identity: self.identity.clone(),
                connections: self.connections.clone(),
                timeout: self.handshake_timeout,
                remote_addr,
            };
            let sender = sender.clone();
            tokio::spawn(async move {
                let _slot = slot;
                if let Some(stream) = handshake.run(socket).await {
                    // The server has ended when this fails; the connection ends with it.
                    let _ = sender.send(Ok(stream)).await;
                }
            });
        }
    }
}

struct Handshake {
    identity: Arc<Identity>,
    connections: Connections,
    timeout: Duration,
    remote_addr: SocketAddr,
}

impl Handshake {
    async fn run(self, socket: TcpStream) -> Option<TlsStream> {
        let remote = self.remote_addr;
        if let Err(error) = socket.set_nodelay(true) {
            debug!(%remote, %error, "can't set TCP_NODELAY");
        }
        let acceptor = TlsAcceptor::from(self.identity.server_config());
        let stream = match tokio::time::timeout(self.timeout, acceptor.accept(socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                warn!(%remote, reason = refusal_text(&error), "connection refused");
                return None;
            }
            Err(_) => {
                debug!(%remote, "connection dropped: the TLS handshake took too long");
                return None;
            }
        };
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate = match leaf.map(peer::parse).transpose() {
            Ok(parsed) => parsed,
            Err(error) => {
                warn!(%remote, %error, "connection refused");
                return None;
            }
        };
        let issued_at = certificate.as_ref().map(Parsed::issued_at);
        let peer = certificate.map(|certificate| certificate.identity);
        let cluster = self.identity.cluster_id();
        if let Some(peer) = &peer
            && peer.cluster_id != cluster
        {
            let reason = Refusal::ForeignCluster {
                expected: cluster,
                found: peer.cluster_id.clone(),
            };
            warn!(%remote, node = peer.node_id, %reason, "connection refused");
            return None;
        }
        let info = ConnectionInfo {
            peer,
            issued_at,
            remote_addr: remote,
        };
        let accepted = TlsStream::new(stream, info, &self.connections);
        if accepted.is_none() {
            warn!(%remote, "connection refused: there are too many of this node, or without a certificate");
        }
        accepted
    }
}

/// Why a client's handshake failed, in the words of [`Refusal`] where it is about a certificate.
fn refusal_text(error: &io::Error) -> String {
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(reason)) => {
            format!(
                "the client's certificate: {}",
                Refusal::from_certificate(reason, "node of this cluster")
            )
        }
        Some(rustls::Error::AlertReceived(alert)) => match Refusal::from_alert(*alert) {
            Some(reason) => format!("the client refuses this node's certificate: {reason}"),
            None => error.to_string(),
        },
        _ => error.to_string(),
    }
}

/// Serves `routes` on the cluster port until `shutdown`: keep-alive set, requests carry [`ConnectionInfo`].
pub async fn serve(
    listener: TlsListener,
    routes: Routes,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(listener.incoming(), shutdown)
        .await
}
