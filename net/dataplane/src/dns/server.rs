//! The receive loops of one sandbox: UDP and TCP on 127.0.0.11 inside its namespace.
//!
//! Which sandbox asks is known from the socket, so its view needs no look-up by source address. The loops run as
//! local tasks of netd's one thread and end when the sandbox is dropped.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    cache::Cache,
    forward::Forwarder,
    message::{self, Transport, code},
    view::{Verdict, View},
};
use crate::netns::Netns;

/// Datagrams answered before other sandboxes get their turn.
const BURST: usize = 64;
/// Queries of one sandbox that may be at upstream servers; more are refused at once, so that a looping process
/// costs neither memory nor file descriptors.
const MAX_FORWARDS: usize = 256;
/// TCP connections of one sandbox.
const MAX_CONNECTIONS: usize = 64;
/// How long a TCP client may be silent, or slow to take its answer (RFC 7766 section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// A pause after an unexpected socket error, against spinning.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers one sandbox.
#[derive(Debug)]
pub(crate) struct Resolver {
    netns: Netns,
    view: RefCell<Rc<View>>,
    forwarder: Forwarder,
    cache: RefCell<Cache>,
    forwards: Cell<usize>,
}

/// Buffers of all UDP loops; there is one thread and no wait while they are in use.
struct Scratch {
    query: [u8; 4096],
    answer: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { query: [0; 4096], answer: Vec::new() }) };
}

/// Counts one forwarded query for as long as it lives.
struct Slot(Rc<Resolver>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.forwards.set(self.0.forwards.get() - 1);
    }
}

/// What became of one packet.
enum Step {
    Done,
    Forward { slot: Slot, limit: usize },
}

impl Resolver {
    /// A resolver for the sandbox in `netns`.
    pub(crate) fn new(netns: Netns, view: View) -> Self {
        let view = RefCell::new(Rc::new(view));
        Self {
            netns,
            view,
            forwarder: Forwarder::default(),
            cache: RefCell::default(),
            forwards: Cell::new(0),
        }
    }

    /// The sandbox's namespace.
    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Changes what the sandbox sees, from the next query on.
    pub(crate) fn set_view(&self, view: View) {
        let upstreams = view.upstreams.clone();
        if self.view.replace(Rc::new(view)).upstreams != upstreams {
            self.cache.borrow_mut().clear();
        }
    }

    /// Judges a packet; `Done` leaves what to send in `out`, which is empty if nothing is to be sent.
    fn step(self: &Rc<Self>, packet: &[u8], transport: Transport, out: &mut Vec<u8>) -> Step {
        match self.view.borrow().judge(packet, transport, out) {
            Verdict::Reply => Step::Done,
            Verdict::Ignore => {
                out.clear();
                Step::Done
            }
            Verdict::Forward { limit } if self.cache.borrow().get(packet, limit, Instant::now(), out) => {
                Step::Done
            }
            Verdict::Forward { .. } if self.forwards.get() >= MAX_FORWARDS => {
                message::write_code(out, packet, code::REFUSED);
                Step::Done
            }
            Verdict::Forward { limit } => {
                self.forwards.set(self.forwards.get() + 1);
                Step::Forward {
                    slot: Slot(Rc::clone(self)),
                    limit,
                }
            }
        }
    }
}

impl Slot {
    async fn forward(self, packet: Vec<u8>, transport: Transport, limit: usize) -> Vec<u8> {
        let resolver = &self.0;
        let view = Rc::clone(&resolver.view.borrow());
        let client = (transport, limit);
        let asked = resolver
            .forwarder
            .ask(&resolver.netns, &view.upstreams, &packet, client);
        let reply = asked.await;
        // Not of servers that are no longer asked.
        if resolver.view.borrow().upstreams == view.upstreams {
            resolver.cache.borrow_mut().put(&packet, &reply, Instant::now());
        }
        reply
    }
}

/// Answers datagrams until it is dropped.
pub(crate) async fn serve_udp(resolver: Rc<Resolver>, socket: UdpSocket) {
    let socket = Rc::new(socket);
    let mut forwards = JoinSet::new();
    loop {
        tokio::select! {
            ready = socket.readable() => {
                if let Err(error) = ready.and_then(|()| answer_burst(&resolver, &socket, &mut forwards)) {
                    tracing::warn!(%error, "receiving DNS queries failed");
                    tokio::time::sleep(PAUSE).await;
                }
                tokio::task::yield_now().await;
            }
            Some(_) = forwards.join_next() => {}
        }
    }
}

/// Answers what waits in the socket, up to a burst.
fn answer_burst(
    resolver: &Rc<Resolver>,
    socket: &Rc<UdpSocket>,
    forwards: &mut JoinSet<()>,
) -> io::Result<()> {
    SCRATCH.with_borrow_mut(|Scratch { query, answer }| {
        for _ in 0..BURST {
            let (len, client) = match socket.try_recv_from(query) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let packet = &query[..len];
            match resolver.step(packet, Transport::Udp, answer) {
                Step::Done => send(socket, answer, client),
                Step::Forward { slot, limit } => {
                    let (socket, packet) = (Rc::clone(socket), packet.to_vec());
                    forwards.spawn_local(async move {
                        let answer = slot.forward(packet, Transport::Udp, limit).await;
                        send(&socket, &answer, client);
                    });
                }
            }
        }
        Ok(())
    })
}

/// Sends an answer. A client that is gone or whose buffer is full asks again: that is UDP.
fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if !answer.is_empty()
        && let Err(error) = socket.try_send_to(answer, client)
    {
        tracing::debug!(%client, %error, "a DNS answer could not be sent");
    }
}

/// Answers TCP clients until it is dropped.
pub(crate) async fn serve_tcp(resolver: Rc<Resolver>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn_local(serve_connection(Rc::clone(&resolver), stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a DNS client failed");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers the queries of one connection in their order, until it ends, is silent or breaks the protocol.
async fn serve_connection(resolver: Rc<Resolver>, mut stream: TcpStream) {
    let mut packet = Vec::new();
    let mut framed = Vec::new();
    while let Ok(Ok(())) = timeout(IDLE, read_framed(&mut stream, &mut packet)).await {
        let mut answer = Vec::new();
        if let Step::Forward { slot, limit } = resolver.step(&packet, Transport::Tcp, &mut answer) {
            answer = slot.forward(packet.clone(), Transport::Tcp, limit).await;
        }
        let Ok(len) = u16::try_from(answer.len()) else {
            return;
        };
        if len == 0 {
            return;
        }
        framed.clear();
        framed.extend_from_slice(&len.to_be_bytes());
        framed.extend_from_slice(&answer);
        if !matches!(timeout(IDLE, stream.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Reads one message with its length before it (RFC 1035 section 4.2.2).
async fn read_framed(stream: &mut TcpStream, packet: &mut Vec<u8>) -> io::Result<()> {
    let len = stream.read_u16().await?;
    packet.resize(len.into(), 0);
    stream.read_exact(packet).await?;
    Ok(())
}
