//! gRPC channels to other nodes: current certificate, role checked by server name, keep-alive on.
//!
//! Owned here: the connector. It waits for the first bytes of the server before it calls a connection good: an HTTP/2
//! server sends its settings at once, and a TLS 1.3 server that refuses our certificate sends an alert instead, which
//! would otherwise be seen only as a broken first request. Called by agents, managers, the raft transport.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use pontoon_proto::v1::NodeRole;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Uri};

use crate::error::Error;
use crate::identity::Identity;
use crate::peer::role_name;
use crate::resolve::resolve;

/// An agent must find out that its manager's machine is gone before the next leader takes it for down (6 s).
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where to dial and whom to expect there.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// host:port.
    pub addr: String,
    /// What the certificate at that address must have been issued for: a role's name, or a node's id.
    pub name: String,
    /// A connection that is dead is given up after at most twice this time.
    pub keep_alive: Duration,
}

impl Endpoint {
    /// A manager's cluster port.
    pub fn manager(addr: impl Into<String>) -> Self {
        Self {
            addr: addr.into(),
            name: role_name(NodeRole::Manager).to_owned(),
            keep_alive: KEEP_ALIVE,
        }
    }

    /// One node's cluster port, whatever its role.
    pub fn node(addr: impl Into<String>, node_id: impl Into<String>) -> Self {
        Self {
            addr: addr.into(),
            name: node_id.into(),
            keep_alive: KEEP_ALIVE,
        }
    }

    /// The same with another keep-alive than 2 s.
    #[must_use]
    pub fn with_keep_alive(mut self, keep_alive: Duration) -> Self {
        self.keep_alive = keep_alive;
        self
    }
}

/// A channel to `endpoint` with this node's identity. It connects at once and tells why if it can't; later it
/// reconnects by itself, each time with the identity's current certificate.
pub async fn connect(identity: &Arc<Identity>, endpoint: &Endpoint) -> Result<Channel, Error> {
    let current = identity.clone();
    let outcome = dial(endpoint, move || current.client_config()).await;
    if endpoint.name == role_name(NodeRole::Manager) {
        identity.dialled(&outcome);
    }
    outcome
}

/// Like [`connect`], but the first connection is made by the first call; see [`crate::describe`] for its errors.
pub fn connect_lazy(identity: &Arc<Identity>, endpoint: &Endpoint) -> Result<Channel, Error> {
    let identity = identity.clone();
    let connector = Connector::new(endpoint, move || identity.client_config());
    Ok(transport(endpoint)?.connect_with_connector_lazy(connector))
}

/// Whether something accepts connections at `addr`; nothing is said to it, for it may not be served yet.
pub async fn probe(addr: &str) -> Result<(), Error> {
    match tokio::time::timeout(CONNECT_TIMEOUT, tcp(addr)).await {
        Ok(connected) => connected.map(drop),
        Err(_) => Err(Error::Timeout {
            addr: addr.to_owned(),
            seconds: CONNECT_TIMEOUT.as_secs(),
        }),
    }
}

/// A channel whose TLS configuration comes from `config` at each connection.
pub(crate) async fn dial<F>(endpoint: &Endpoint, config: F) -> Result<Channel, Error>
where
    F: Fn() -> Arc<ClientConfig> + Send + Sync + 'static,
{
    let connector = Connector::new(endpoint, config);
    let failure = connector.failure.clone();
    transport(endpoint)?
        .connect_with_connector(connector)
        .await
        .map_err(|error| {
            let known = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            known.unwrap_or_else(|| Error::Connect {
                addr: endpoint.addr.clone(),
                source: io::Error::other(crate::error::describe(&error)),
            })
        })
}

