//! Published ports: which are taken, by us or by other processes ([`super::publish`] decides where they lead). A socket
//! of ours is kept open on each, so that a second program on the host gets the same error as it would from another
//! server; where translation in the kernel does not reach (IPv6 to a container without, `[::1]`), the proxy answers on it.
use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    os::fd::OwnedFd,
};

use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, ipproto, listen, shutdown, socket_with, sockopt,
};
use serde::{Deserialize, Serialize};

use crate::{
    Error, PortMapping, Protocol, Result,
    firewall::host,
    proxy::{Proxies, Shared},
};

/// Docker's range for ports nobody asked for: Linux's default `net.ipv4.ip_local_port_range`.
const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;
const BACKLOG: i32 = 128;

/// A published port with the address to which it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// As asked for, with the address and port that were chosen.
    pub mapping: PortMapping,
    /// The container's address; `None` while it has no network with a way out.
    pub target: Option<IpAddr>,
}

impl PublishedPort {
    /// Address and port on the host, unless it is on a routed network.
    pub fn host(&self) -> Option<(IpAddr, u16)> {
        Some((
            self.mapping.host_ip?,
            self.mapping.host_port.filter(|port| *port != 0)?,
        ))
    }

    /// How the firewall sees it, if it has a part in it.
    pub fn firewall(&self) -> Option<host::Published> {
        let (host, target) = (self.mapping.host_ip?, self.target?);
        (host.is_ipv4() == target.is_ipv4()).then_some(host::Published {
            host,
            protocol: self.mapping.protocol,
            port: self.mapping.host_port.unwrap_or_default(),
            target: (target, self.mapping.container_port),
        })
    }
}

#[derive(Debug)]
enum Reservation {
    Socket(OwnedFd),
    /// The kernel has no SCTP: no other process can hold such a port.
    Free,
    /// Another process got the port while no daemon ran; ours still leads to the container.
    Lost,
}

/// Ports in use, by protocol, port and address.
#[derive(Debug, Default)]
pub struct Ports {
    taken: BTreeMap<(Protocol, u16), Vec<(IpAddr, Reservation)>>,
    next: HashMap<Protocol, u16>,
}

fn bind(protocol: Protocol, ip: IpAddr, port: u16) -> io::Result<Reservation> {
    let family = if ip.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = match socket_with(family, kind, flags, Some(number)) {
        Err(rustix::io::Errno::PROTONOSUPPORT | rustix::io::Errno::SOCKTNOSUPPORT)
            if protocol == Protocol::Sctp =>
        {
            return Ok(Reservation::Free);
        }
        other => other?,
    };
    if ip.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections of an earlier server may linger.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &SocketAddr::new(ip, port))?;
    if protocol == Protocol::Tcp {
        listen(&socket, BACKLOG)?;
    }
    Ok(Reservation::Socket(socket))
}

impl Ports {
    fn conflicts(&self, protocol: Protocol, ip: IpAddr, port: u16) -> bool {
        let same = |other: &IpAddr| *other == ip || other.is_unspecified() || ip.is_unspecified();
        self.taken.get(&(protocol, port)).is_some_and(|holders| {
            holders
                .iter()
                .any(|(other, _)| other.is_ipv4() == ip.is_ipv4() && same(other))
        })
    }

    /// Takes a port; `target` is for the error's text.
    ///
    /// # Errors
    /// [`Error::PortAllocated`], [`Error::PortBind`].
    pub fn take(
        &mut self,
        protocol: Protocol,
        ip: IpAddr,
        port: u16,
        target: Option<(IpAddr, u16)>,
    ) -> Result<()> {
        if self.conflicts(protocol, ip, port) {
            return Err(Error::PortAllocated { ip, port });
        }
        let reservation = bind(protocol, ip, port).map_err(|cause| Error::PortBind {
            protocol,
            ip,
            port,
            target,
            cause,
        })?;
        self.taken
            .entry((protocol, port))
            .or_default()
            .push((ip, reservation));
        Ok(())
    }

