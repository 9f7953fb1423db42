//! Published ports: which are taken, by us or by other processes. A socket of ours is kept open on each, so that a
//! second program on the host gets the same error as it would from another server.
use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    ops::RangeInclusive,
    os::fd::OwnedFd,
};

use serde::{Deserialize, Serialize};

use super::{Core, v4};
use crate::{
    Error, PortMapping, Protocol, Result, SandboxMode,
    firewall::{Stale, host},
};

/// Docker's range for ports nobody asked for: Linux's default `net.ipv4.ip_local_port_range`.
const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;

/// A published port with the address to which it leads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PublishedPort {
    /// As asked for, with the port that was chosen.
    pub mapping: PortMapping,
    /// The container's address.
    pub target: Ipv4Addr,
}

impl PublishedPort {
    /// How the firewall sees it.
    pub fn firewall(&self) -> Option<host::Published> {
        Some(host::Published {
            host: v4(self.mapping.host_ip).ok()?,
            protocol: self.mapping.protocol,
            port: self.mapping.host_port?,
            target: (self.target, self.mapping.container_port),
        })
    }
}

#[derive(Debug)]
#[allow(dead_code, reason = "held open, never used")]
enum Reservation {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Sctp(OwnedFd),
    /// The kernel has no SCTP sockets: no other process can hold such a port.
    Free,
    /// Another process got the port while no daemon ran; ours still leads to the container.
    Lost,
}

/// Ports in use, by protocol, port and address.
#[derive(Debug, Default)]
pub struct Ports {
    taken: BTreeMap<(Protocol, u16), Vec<(Ipv4Addr, Reservation)>>,
    next: HashMap<Protocol, u16>,
}

fn bind(protocol: Protocol, ip: Ipv4Addr, port: u16) -> io::Result<Reservation> {
    match protocol {
        Protocol::Tcp => TcpListener::bind((ip, port)).map(Reservation::Tcp),
        Protocol::Udp => UdpSocket::bind((ip, port)).map(Reservation::Udp),
        Protocol::Sctp => bind_sctp(ip, port),
    }
}

/// std has no SCTP. Where the kernel has none either, only our own table can conflict.
fn bind_sctp(ip: Ipv4Addr, port: u16) -> io::Result<Reservation> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with};
    let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC);
    match socket_with(AddressFamily::INET, kind, flags, Some(ipproto::SCTP)) {
        Ok(socket) => {
            bind(&socket, &std::net::SocketAddrV4::new(ip, port))?;
            Ok(Reservation::Sctp(socket))
        }
        Err(rustix::io::Errno::PROTONOSUPPORT | rustix::io::Errno::SOCKTNOSUPPORT) => Ok(Reservation::Free),
        Err(errno) => Err(errno.into()),
    }
}

impl Ports {
    fn conflicts(&self, protocol: Protocol, ip: Ipv4Addr, port: u16) -> bool {
        self.taken.get(&(protocol, port)).is_some_and(|holders| {
            holders
                .iter()
                .any(|(other, _)| *other == ip || other.is_unspecified() || ip.is_unspecified())
        })
    }

    /// Takes a port.
    ///
    /// # Errors
    /// [`Error::PortAllocated`], [`Error::PortBind`].
    pub fn take(&mut self, protocol: Protocol, ip: Ipv4Addr, port: u16) -> Result<()> {
        if self.conflicts(protocol, ip, port) {
            return Err(Error::PortAllocated { ip: ip.into(), port });
        }
        let reservation = bind(protocol, ip, port).map_err(|cause| Error::PortBind {
            protocol,
            ip: ip.into(),
            port,
            cause,
        })?;
        self.taken
            .entry((protocol, port))
            .or_default()
            .push((ip, reservation));
        Ok(())
    }

