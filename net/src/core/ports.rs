//! Published ports: which are taken, by us or by other processes, and where they lead. A socket of ours is kept open on
//! each, so that a second program on the host gets the same error as it would from another server; where translation
//! in the kernel does not reach (IPv6 to a container without, `[::1]`), the proxy answers on it.
use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    os::fd::OwnedFd,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, listen, socket_with, sockopt};
use serde::{Deserialize, Serialize};

use super::{Core, endpoint::EndpointRecord, local::LocalNetwork, options::GatewayMode};
use crate::{
    Error, PortMapping, Protocol, Result, SandboxMode,
    firewall::{Stale, host},
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
    fn choose(&mut self, mapping: &PortMapping, targets: &[(IpAddr, (IpAddr, u16))]) -> Result<u16> {
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
            proxies.stop(key);
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
            holders.retain(|(other, _)| *other != ip);
            if holders.is_empty() {
                self.taken.remove(&(protocol, port));
            }
        }
    }
}

/// Where a sandbox's ports lead, by family of the container's address.
#[derive(Clone, Copy, Debug, Default)]
struct Targets {
    addresses: [Option<IpAddr>; 2],
    routed: [bool; 2],
    binding: Option<Ipv4Addr>,
}

impl Targets {
    /// Where a port on an address of the host leads: to the container's address of the same family, else by the
    /// proxy to the other.
    fn of(&self, host: IpAddr, protocol: Protocol) -> Option<IpAddr> {
        let own = self.addresses[usize::from(host.is_ipv6())];
        own.or(self.addresses[0].filter(|_| host.is_ipv6() && protocol != Protocol::Sctp && !self.routed[0]))
    }
}

impl Core {
    /// Publishes ports of a sandbox: all or none. A mapping without address becomes one for each family.
    ///
    /// # Errors
    /// [`Error::PortAllocated`], [`Error::PortBind`], [`Error::Invalid`] if the sandbox has no endpoint with a way
    /// out.
    pub fn publish(&mut self, sandbox_id: &str, wanted: &[PortMapping]) -> Result<Vec<PortMapping>> {
        if self.sandbox(sandbox_id)?.record.spec.mode == SandboxMode::Host {
            return Ok(wanted.to_vec());
        }
        let targets = self.targets(sandbox_id)?;
        let mut ports: Vec<PublishedPort> = Vec::with_capacity(wanted.len());
        let taken = wanted
            .iter()
            .try_for_each(|mapping| self.take_port(mapping, &targets).map(|more| ports.extend(more)));
        let result = taken.and_then(|()| self.program_ports(sandbox_id, &ports));
        match result {
            Ok(()) => Ok(ports.into_iter().map(|p| p.mapping).collect()),
            Err(error) => {
                self.release_ports(&ports);
                Err(error)
            }
        }
    }

    fn take_port(&mut self, mapping: &PortMapping, targets: &Targets) -> Result<Vec<PublishedPort>> {
        let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
        let binding = targets.binding.or(self.config.host_binding);
        let hosts = match (mapping.host_ip, binding) {
            (Some(ip), _) => vec![ip],
            (None, Some(binding)) => vec![binding.into()],
            (None, None) if self.has_ipv6 => everywhere.to_vec(),
            (None, None) => everywhere[..1].to_vec(),
        };
        let reached: Vec<_> = hosts
            .iter()
            .filter_map(|host| Some((*host, targets.of(*host, mapping.protocol)?)))
            .collect();
        if reached.is_empty() {
            let reason = match mapping.host_ip {
                Some(ip) if targets.addresses.iter().any(Option::is_some) => {
                    format!("the container has no address to which {ip} could lead")
                }
                _ => "the container has no network with a way out: attach it to a bridge first".into(),
            };
            return Err(Error::Invalid {
                what: "published port",
                reason,
            });
        }
        let is_routed = |target: IpAddr| targets.routed[usize::from(target.is_ipv6())];
        let bound: Vec<_> = reached
            .iter()
            .filter(|(_, target)| !is_routed(*target))
            .map(|(host, target)| (*host, (*target, mapping.container_port)))
            .collect();
        let number = if bound.is_empty() {
            0
        } else {
            self.ports.choose(mapping, &bound)?
        };
        let port = |(host, target): (IpAddr, IpAddr)| PublishedPort {
            mapping: PortMapping {
                host_ip: Some(host),
                host_port: Some(if is_routed(target) { 0 } else { number }),
                host_port_end: 0,
                ..mapping.clone()
            },
            target: Some(target),
        };
        Ok(reached.into_iter().map(port).collect())
    }

    /// Gives ports back without touching rules.
    pub fn release_ports(&mut self, ports: &[PublishedPort]) {
        for port in ports {
            if let Some((ip, number)) = port.host() {
                self.proxies.stop((port.mapping.protocol, ip, number));
                self.ports.release(port.mapping.protocol, ip, number);
            }
        }
    }

    /// The addresses of a sandbox to which ports lead: those of the bridge with the best claim to the default route.
    fn targets(&self, sandbox_id: &str) -> Result<Targets> {
        let mut targets = Targets::default();
        let endpoints = &self.sandbox(sandbox_id)?.record.endpoints;
        for at in [0, 1] {
            let open = |e: &&EndpointRecord| {
                let network = self.networks.get(&e.endpoint.network_id);
                network.is_some_and(LocalNetwork::is_bridge) && self.exit(e, at).is_some()
            };
            let Some(endpoint) = endpoints.iter().filter(open).max_by_key(|e| self.rank(e)) else {
                continue;
            };
            let address = [endpoint.endpoint.address, endpoint.endpoint.address6][at];
            targets.addresses[at] = address.map(|net| net.addr());
            if let Some(network) = self.networks.get(&endpoint.endpoint.network_id) {
                targets.routed[at] = network.options.mode[at] == GatewayMode::Routed;
                targets.binding = targets.binding.or(network.options.host_binding);
            }
        }
        Ok(targets)
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
        self.forget_datagrams(&rules);
        for port in ports {
            self.ports.serve(&self.proxies, port);
        }
        Ok(())
    }

    /// Datagrams that came before a port led to where it leads now are tracked as going elsewhere.
    fn forget_datagrams(&mut self, rules: &[host::Published]) {
        let udp = rules.iter().filter(|r| r.protocol == Protocol::Udp);
        let ports: Vec<u16> = udp.map(|r| r.port).collect();
        if !ports.is_empty() {
            self.stale.push((None, Stale::Datagrams(ports)));
        }
    }

    /// Leads a sandbox's ports to where its default route goes now.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn retarget_ports(&mut self, sandbox_id: &str) -> Result<()> {
        let before = self.sandbox(sandbox_id)?.record.ports.clone();
        if before.is_empty() {
            return Ok(());
        }
        let targets = self.targets(sandbox_id)?;
        let mut after = before.clone();
        for port in &mut after {
            let host = port.mapping.host_ip;
            port.target = host.and_then(|host| targets.of(host, port.mapping.protocol));
        }
        if before == after {
            return Ok(());
        }
        let rules = |ports: &[PublishedPort]| {
            ports
                .iter()
                .filter_map(PublishedPort::firewall)
                .collect::<Vec<_>>()
        };
        let (old, new) = (rules(&before), rules(&after));
        self.sandbox_mut(sandbox_id)?.record.ports.clone_from(&after);
        self.save_sandbox(sandbox_id)?;
        self.firewall(|tx| {
            host::remove_ports(tx, &old);
            host::add_ports(tx, &new);
        })?;
        self.forget_datagrams(&new);
        for port in &after {
            self.ports.serve(&self.proxies, port);
        }
        Ok(())
    }
}