    /// Takes the same port on all addresses, or none.
    fn take_all(&mut self, protocol: Protocol, port: u16, targets: &[(IpAddr, (IpAddr, u16))]) -> Result<()> {
        for (count, (ip, target)) in targets.iter().enumerate() {
            if let Err(error) = self.take(protocol, *ip, port, Some(*target)) {
                for (taken, _) in &targets[..count] {
                    self.release(protocol, *taken, port);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes the first port of a range that is free on all addresses.
    fn take_first(
        &mut self,
        protocol: Protocol,
        range: impl Iterator<Item = u16>,
        targets: &[(IpAddr, (IpAddr, u16))],
    ) -> Result<Option<u16>> {
        for port in range {
            match self.take_all(protocol, port, targets) {
                Ok(()) => return Ok(Some(port)),
                Err(Error::PortAllocated { .. }) => {}
                Err(Error::PortBind { cause, .. }) if cause.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Takes the port that a mapping wants on all addresses: a given one, one of a range, or the next ephemeral one.
    pub(super) fn choose(
        &mut self,
        mapping: &PortMapping,
        targets: &[(IpAddr, (IpAddr, u16))],
    ) -> Result<u16> {
        let protocol = mapping.protocol;
        let Some(first) = mapping.host_port.filter(|port| *port != 0) else {
            let start = self.next.get(&protocol).copied().unwrap_or(*EPHEMERAL.start());
            let round = (start..=*EPHEMERAL.end()).chain(*EPHEMERAL.start()..start);
            let port = self.take_first(protocol, round, targets)?;
            let port = port.ok_or(Error::NoEphemeralPort { protocol })?;
            let next = if port == *EPHEMERAL.end() {
                *EPHEMERAL.start()
            } else {
                port + 1
            };
            self.next.insert(protocol, next);
            return Ok(port);
        };
        if mapping.host_port_end > first
            && let Some(port) = self.take_first(protocol, first..=mapping.host_port_end, targets)?
        {
            return Ok(port);
        }
        self.take_all(protocol, first, targets).map(|()| first)
    }

    /// Takes a port that was published before a restart. If another process has it meanwhile, it still counts.
    pub fn retake(&mut self, protocol: Protocol, ip: IpAddr, port: u16) {
        if let Err(error) = self.take(protocol, ip, port, None) {
            tracing::warn!(%protocol, %ip, port, %error, "a published port is in use by another process");
            self.taken
                .entry((protocol, port))
                .or_default()
                .push((ip, Reservation::Lost));
        }
    }

    /// Has the proxy answer where the kernel does not translate.
    pub fn serve(&self, proxies: &Proxies, port: &PublishedPort) {
        let Some((ip, number)) = port.host() else { return };
        let key = (port.mapping.protocol, ip, number);
        let Some(target) = port.target else {
            proxies.stop(vec![key]);
            return;
        };
        let holders = self.taken.get(&(key.0, number));
        let Some((_, Reservation::Socket(socket))) =
            holders.and_then(|holders| holders.iter().find(|(other, _)| *other == ip))
        else {
            return;
        };
        let shared = socket.try_clone().ok().and_then(|socket| match key.0 {
            Protocol::Tcp => Some(Shared::Tcp(socket.into())),
            // IPv4 datagrams are translated, and what the kernel tracks would be answered twice.
            Protocol::Udp if ip.is_ipv6() => Some(Shared::Udp(socket.into())),
            _ => None,
        });
        if let Some(shared) = shared {
            proxies.serve(key, shared, SocketAddr::new(target, port.mapping.container_port));
        }
    }

    /// Gives a port back.
    pub fn release(&mut self, protocol: Protocol, ip: IpAddr, port: u16) {
        if let Some(holders) = self.taken.get_mut(&(protocol, port)) {
            for (_, reservation) in holders.extract_if(.., |(other, _)| *other == ip) {
                if let Reservation::Socket(socket) = reservation
                    && protocol == Protocol::Tcp
                {
                    // A process that is just being started holds a copy until it is another program; one that does not
                    // listen is in nobody's way. No error matters: the socket is closed next.
                    let _ = shutdown(&socket, Shutdown::Both);
                }
            }
            if holders.is_empty() {
                self.taken.remove(&(protocol, port));
            }
        }
    }
}
