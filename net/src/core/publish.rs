//! How a sandbox's ports are published, led elsewhere when its default route moves, and withdrawn.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Core, endpoint::EndpointRecord, local::LocalNetwork, options::GatewayMode, ports::PublishedPort,
};
use crate::{
    Error, PortMapping, Protocol, Result, SandboxMode,
    firewall::{Stale, host},
};

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
        let keys: Vec<_> = ports
            .iter()
            .filter_map(|port| {
                port.host()
                    .map(|(ip, number)| (port.mapping.protocol, ip, number))
            })
            .collect();
        for (protocol, ip, number) in &keys {
            self.ports.release(*protocol, *ip, *number);
        }
        // Last, because it waits: whoever asks for the port next, on this host or by us, finds it free.
        self.proxies.stop(keys);
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
