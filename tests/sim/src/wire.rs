//! One end of a simulated stream, as tonic reads and writes it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use pontoon_identity::{ConnectionInfo, Connections, Registration};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::net::{Arrival, SharedPipe, lock};

/// One end of a stream.
pub struct Wire {
    incoming: SharedPipe,
    outgoing: SharedPipe,
    sleep: Pin<Box<Sleep>>,
    info: Option<ConnectionInfo>,
    cut: Option<(Pin<Box<WaitForCancellationFutureOwned>>, Option<Registration>)>,
}

impl Wire {
    pub(crate) fn new(incoming: SharedPipe, outgoing: SharedPipe, info: Option<ConnectionInfo>) -> Self {
        Self {
            incoming,
            outgoing,
            sleep: Box::pin(tokio::time::sleep_until(Instant::now())),
            info,
            cut: None,
        }
    }

    /// Enters the stream among those that the manager may cut.
    pub(crate) fn registered(mut self, connections: &Connections) -> Self {
        let peer = self.info.as_ref().and_then(|info| info.peer.as_ref());
        let token = CancellationToken::new();
        let registration = connections.register(peer.map(|peer| peer.node_id.as_str()), token.clone());
        match registration {
            Some(registration) => self.cut = Some((Box::pin(token.cancelled_owned()), Some(registration))),
            None => {
                token.cancel();
                self.cut = Some((Box::pin(token.cancelled_owned()), None));
            }
        }
        self
    }

    fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        self.cut
            .as_mut()
            .is_some_and(|(cut, _)| cut.as_mut().poll(cx).is_ready())
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_cut(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        loop {
            let arrival = lock(&self.incoming).read(buf.remaining(), cx.waker());
            match arrival {
                Arrival::Data(data) => {
                    buf.put_slice(&data);
                    return Poll::Ready(Ok(()));
                }
                Arrival::End => return Poll::Ready(Ok(())),
                Arrival::Reset => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Arrival::Nothing => return Poll::Pending,
                Arrival::At(at) => {
                    self.sleep.as_mut().reset(at);
                    if self.sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_cut(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match lock(&self.outgoing).write(data, cx.waker()) {
            Some(written) => Poll::Ready(written),
            None => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.outgoing).close();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        lock(&self.outgoing).close();
        lock(&self.incoming).abandon();
    }
}

impl Connected for Wire {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone().expect("only accepted streams are served")
    }
}