fn transport(endpoint: &Endpoint) -> Result<tonic::transport::Endpoint, Error> {
    // With the scheme https tonic would insist on its own TLS.
    let uri = format!("http://{}", endpoint.addr);
    let transport =
        tonic::transport::Endpoint::from_shared(uri).map_err(|_| Error::Address(endpoint.addr.clone()))?;
    Ok(transport
        .http2_keep_alive_interval(endpoint.keep_alive)
        .keep_alive_timeout(endpoint.keep_alive)
        .keep_alive_while_idle(true))
}

/// No connection was made: nothing of a call has reached the peer. [`never_connected`] finds it in an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotConnected(pub String);

/// True when a failed call of a channel of this crate never reached its peer, so that it may safely be made again.
pub fn never_connected(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(current) = next {
        if current.is::<NotConnected>() {
            return true;
        }
        // `source()` of an I/O error skips the error inside it.
        next = match current.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => current.source(),
        };
    }
    false
}

type Config = Arc<dyn Fn() -> Arc<ClientConfig> + Send + Sync>;

/// Makes one connection per call; keeps the last failure, which tonic would flatten to text.
#[derive(Clone)]
struct Connector {
    endpoint: Endpoint,
    config: Config,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Connector {
    fn new(endpoint: &Endpoint, config: impl Fn() -> Arc<ClientConfig> + Send + Sync + 'static) -> Self {
        Self {
            endpoint: endpoint.clone(),
            config: Arc::new(config),
            failure: Arc::default(),
        }
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Greeted>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let Self {
            endpoint,
            config,
            failure,
        } = self.clone();
        Box::pin(async move {
            let attempt = tokio::time::timeout(CONNECT_TIMEOUT, establish(&endpoint, config()));
            let outcome = attempt.await.unwrap_or_else(|_| {
                Err(Error::Timeout {
                    addr: endpoint.addr.clone(),
                    seconds: CONNECT_TIMEOUT.as_secs(),
                })
            });
            outcome.map(TokioIo::new).map_err(|error| {
                let text = crate::error::describe(&error);
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                io::Error::other(NotConnected(text))
            })
        })
    }
}

async fn establish(endpoint: &Endpoint, config: Arc<ClientConfig>) -> Result<Greeted, Error> {
    let addr = &endpoint.addr;
    let expected = match endpoint.name.as_str() {
        name if name == role_name(NodeRole::Manager) => role_name(NodeRole::Manager),
        _ => "node with the id that was dialled",
    };
    // Ids come from the managers; one that can't be a name is as good as a wrong address.
    let name =
        ServerName::try_from(endpoint.name.clone()).map_err(|_| Error::Address(endpoint.name.clone()))?;
    let socket = tcp(addr).await?;
    let handshake = TlsConnector::from(config).connect(name, socket);
    let mut stream = handshake
        .await
        .map_err(|error| Error::from_handshake(addr, expected, error))?;
    let mut greeting = [0; 512];
    let length = stream
        .read(&mut greeting)
        .await
        .map_err(|error| Error::from_handshake(addr, expected, error))?;
    if length == 0 {
        let source = io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection");
        return Err(Error::Handshake {
            addr: addr.clone(),
            source,
        });
    }
    Ok(Greeted {
        greeting: greeting[..length].to_vec(),
        read: 0,
        stream,
    })
}

async fn tcp(addr: &str) -> Result<TcpStream, Error> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in resolve(addr).await? {
        match TcpStream::connect(address).await {
            Ok(socket) => {
                socket.set_nodelay(true).map_err(|source| Error::Connect {
                    addr: addr.to_owned(),
                    source,
                })?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(Error::Connect {
        addr: addr.to_owned(),
        source: last,
    })
}

/// A connection whose first bytes were read already; gives them again to the HTTP/2 client.
struct Greeted {
    greeting: Vec<u8>,
    read: usize,
    stream: TlsStream<TcpStream>,
}

impl AsyncRead for Greeted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read < self.greeting.len() {
            let length = buffer.remaining().min(self.greeting.len() - self.read);
            buffer.put_slice(&self.greeting[self.read..self.read + length]);
            self.read += length;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }
}
