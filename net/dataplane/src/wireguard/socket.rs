//! The encrypted end: UDP sockets with segmentation and receive offload, one a worker, all on one port.
//!
//! The kernel spreads peers over the sockets by address and port (SO_REUSEPORT), so each peer's packets come to one worker, in their order.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt as option,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

use super::outbox::Outbox;

/// The longest run that receive offload hands over.
pub(crate) const LONGEST: usize = 65_536;
/// Some milliseconds of a fast link.
const BUFFER: usize = 8 << 20;

/// One worker's socket.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    /// IPv6 and, mapped, IPv4; else IPv4 only, where the kernel has no IPv6.
    v6: bool,
    /// Whether the kernel cuts runs for us. Some devices can't.
    segments: AtomicBool,
}

/// Opens `count` sockets on `port`, or on any for 0; their packets are marked.
pub(crate) fn open(port: u16, mark: u32, count: usize) -> io::Result<Vec<Socket>> {
    if port != 0 {
        // Sockets that share a port do not notice each other: ask alone first.
        new(port, 0, false)?;
    }
    let first = new(port, mark, true)?;
    let port = first.port()?;
    let mut all = vec![first];
    while all.len() < count {
        all.push(new(port, mark, true)?);
    }
    Ok(all)
}

fn new(port: u16, mark: u32, shared: bool) -> io::Result<Socket> {
    let make = |family| socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let (fd, v6) = match make(AddressFamily::INET6) {
        Ok(fd) => (fd, true),
        Err(rustix::io::Errno::AFNOSUPPORT) => (make(AddressFamily::INET)?, false),
        Err(error) => return Err(error.into()),
    };
    if shared {
        sockopt::set_socket_reuseport(&fd, true)?;
    }
    let address = if v6 {
        sockopt::set_ipv6_v6only(&fd, false)?;
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    // All of these only help, and may be refused.
    let _ = sockopt::set_socket_recv_buffer_size_force(&fd, BUFFER);
    let _ = setsockopt(&fd, option::SndBufForce, &BUFFER);
    let _ = setsockopt(&fd, option::UdpGroSegment, &true);
    if mark != 0 {
        setsockopt(&fd, option::Mark, &mark)?;
    }
    bind(&fd, &SocketAddr::new(address, port))?;
    Ok(Socket {
        fd,
        v6,
        segments: AtomicBool::new(true),
    })
}

impl Socket {
    /// The port that it has.
    pub(crate) fn port(&self) -> io::Result<u16> {
        let address = SocketAddr::try_from(getsockname(&self.fd)?)?;
        Ok(address.port())
    }

    /// Receives a run of datagrams from one address: address, length, and length of each but the last. Nothing if there is none now.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(SocketAddr, usize, usize)>> {
        let mut control = nix::cmsg_space!(i32);
        let mut parts = [IoSliceMut::new(buffer)];
        let received = recvmsg::<SockaddrStorage>(
            self.fd.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        );
        let message = match received {
            Ok(message) => message,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let size = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
            _ => None,
        });
        let from = message.address.as_ref().and_then(address);
        let length = message.bytes;
        // A datagram may be empty, its pieces may not.
        let size = size.filter(|size| *size > 0).unwrap_or(length).max(1);
        Ok(from.map(|from| (from, length, size)))
    }

    /// Sends all runs. A peer that can't be reached does not keep the others from their packets.
    pub(crate) fn send(&self, outbox: &Outbox) {
        for (to, bytes, size) in outbox.runs() {
            if let Err(error) = self.send_run(to, bytes, size) {
                tracing::debug!(%to, %error, "packets were not sent");
            }
        }
    }

    fn send_run(&self, to: SocketAddr, bytes: &[u8], size: usize) -> io::Result<()> {
        if bytes.len() > size && self.segments.load(Ordering::Relaxed) {
            let step = u16::try_from(size).map_err(io::Error::other)?;
            match self.send_one(to, bytes, &[ControlMessage::UdpGsoSegments(&step)]) {
                // The way out has no checksum offload, or the kernel is older than 4.18.
                Err(nix::Error::EIO | nix::Error::EINVAL) => self.segments.store(false, Ordering::Relaxed),
                result => return Ok(result?),
            }
        }
        for datagram in bytes.chunks(size) {
            self.send_one(to, datagram, &[])?;
        }
        Ok(())
    }

    fn send_one(&self, to: SocketAddr, bytes: &[u8], control: &[ControlMessage<'_>]) -> nix::Result<()> {
        let to = match to {
            SocketAddr::V4(v4) if self.v6 => {
                let mapped = std::net::SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0);
                SockaddrStorage::from(mapped)
            }
            to => SockaddrStorage::from(to),
        };
        let parts = [IoSlice::new(bytes)];
        sendmsg(self.fd.as_raw_fd(), &parts, control, MsgFlags::empty(), Some(&to)).map(drop)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An address as peers are configured: mapped IPv4 is IPv4.
fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    let v6 = storage.as_sockaddr_in6()?;
    match v6.ip().to_ipv4_mapped() {
        Some(v4) => Some(SocketAddr::new(v4.into(), v6.port())),
        None => Some(SocketAddr::V6(std::net::SocketAddrV6::new(
            v6.ip(),
            v6.port(),
            0,
            v6.scope_id(),
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anybody_may_send_nothing() {
        let sockets = open(0, 0, 1).expect("a socket");
        let socket = &sockets[0];
        let other = std::net::UdpSocket::bind("127.0.0.1:0").expect("another");
        let to = ("127.0.0.1", socket.port().expect("a port"));
        let mut buffer = [0; 64];
        for datagram in [&b""[..], b"some"] {
            other.send_to(datagram, to).expect("sent");
            let (from, length, size) = loop {
                if let Some(run) = socket.receive(&mut buffer).expect("received") {
                    break run;
                }
            };
            assert_eq!(from, other.local_addr().expect("an address"));
            let pieces: Vec<&[u8]> = buffer[..length].chunks(size).collect();
            assert_eq!(pieces.concat(), datagram);
        }
    }
}
