//! One sandbox in netd: its resolver, its sockets, and the tasks on them.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::Path,
    rc::Rc,
};

use rustix::net::AddressFamily;
use rustix::net::{SocketType, bind, listen, sockopt};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::{AbortHandle, spawn_local},
};

use crate::{
    DnsPorts,
    dns::{
        server::{Resolver, serve_tcp, serve_udp},
        view::View,
    },
    netns::Netns,
};

/// Where each sandbox has its resolver, as in Docker.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const BACKLOG: i32 = 64;
/// A burst of clients at start-up should not lose datagrams (the usual 212992 bytes hold some 250 small ones).
const RECEIVE_BUFFER: usize = 1 << 20;

/// A served sandbox; dropping it closes its sockets.
#[derive(Debug)]
pub(crate) struct Sandbox {
    resolver: Rc<Resolver>,
    ports: DnsPorts,
    tasks: [AbortHandle; 2],
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Sandbox {
    /// Opens the sockets in `netns` and starts to serve; on the `wanted` ports if they are free, else on any.
    pub(crate) fn start(netns: Netns, view: View, wanted: Option<DnsPorts>) -> io::Result<Self> {
        let udp = bound(&netns, SocketType::DGRAM, wanted.map(|w| w.udp))?;
        // Best effort: the limit may forbid it.
        let _ = sockopt::set_socket_recv_buffer_size(&udp, RECEIVE_BUFFER);
        let udp = UdpSocket::from_std(udp.into())?;
        let tcp = bound(&netns, SocketType::STREAM, wanted.map(|w| w.tcp))?;
        listen(&tcp, BACKLOG)?;
        let tcp = TcpListener::from_std(tcp.into())?;
        let ports = DnsPorts {
            udp: udp.local_addr()?.port(),
            tcp: tcp.local_addr()?.port(),
        };
        let resolver = Rc::new(Resolver::new(netns, view));
        let udp = spawn_local(serve_udp(Rc::clone(&resolver), udp)).abort_handle();
        let tcp = spawn_local(serve_tcp(Rc::clone(&resolver), tcp)).abort_handle();
        Ok(Self {
            resolver,
            ports,
            tasks: [udp, tcp],
        })
    }

    /// Where it listens.
    pub(crate) fn ports(&self) -> DnsPorts {
        self.ports
    }

    /// Changes what it sees, from the next query on.
    pub(crate) fn set_view(&self, view: View) {
        self.resolver.set_view(view);
    }

    /// Whether `path` names the namespace that it serves.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        self.resolver.netns().is_at(path)
    }
}

fn bound(netns: &Netns, kind: SocketType, wanted: Option<u16>) -> io::Result<std::os::fd::OwnedFd> {
    let attempt = |port| {
        let socket = netns.socket(AddressFamily::INET, kind)?;
        if kind == SocketType::STREAM {
            // Connections of a killed netd linger on the port that we want back.
            sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        bind(&socket, &SocketAddr::V4(SocketAddrV4::new(ADDRESS, port)))?;
        Ok(socket)
    };
    match wanted {
        Some(port) => attempt(port).or_else(|_: io::Error| attempt(0)),
        None => attempt(0),
    }
}
