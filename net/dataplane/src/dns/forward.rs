//! Asking other servers for what no network of the sandbox knows.
//!
//! Each query gets a fresh socket (so a random port) and a random id of its own; an answer counts only if it
//! comes from the server asked, with that id and that question (RFC 5452).

use std::{cell::Cell, io, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use rustix::net::{AddressFamily, SocketType};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, UdpSocket},
    time::{Instant, timeout, timeout_at},
};

use super::message::{self, Transport, code};
use crate::netns::{self, Netns};

/// How long one server may take. Resolvers ask again after 5 s by default, so all attempts have to fit in that.
const ATTEMPT: Duration = Duration::from_millis(1500);
const ALL_ATTEMPTS: Duration = Duration::from_millis(4500);
/// How long a server that did not answer is asked last.
const DEMOTION: Duration = Duration::from_secs(30);
/// More than any client gets by UDP; what is longer counts as cut.
const LARGEST_DATAGRAM: usize = 4096;

/// Asks upstream servers for one sandbox, and remembers which one answers.
#[derive(Debug, Default)]
pub(crate) struct Forwarder {
    preferred: Cell<Option<(usize, Instant)>>,
}

/// One query on its way.
struct Pending<'a> {
    netns: &'a Netns,
    /// The query with our id.
    packet: Vec<u8>,
    transport: Transport,
    limit: usize,
}

impl Forwarder {
    /// Asks `upstreams` in turn until one gives an answer, and returns it under the client's id; a server failure if
    /// none does. `packet` is a well-formed query.
    pub(crate) async fn ask(
        &self,
        netns: &Netns,
        upstreams: &[SocketAddr],
        packet: &[u8],
        (transport, limit): (Transport, usize),
    ) -> Vec<u8> {
        let deadline = Instant::now() + ALL_ATTEMPTS;
        let mut pending = Pending {
            netns,
            packet: packet.to_vec(),
            transport,
            limit,
        };
        let first = match self.preferred.get() {
            Some((index, until)) if Instant::now() < until && index < upstreams.len() => index,
            _ => 0,
        };
        let mut unusable = None;
        // Twice round at most; a server that refuses at once costs no time, one that is silent is bounded by ATTEMPT.
        for turn in 0..upstreams.len() * 2 {
            let index = (first + turn) % upstreams.len();
            if Instant::now() >= deadline {
                break;
            }
            let attempt = pending
                .ask(upstreams[index], deadline.min(Instant::now() + ATTEMPT))
                .await;
            let Ok(mut reply) = attempt.inspect_err(|error| {
                tracing::debug!(upstream = %upstreams[index], %error, "a DNS server did not answer");
            }) else {
                continue;
            };
            reply[..2].copy_from_slice(&packet[..2]);
            if matches!(
                message::response_code(&reply),
                code::SERVER_FAILURE | code::REFUSED | code::NOT_IMPLEMENTED
            ) {
                if unusable.replace(reply).is_some() && turn >= upstreams.len() {
                    break;
                }
                continue;
            }
            if turn > 0 {
                self.preferred.set(Some((index, Instant::now() + DEMOTION)));
            }
            return reply;
        }
        unusable.unwrap_or_else(|| {
            let mut out = Vec::new();
            match message::Query::read(packet, transport) {
                Ok(query) => message::Answer::new(&mut out, &query, code::SERVER_FAILURE).finish(),
                Err(_) => message::write_code(&mut out, packet, code::SERVER_FAILURE),
            }
            out
        })
    }
}

impl Pending<'_> {
    async fn ask(&mut self, upstream: SocketAddr, deadline: Instant) -> io::Result<Vec<u8>> {
        let mut id = [0; 2];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
        self.packet[..2].copy_from_slice(&id);
        let reply = timeout_at(deadline, self.ask_udp(upstream)).await??;
        // A client that came by UDP and takes no more than what was cut asks again by TCP itself.
        if !message::is_truncated(&reply)
            || (self.transport == Transport::Udp && reply.len() <= 512 && self.limit <= 512)
        {
            return Ok(self.fit(reply));
        }
        match timeout(ATTEMPT, self.ask_tcp(upstream)).await {
            Ok(Ok(whole)) if whole.len() <= self.limit => Ok(whole),
            _ => Ok(self.fit(reply)),
        }
    }

    /// An answer that is too long for the client becomes an empty one that says so.
    fn fit(&self, reply: Vec<u8>) -> Vec<u8> {
        if reply.len() <= self.limit {
            return reply;
        }
        let mut out = Vec::new();
        match message::Query::read(&self.packet, self.transport) {
            Ok(query) => message::Answer::new(&mut out, &query, message::response_code(&reply)).cut(),
            Err(_) => message::write_code(&mut out, &self.packet, code::SERVER_FAILURE),
        }
        out
    }

    /// A socket for `upstream`: the host's own servers are on its loopback, which only netd's namespace reaches;
    /// all others are asked as the sandbox itself would.
    fn socket(&self, upstream: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
        let family = if upstream.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        if upstream.ip().is_loopback() {
            netns::new_socket(family, kind)
        } else {
            self.netns.socket(family, kind)
        }
    }

    async fn ask_udp(&self, upstream: SocketAddr) -> io::Result<Vec<u8>> {
        let socket = std::net::UdpSocket::from(self.socket(upstream, SocketType::DGRAM)?);
        let socket = UdpSocket::from_std(socket)?;
        // Connected: the kernel drops what comes from anyone else and reports a closed port.
        socket.connect(upstream).await?;
        socket.send(&self.packet).await?;
        let mut reply = vec![0; LARGEST_DATAGRAM + 1];
        loop {
            let len = socket.recv(&mut reply).await?;
            if message::answers(&reply[..len], &self.packet) {
                reply.truncate(len);
                if len > LARGEST_DATAGRAM {
                    reply[2] |= message::TRUNCATED;
                }
                return Ok(reply);
            }
        }
    }

    async fn ask_tcp(&self, upstream: SocketAddr) -> io::Result<Vec<u8>> {
        let socket = std::net::TcpStream::from(self.socket(upstream, SocketType::STREAM)?);
        let mut stream = TcpSocket::from_std_stream(socket).connect(upstream).await?;
        let mut framed = u16::try_from(self.packet.len())
            .map_err(io::Error::other)?
            .to_be_bytes()
            .to_vec();
        framed.extend_from_slice(&self.packet);
        stream.write_all(&framed).await?;
        let len = stream.read_u16().await?;
        let mut reply = vec![0; len.into()];
        stream.read_exact(&mut reply).await?;
        if message::answers(&reply, &self.packet) {
            Ok(reply)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the answer belongs to another question",
            ))
        }
    }
}