    /// Takes the next free ephemeral port.
    ///
    /// # Errors
    /// [`Error::NoEphemeralPort`]; [`Error::PortBind`] if the address is not this host's.
    pub fn take_ephemeral(&mut self, protocol: Protocol, ip: Ipv4Addr) -> Result<u16> {
        let first = self.next.get(&protocol).copied().unwrap_or(*EPHEMERAL.start());
        for port in (first..=*EPHEMERAL.end()).chain(*EPHEMERAL.start()..first) {
            match self.take(protocol, ip, port) {
                Ok(()) => {
                    let next = if port == *EPHEMERAL.end() {
                        *EPHEMERAL.start()
                    } else {
                        port + 1
                    };
                    self.next.insert(protocol, next);
                    return Ok(port);
                }
                Err(Error::PortAllocated { .. }) => {}
                Err(Error::PortBind { cause, .. }) if cause.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::NoEphemeralPort { protocol })
    }

    /// Takes a port that was published before a restart. If another process has it meanwhile, it still counts.
    pub fn retake(&mut self, protocol: Protocol, ip: Ipv4Addr, port: u16) {
        if let Err(error) = self.take(protocol, ip, port) {
            tracing::warn!(%protocol, %ip, port, %error, "a published port is in use by another process");
            self.taken
                .entry((protocol, port))
                .or_default()
                .push((ip, Reservation::Lost));
        }
    }

    /// Gives a port back.
    pub fn release(&mut self, protocol: Protocol, ip: Ipv4Addr, port: u16) {
        if let Some(holders) = self.taken.get_mut(&(protocol, port)) {
            holders.retain(|(other, _)| *other != ip);
            if holders.is_empty() {
                self.taken.remove(&(protocol, port));
            }
        }
    }
}

impl Core {
    /// Publishes ports of a sandbox: all or none.
    ///
    /// # Errors
    /// [`Error::PortAllocated`], [`Error::PortBind`], [`Error::Invalid`] if the sandbox has no endpoint with a way
    /// out.
    pub fn publish(&mut self, sandbox_id: &str, wanted: &[PortMapping]) -> Result<Vec<PortMapping>> {
        let target = self.publish_target(sandbox_id)?;
        let Some((target, binding)) = target else {
            return Ok(wanted.to_vec());
        };
        let mut ports: Vec<PublishedPort> = Vec::with_capacity(wanted.len());
        let mut failure = None;
        for mapping in wanted {
            match self.take_port(mapping, binding) {
                Ok(mapping) => ports.push(PublishedPort { mapping, target }),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let result = match failure {
            Some(error) => Err(error),
            None => self.program_ports(sandbox_id, &ports),
        };
        match result {
            Ok(()) => Ok(ports.into_iter().map(|p| p.mapping).collect()),
            Err(error) => {
                self.release_ports(&ports);
                Err(error)
            }
        }
    }

    fn take_port(&mut self, mapping: &PortMapping, binding: Option<Ipv4Addr>) -> Result<PortMapping> {
        let mut ip = v4(mapping.host_ip)?;
        if let (true, Some(binding)) = (ip.is_unspecified(), binding) {
            ip = binding;
        }
        let port = match mapping.host_port {
            Some(port) if port != 0 => {
                self.ports.take(mapping.protocol, ip, port)?;
                port
            }
            _ => self.ports.take_ephemeral(mapping.protocol, ip)?,
        };
        Ok(PortMapping {
            host_ip: ip.into(),
            host_port: Some(port),
            ..mapping.clone()
        })
    }

    /// Gives ports back without touching rules.
    pub fn release_ports(&mut self, ports: &[PublishedPort]) {
        for port in ports.iter().filter_map(PublishedPort::firewall) {
            self.ports.release(port.protocol, port.host, port.port);
        }
    }

    /// The address of a sandbox to which ports lead; `None` in mode host, where they are open anyway.
    fn publish_target(&self, sandbox_id: &str) -> Result<Option<(Ipv4Addr, Option<Ipv4Addr>)>> {
        let sandbox = self.sandbox(sandbox_id)?;
        if sandbox.record.spec.mode == SandboxMode::Host {
            return Ok(None);
        }
        sandbox
            .record
            .endpoints
            .iter()
            .filter_map(|e| Some((e, self.networks.get(&e.endpoint.network_id)?)))
            .find(|(_, network)| !network.record.spec.internal)
            .map(|(e, network)| Ok(Some((v4(e.endpoint.address.addr())?, network.host_binding()))))
            .unwrap_or_else(|| {
                let reason =
                    "the container has no network with a way out: attach it to a bridge first".into();
                Err(Error::Invalid {
                    what: "published port",
                    reason,
                })
            })
    }

    fn program_ports(&mut self, sandbox_id: &str, ports: &[PublishedPort]) -> Result<()> {
        let rules: Vec<_> = ports.iter().filter_map(PublishedPort::firewall).collect();
        let sandbox = self.sandbox_mut(sandbox_id)?;
        let before = sandbox.record.ports.len();
        sandbox.record.ports.extend_from_slice(ports);
        let programmed = self
            .save_sandbox(sandbox_id)
            .and_then(|()| self.firewall(|tx| host::add_ports(tx, &rules)));
        if let Err(error) = programmed {
            self.sandbox_mut(sandbox_id)?.record.ports.truncate(before);
            let _ = self.save_sandbox(sandbox_id);
            return Err(error);
        }
        // Datagrams that came before the port was published are tracked as going to the host itself.
        let udp: Vec<u16> = rules
            .iter()
            .filter(|r| r.protocol == Protocol::Udp)
            .map(|r| r.port)
            .collect();
        if !udp.is_empty() {
            self.stale.push((None, Stale::Datagrams(udp)));
        }
        Ok(())
    }
}
