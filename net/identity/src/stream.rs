//! An accepted connection as tonic serves it: TLS stream, who is at the other end, and a way to cut it.
//!
//! Made by the listener; tonic puts [`ConnectionInfo`] into the extensions of each request.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::connections::{Connections, Registration};
use crate::peer::PeerIdentity;

/// How long a connection without a certificate may last.
const STRANGERS_TIME: Duration = Duration::from_secs(60);

/// Who is at the other end of a connection; in the extensions of every request of the cluster port.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// What the client's certificate says; `None` when it showed none (it may then only call the CA).
    pub peer: Option<PeerIdentity>,
    /// When that certificate was issued, by its issuer's clock, in whole seconds.
    pub issued_at: Option<SystemTime>,
    /// Where it comes from.
    pub remote_addr: SocketAddr,
}

/// An accepted connection.
pub struct TlsStream {
    inner: tokio_rustls::server::TlsStream<TcpStream>,
    info: ConnectionInfo,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// When one without a certificate ends: nobody joins for so long.
    end: Option<Pin<Box<Sleep>>>,
    _registration: Registration,
}

impl TlsStream {
    pub(crate) fn new(
        inner: tokio_rustls::server::TlsStream<TcpStream>,
        info: ConnectionInfo,
        connections: &Connections,
    ) -> Option<Self> {
        let token = CancellationToken::new();
        let node_id = info.peer.as_ref().map(|peer| peer.node_id.as_str());
        let registration = connections.register(node_id, token.clone())?;
        let end = info
            .peer
            .is_none()
            .then(|| Box::pin(tokio::time::sleep(STRANGERS_TIME)));
        Some(Self {
            inner,
            info,
            cut: Box::pin(token.cancelled_owned()),
            end,
            _registration: registration,
        })
    }

    /// Who is at the other end.
    pub fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "a connection without a certificate is for joining only, and that has taken too long",
            ));
        }
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the node was removed from the cluster or its role changed",
            )),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connected for TlsStream {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, buffers)
    }
}
