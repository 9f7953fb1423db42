//! A connection to a syslog server, of any kind.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};

use super::super::tls;
use crate::SyslogAddress;

/// Limit of an attempt to reach one address.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a server may take to say good-bye.
const GOODBYE: Duration = Duration::from_secs(3);
/// Where the host's own server listens (srslog).
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// One connection.
#[derive(Debug)]
pub(super) enum Connection {
    Udp(UdpSocket),
    Unixgram(UnixDatagram),
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<tls::Stream>),
}

/// What is being tried, for errors.
pub(super) fn describe(address: &SyslogAddress) -> String {
    match address {
        SyslogAddress::Local => "dial the local syslog".to_owned(),
        SyslogAddress::Unix(path) => format!("dial unix {}", path.display()),
        SyslogAddress::Unixgram(path) => format!("dial unixgram {}", path.display()),
        SyslogAddress::Udp(address) => format!("dial udp {address}"),
        SyslogAddress::Tcp(address) => format!("dial tcp {address}"),
        SyslogAddress::Tls(address, _) => format!("dial tcp+tls {address}"),
    }
}

impl Connection {
    pub(super) fn open(address: &SyslogAddress) -> io::Result<Self> {
        match address {
            SyslogAddress::Local => LOCAL
                .iter()
                .find_map(|path| unixgram(Path::new(path)).or_else(|_| unix(Path::new(path))).ok())
                .ok_or_else(|| io::Error::other("Unix syslog delivery error")),
            SyslogAddress::Unix(path) => unix(path),
            SyslogAddress::Unixgram(path) => unixgram(path),
            SyslogAddress::Udp(address) => udp(address),
            SyslogAddress::Tcp(address) => tcp(address).map(Self::Tcp),
            SyslogAddress::Tls(address, files) => {
                let stream = tls::connect(tcp(address)?, host(address), files, PATIENCE)?;
                Ok(Self::Tls(Box::new(stream)))
            }
        }
    }

    /// Sends a whole message; waits while the server is slow.
    pub(super) fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(message).map(drop),
            Self::Unixgram(socket) => socket.send(message).map(drop),
            Self::Unix(stream) => stream.write_all(message),
            Self::Tcp(stream) => stream.write_all(message),
            Self::Tls(stream) => stream.write_all(message).and_then(|()| stream.flush()),
        }
    }

    /// The server has closed its end. A message sent to it would be taken by our own kernel and lost.
    pub(super) fn is_closed(&mut self) -> bool {
        let socket: BorrowedFd<'_> = match self {
            Self::Udp(_) | Self::Unixgram(_) => return false,
            Self::Unix(stream) => (*stream).as_fd(),
            Self::Tcp(stream) => (*stream).as_fd(),
            Self::Tls(stream) => return tls::is_closed(stream),
        };
        let mut byte = [0];
        match recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((length, _)) => length == 0,
            Err(error) => error != rustix::io::Errno::AGAIN && error != rustix::io::Errno::INTR,
        }
    }

    /// Ends it in the protocol's way.
    pub(super) fn close(&mut self) {
        if let Self::Tls(stream) = self {
            tls::close(stream, GOODBYE);
        }
    }
}

fn unixgram(path: &Path) -> io::Result<Connection> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(Connection::Unixgram(socket))
}

fn unix(path: &Path) -> io::Result<Connection> {
    UnixStream::connect(path).map(Connection::Unix)
}

fn udp(address: &str) -> io::Result<Connection> {
    let mut last = unknown_host();
    for address in address.to_socket_addrs()? {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        match UdpSocket::bind(any).and_then(|socket| socket.connect(address).map(|()| socket)) {
            Ok(socket) => return Ok(Connection::Udp(socket)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn tcp(address: &str) -> io::Result<TcpStream> {
    let mut last = unknown_host();
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn unknown_host() -> io::Error {
    io::Error::other("no such host")
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}
