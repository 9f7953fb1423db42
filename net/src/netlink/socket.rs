//! A netlink socket: sends a batch in as few `sendmsg` calls as fit and gathers the kernel's errors.
use std::{io, os::fd::AsFd};

use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};

use super::{Attributes, Batch, message::HEADER};
use crate::{Error, Result};

/// Messages per `sendmsg` for families whose batches need not be atomic: a few hundred answers overflow the default
/// receive buffer.
const CHUNK: usize = 150;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_ACK_TLVS`, `NLM_F_CAPPED`.
const ACK_TLVS: u16 = 0x200;
const CAPPED: u16 = 0x100;

/// The netlink families that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `NETLINK_ROUTE`: links, addresses, routes, neighbours.
    Route,
    /// `NETLINK_NETFILTER`: nftables and conntrack.
    Netfilter,
}

/// An open socket, bound to the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
    send_buffer: usize,
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// A refused request: its index in the batch, the errno, what the kernel says and the offending attribute's offset.
#[derive(Debug)]
struct Refusal {
    index: usize,
    errno: i32,
    message: Option<String>,
    offset: Option<usize>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn open(protocol: Protocol) -> Result<Self> {
        let number = match protocol {
            Protocol::Route => libc::NETLINK_ROUTE,
            Protocol::Netfilter => libc::NETLINK_NETFILTER,
        };
        let build = || -> io::Result<netlink_sys::Socket> {
            let socket = netlink_sys::Socket::new(number as isize)?;
            // The kernel's explanations come as attributes of the answer, without a copy of our request.
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        let inner = build().map_err(|source| Error::Netlink {
            operation: format!("open a {protocol:?} netlink socket"),
            source,
        })?;
        // Without CAP_NET_ADMIN in the initial user namespace the force variant is refused; then the default holds.
        let _ = sockopt::set_socket_recv_buffer_size_force(inner.as_fd(), 1 << 20);
        Ok(Self {
            inner,
            sequence: 0,
            buffer: vec![0; 64 * 1024],
            send_buffer: 100 * 1024,
        })
    }

    /// Opens a socket in the calling thread's namespace that hears what the kernel tells a group.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn listen(protocol: Protocol, group: u32) -> Result<Self> {
        let mut socket = Self::open(protocol)?;
        let failed = |source| Error::Netlink {
            operation: format!("listen to {protocol:?} group {group}"),
            source,
        };
        socket.inner.bind_auto().map_err(failed)?;
        socket.inner.add_membership(group).map_err(failed)?;
        Ok(socket)
    }

    /// The port by which the kernel knows the socket; it has one from now on.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn port(&mut self) -> Result<u32> {
        let mut address = netlink_sys::SocketAddr::new(0, 0);
        let asked = self.inner.get_address(&mut address).and_then(|()| {
            if address.port_number() != 0 {
                return Ok(address);
            }
            self.inner.bind_auto()
        });
        asked
            .map(|address| address.port_number())
            .map_err(|source| Error::Netlink {
                operation: "bind a netlink socket".into(),
                source,
            })
    }

    /// Sends independent requests; each is tried.
    ///
    /// # Errors
    /// The first refusal.
    pub fn transact(&mut self, batch: Batch) -> Result<()> {
        self.transact_all(batch).into_iter().next().map_or(Ok(()), Err)
    }

    /// Sends independent requests, each is tried, and returns all refusals.
    pub fn transact_all(&mut self, mut batch: Batch) -> Vec<Error> {
        let mut errors = Vec::new();
        let mut first = 0;
        while first < batch.requests.len() {
            let last = (first + CHUNK).min(batch.requests.len()) - 1;
            batch.add_flags(last, libc::NLM_F_ACK);
            match self.exchange(&mut batch, first, last) {
                Ok(refusals) => errors.extend(refusals.iter().filter_map(|r| describe(&batch, r))),
                Err(source) => {
                    errors.push(Error::Netlink {
                        operation: batch.requests[first].label.to_string(),
                        source,
                    });
                }
            }
            first = last + 1;
        }
        errors
    }

    /// Sends everything in one `sendmsg`: an nftables transaction, its end marker last. Only the last request before
    /// that is acknowledged.
    ///
    /// # Errors
    /// The first refusal; then nothing of the batch took place.
    pub fn commit(&mut self, mut batch: Batch) -> Result<()> {
        let last = batch.requests.len() - 1;
        batch.add_flags(last - 1, libc::NLM_F_ACK);
        let refusals = self
            .exchange(&mut batch, 0, last)
            .map_err(|source| Error::Netlink {
                operation: batch.requests[1].label.to_string(),
                source,
            })?;
        refusals
            .iter()
            .find_map(|r| describe(&batch, r))
            .map_or(Ok(()), Err)
    }

    /// Sends requests `first..=last` and reads all answers. The kernel has queued them when `send` returns, so an
    /// empty queue means that there are no more.
    fn exchange(&mut self, batch: &mut Batch, first: usize, last: usize) -> io::Result<Vec<Refusal>> {
        let base = self.sequence.wrapping_add(1);
        for (number, request) in batch.requests[first..=last].iter().enumerate() {
            let sequence =
                base.wrapping_add(u32::try_from(number).expect("a batch has fewer than 2^32 requests"));
            batch.bytes[request.start + 8..request.start + 12].copy_from_slice(&sequence.to_ne_bytes());
            self.sequence = sequence;
        }
        let start = batch.requests[first].start;
        let end = batch
            .requests
            .get(last + 1)
            .map_or(batch.bytes.len(), |r| r.start);
        self.send(&batch.bytes[start..end])?;
        let mut refusals = Vec::new();
        let mut answered = false;
        loop {
            let length = match recv(self.inner.as_fd(), &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::AGAIN) if answered => return Ok(refusals),
                Err(rustix::io::Errno::AGAIN) => {
                    return Err(io::Error::other("the kernel did not answer"));
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for (kind, flags, sequence, body) in Messages(&self.buffer[..length]) {
                let index = sequence.wrapping_sub(base) as usize;
                if kind != NLMSG_ERROR || index > last - first {
                    continue;
                }
                answered = true;
                if let Some(refusal) = refusal(first + index, flags, body) {
                    refusals.push(refusal);
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() + 4096 > self.send_buffer {
            // The kernel refuses messages above the send buffer, and counts double.
            let wanted = bytes.len() + 64 * 1024;
            sockopt::set_socket_send_buffer_size_force(self.inner.as_fd(), wanted)?;
            self.send_buffer = wanted;
        }
        send(self.inner.as_fd(), bytes, SendFlags::empty())?;
        Ok(())
    }

    /// Sends one request (with `NLM_F_DUMP` or a single answer) and returns the bodies of all answers.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn query(&mut self, mut batch: Batch) -> Result<Vec<Vec<u8>>> {
        batch.add_flags(0, libc::NLM_F_ACK);
        let operation = batch.requests[0].label.to_string();
        self.answers(&mut batch)
            .map_err(|source| Error::Netlink { operation, source })
    }

    fn answers(&mut self, batch: &mut Batch) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let own = self.sequence;
        batch.bytes[8..12].copy_from_slice(&own.to_ne_bytes());
        self.send(&batch.bytes)?;
        let mut bodies = Vec::new();
        loop {
            let (length, _) = match recv(self.inner.as_fd(), &mut self.buffer[..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            for (kind, flags, sequence, body) in Messages(&self.buffer[..length]) {
                if sequence != own {
                    continue;
                }
                match kind {
                    NLMSG_DONE => return Ok(bodies),
                    NLMSG_ERROR => {
                        return match refusal(0, flags, body) {
                            Some(refusal) => Err(io::Error::from_raw_os_error(refusal.errno)),
                            None => Ok(bodies),
                        };
                    }
                    _ => bodies.push(body.to_vec()),
                }
            }
        }
    }
}

fn refusal(index: usize, flags: u16, body: &[u8]) -> Option<Refusal> {
    let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
    if code == 0 {
        return None;
    }
    let mut refusal = Refusal {
        index,
        errno: -code,
        message: None,
        offset: None,
    };
    if flags & ACK_TLVS != 0 {
        let request = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?) as usize;
        let skip = if flags & CAPPED != 0 {
            HEADER
        } else {
            request.next_multiple_of(4)
        };
        let attributes = Attributes(body.get(4 + skip..).unwrap_or_default());
        refusal.message = attributes.string(1);
        refusal.offset = attributes.u32(2).map(|o| o as usize);
    }
    Some(refusal)
}

fn describe(batch: &Batch, refusal: &Refusal) -> Option<Error> {
    let request = &batch.requests[refusal.index];
    if request.tolerated.contains(&refusal.errno) {
        return None;
    }
    let mut operation = request.label.to_string();
    if let Some(element) = refusal
        .offset
        .and_then(|o| failing_value(batch, request.start + o))
    {
        operation = format!("{operation} (at {element})");
    }
    if let Some(message) = &refusal.message {
        operation = format!("{operation}: {message}");
    }
    Some(Error::Netlink {
        operation,
        source: io::Error::from_raw_os_error(refusal.errno),
    })
}

/// The attribute that the kernel blames, as hexadecimal: for a set element this is its key.
fn failing_value(batch: &Batch, at: usize) -> Option<String> {
    use std::fmt::Write as _;
    let length = usize::from(u16::from_ne_bytes(batch.bytes.get(at..at + 2)?.try_into().ok()?));
    let value = batch.bytes.get(at + 4..at + length)?;
    let mut text = String::new();
    for byte in value.iter().take(48) {
        write!(text, "{byte:02x}").ok()?;
    }
    Some(text)
}

/// Splits a datagram into (type, flags, sequence, body).
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, u16, u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..HEADER)?;
        let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(header[4..6].try_into().ok()?);
        let flags = u16::from_ne_bytes(header[6..8].try_into().ok()?);
        let sequence = u32::from_ne_bytes(header[8..12].try_into().ok()?);
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, flags, sequence, body))
    }
}
