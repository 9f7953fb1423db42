//! Endpoints: a veth pair from a sandbox to a bridge of the host or of an overlay's hidden namespace, or a link below an
//! interface of the host. How they are made; [`super::detach`] takes them away, [`super::routes`] chooses among them.
use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Core, mac, options::check_interface, short, v4};
use crate::{
    Endpoint, EndpointSpec, Error, Result, SandboxMode,
    netlink::{Batch, Protocol, Veth},
    netns,
};

/// First interface index given inside a sandbox: above what the kernel makes by itself in a new namespace (tunl0,
/// sit0 and the like), so that no look-up is needed.
pub const FIRST_INDEX: u32 = 100;
/// Near ends are called `pt<hash>x<number>`.
pub const LINK_PREFIX: &str = "pt";
/// Docker's endpoint options.
const IFNAME: &str = "com.docker.network.endpoint.ifname";
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

/// To what an endpoint is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attachment {
    /// A bridge on the host.
    Bridge,
    /// The bridge in an overlay's hidden namespace.
    Overlay {
        /// The near end's interface index there.
        index: u32,
    },
    /// The gateway bridge, on behalf of an overlay.
    Egress,
    /// An interface of the host: there is no near end.
    Below,
}

/// What is stored of an endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// What callers see.
    pub endpoint: Endpoint,
    /// DNS names.
    pub aliases: Vec<String>,
    /// Name of the near end.
    pub link: String,
    /// Number of the interface in the sandbox.
    pub number: u32,
    /// Where the near end is.
    pub attachment: Attachment,
    /// Rank among those that could give the default route.
    #[serde(default)]
    pub priority: i32,
    /// Names that only this sandbox knows: (sandbox id, alias).
    #[serde(default)]
    pub links: Vec<(String, String)>,
    /// Whether the default route of a family goes through it.
    #[serde(default)]
    pub routes: [bool; 2],
}

impl EndpointRecord {
    /// Whether it is on an overlay.
    pub fn is_overlay(&self) -> bool {
        matches!(self.attachment, Attachment::Overlay { .. })
    }

    /// Whether it is there only to reach the outside.
    pub fn is_egress(&self) -> bool {
        self.attachment == Attachment::Egress
    }

    /// Its IPv4 address.
    pub fn address(&self) -> Option<Ipv4Addr> {
        v4(self.endpoint.address?.addr()).ok()
    }

    /// Index of its interface in the sandbox.
    pub fn index(&self) -> u32 {
        FIRST_INDEX + self.number
    }
}

/// An endpoint that was made.
#[derive(Debug)]
pub struct Attached {
    /// What callers see.
    pub endpoint: Endpoint,
    /// Whether names are served on its network.
    pub has_names: bool,
    /// Whether names are served on none of the sandbox's networks, so that netd has nothing to do with it.
    pub is_nameless: bool,
}

/// Name of a near end, at most 15 bytes. No other has it, nor had it before: the link of a sandbox's last life may not be
/// gone from the kernel yet when it is made again. `index` is the link's.
pub fn link_name(sandbox_id: &str, index: u32, number: u32) -> String {
    // FNV-1a: stable over restarts and versions.
    let bytes = sandbox_id.bytes().chain(index.to_be_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{LINK_PREFIX}{:010x}x{number}", hash >> 24)
}

/// Whether a link is called as near ends are.
pub fn is_link_name(name: &str) -> bool {
    let parts = name
        .strip_prefix(LINK_PREFIX)
        .and_then(|rest| rest.split_once('x'));
    parts.is_some_and(|(hash, number)| {
        hash.len() == 10
            && hash.bytes().all(|b| b.is_ascii_hexdigit())
            && number.bytes().all(|b| b.is_ascii_digit())
    })
}

/// `net.ipv4.conf.IFNAME.log_martians=1,…` for an interface: only settings of that interface are taken.
fn sysctls(text: &str, ifname: &str) -> Result<Vec<(String, String)>> {
    let invalid = |part: &str, why: &str| Error::Invalid {
        what: "option",
        reason: format!("{SYSCTLS}: {part:?} {why}"),
    };
    let mut settings = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| invalid(part, "is not NAME=VALUE"))?;
        let parts: Vec<_> = name.split('.').collect();
        let known = matches!(
            parts[..],
            ["net", "ipv4" | "ipv6" | "mpls", "conf" | "neigh", "IFNAME", ..]
        );
        if !known || parts.len() < 5 {
            return Err(invalid(part, "is not a setting of IFNAME"));
        }
        settings.push((
            name.replace("IFNAME", &ifname.replace('.', "/")),
            value.to_owned(),
        ));
    }
    Ok(settings)
}

impl Core {
    /// Connects a sandbox to a network. Undone if it fails.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`], [`Error::NetworkNotFound`], [`Error::AlreadyAttached`], [`Error::NotManaged`],
    /// [`Error::Address`], or what the kernel refuses.
    pub fn attach(&mut self, sandbox_id: &str, spec: &EndpointSpec) -> Result<Attached> {
        let sandbox = self.sandbox(sandbox_id)?;
        let mode = match sandbox.record.spec.mode {
            SandboxMode::Managed => None,
            SandboxMode::None => Some("none"),
            SandboxMode::Host => Some("host"),
        };
        if let Some(mode) = mode {
            return Err(Error::NotManaged {
                sandbox: sandbox_id.into(),
                mode,
            });
        }
        let network = self.inspect_network(&spec.network_id)?.spec;
        if sandbox.endpoints_on(&network.id).next().is_some() {
            return Err(Error::AlreadyAttached {
                sandbox: sandbox_id.into(),
                network: network.name,
            });
        }
        let wants_exit = spec.is_default_route && !network.internal && !self.has_exit(sandbox_id);
        let spec = EndpointSpec {
            network_id: network.id.clone(),
            ..spec.clone()
        };
        let is_overlay = self.overlays.contains_key(&network.id);
        let endpoint = if is_overlay {
            self.attach_overlay(sandbox_id, &spec)?
        } else if let Some(local) = self.networks.get(&network.id) {
            let attachment = if local.is_bridge() {
                Attachment::Bridge
            } else {
                Attachment::Below
            };
            self.attach_local(sandbox_id, &spec, attachment)?
        } else {
            let reason = format!("network {} takes no endpoints", network.name);
            return Err(Error::Invalid {
                what: "network",
                reason,
            });
        };
        let routed = if is_overlay && wants_exit {
            self.attach_egress(sandbox_id)
        } else {
            self.elect(sandbox_id)
        };
        if let Err(error) = routed {
            self.undo_attach(sandbox_id, &network.id);
            return Err(error);
        }
        Ok(Attached {
            endpoint,
            has_names: self.has_names(&network.id),
            is_nameless: self.is_nameless(sandbox_id),
        })
    }

    /// Connects a sandbox to a local network. Undone if it fails.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_local(
        &mut self,
        sandbox_id: &str,
        spec: &EndpointSpec,
        attachment: Attachment,
    ) -> Result<Endpoint> {
        self.ensure_network(&spec.network_id)?;
        let number = self.free_number(sandbox_id)?;
        let not_found = || Error::NetworkNotFound {
            id: spec.network_id.clone(),
        };
        let network = self.networks.get(&spec.network_id).ok_or_else(not_found)?;
        let prefix = network.options.interface_prefix.clone();
        let gateways = [0, 1].map(|at| network.exit(at).flatten());
        let ifname = self.interface_name(sandbox_id, &prefix, spec)?;
        let settings = match spec.options.get(SYSCTLS) {
            Some(text) => sysctls(text, &ifname)?,
            None => Vec::new(),
        };
        let addresses = self.take_addresses(spec)?;
        self.next_index += 1;
        let index = self.next_index;
        let first = addresses.iter().flatten().next().map(|net| net.addr());
        let own_mac = mac(first.unwrap_or(Ipv4Addr::UNSPECIFIED.into()));
        let record = EndpointRecord {
            endpoint: Endpoint {
                network_id: spec.network_id.clone(),
                ifname,
                address: addresses[0],
                address6: addresses[1],
                gateway: gateways[0],
                gateway6: gateways[1],
                mac: spec.mac.unwrap_or(own_mac),
            },
            aliases: spec.aliases.clone(),
            link: link_name(sandbox_id, index, number),
            number,
            attachment,
            priority: spec.priority,
            links: spec.links.clone(),
            routes: [false; 2],
        };
        let made = self
            .remember(sandbox_id, &record)
            .and_then(|()| match attachment {
                Attachment::Below => self.program_below(sandbox_id, &record),
                _ => self.program_veth(sandbox_id, &record, index),
            })
            .and_then(|()| self.prepare_inside(sandbox_id, &record, &settings, spec.mac.is_some()))
            .and_then(|()| self.configure_inside(sandbox_id, &record, &spec.link_local))
            .and_then(|()| match attachment {
                Attachment::Below => Ok(()),
                _ => self.route.wait_running(&record.link),
            });
        self.settle(sandbox_id, record, made)
    }

    /// The name of a new interface: as wished, or the prefix with the first free number.
    fn interface_name(&self, sandbox_id: &str, prefix: &str, spec: &EndpointSpec) -> Result<String> {
        for key in spec.options.keys() {
            if key.starts_with("com.docker.network.") && ![IFNAME, SYSCTLS].contains(&key.as_str()) {
                return Err(Error::Invalid {
                    what: "option",
                    reason: format!("{key} is not known as an endpoint's"),
                });
            }
        }
        if let Some(name) = spec.options.get(IFNAME) {
            check_interface(name)?;
            return Ok(name.clone());
        }
        let endpoints = &self.sandbox(sandbox_id)?.record.endpoints;
        let taken = |name: &String| endpoints.iter().any(|e| e.endpoint.ifname == *name);
        (0..=endpoints.len())
            .map(|n| format!("{prefix}{n}"))
            .find(|name| !taken(name))
            .ok_or_else(|| self.vanished(sandbox_id))
    }

    /// Takes an address of each of the network's families: the wished one, or the next. All or none.
    fn take_addresses(&mut self, spec: &EndpointSpec) -> Result<[Option<IpNet>; 2]> {
        let not_found = || Error::NetworkNotFound {
            id: spec.network_id.clone(),
        };
        let network = self.networks.get_mut(&spec.network_id).ok_or_else(not_found)?;
        let (name, id) = (
            network.record.spec.name.clone(),
            short(&spec.network_id).to_owned(),
        );
        let live = network.live.as_mut().ok_or_else(not_found)?;
        let mut taken = [None, None];
        let mut failure = None;
        for (at, wished) in [spec.ip, spec.ip6].into_iter().enumerate() {
            let Some(subnet) = live.subnets[at].as_mut() else {
                if let Some(ip) = wished {
                    failure = Some(no_subnet(ip));
                }
                continue;
            };
            let address = match wished {
                None => subnet.pool.allocate().map_err(|source| match source {
                    pontoon_ipam::Error::AddressesExhausted { .. } => Error::NoAddress {
                        family: if at == 0 { "IPv4" } else { "IPv6" },
                        network: format!("{name} ({id})"),
                    },
                    source => Error::Address {
                        network: name.clone(),
                        source: source.into(),
                    },
                }),
                Some(ip) if !subnet.net.contains(&ip) => Err(no_subnet(ip)),
                Some(ip) => match subnet.pool.allocate_specific(ip) {
                    Ok(()) => Ok(ip),
                    Err(pontoon_ipam::Error::AddressInUse { .. }) => Err(Error::AddressInUse { address: ip }),
                    Err(source) => Err(Error::Address {
                        network: name.clone(),
                        source: source.into(),
                    }),
                },
            };
            match address {
                Ok(ip) => taken[at] = IpNet::new(ip, subnet.net.prefix_len()).ok(),
                Err(error) => failure = Some(error),
            }
        }
        let Some(error) = failure else { return Ok(taken) };
        for (at, address) in taken.into_iter().enumerate() {
            if let (Some(subnet), Some(address)) = (live.subnets[at].as_mut(), address) {
                subnet.pool.release(address.addr());
            }
        }
        Err(error)
    }

    fn program_veth(&mut self, sandbox_id: &str, record: &EndpointRecord, index: u32) -> Result<()> {
        let not_found = || Error::NetworkNotFound {
            id: record.endpoint.network_id.clone(),
        };
        let network = self
            .networks
            .get(&record.endpoint.network_id)
            .ok_or_else(not_found)?;
        let master = network.live.as_ref().ok_or_else(not_found)?.index;
        let (mtu, flags) = (network.mtu(), network.port_flags());
        let sandbox = self.sandboxes.get(sandbox_id);
        let netns = sandbox
            .and_then(|s| s.netns.as_ref())
            .ok_or_else(|| self.vanished(sandbox_id))?;
        let mut batch = Batch::default();
        batch.add_veth(&Veth {
            name: &record.link,
            index,
            master: Some(master),
            mtu,
            mac: None,
            peer_namespace: netns.as_fd(),
            peer_name: &record.endpoint.ifname,
            peer_index: record.index(),
            peer_mac: Some(record.endpoint.mac),
        });
        batch.set_port(&record.link, flags);
        self.route.transact(batch)?;
        netns::disable_ipv6(&record.link)
    }

    /// Settings of an interface before it is set up.
    fn prepare_inside(
        &self,
        sandbox_id: &str,
        record: &EndpointRecord,
        settings: &[(String, String)],
        own_mac: bool,
    ) -> Result<()> {
        let ipv6 = record.endpoint.address6.is_some();
        if !ipv6 && settings.is_empty() && !own_mac {
            return Ok(());
        }
        let sandbox = self.sandbox(sandbox_id)?;
        let netns = sandbox.netns.as_ref().ok_or_else(|| self.vanished(sandbox_id))?;
        let name = record.endpoint.ifname.replace('.', "/");
        netns::inside(&self.home, netns.as_fd(), || {
            if own_mac {
                // Neighbours may know the address with another MAC.
                netns::set_sysctl_if_present(&format!("net.ipv4.conf.{name}.arp_notify"), "1")?;
            }
            if ipv6 {
                netns::set_sysctl(&format!("net.ipv6.conf.{name}.accept_ra"), "0")?;
                netns::set_sysctl(&format!("net.ipv6.conf.{name}.accept_dad"), "0")?;
                netns::set_sysctl(&format!("net.ipv6.conf.{name}.disable_ipv6"), "0")?;
            }
            settings
                .iter()
                .try_for_each(|(key, value)| netns::set_sysctl(key, value))
        })
    }

    fn attach_overlay(&mut self, sandbox_id: &str, spec: &EndpointSpec) -> Result<Endpoint> {
        let number = self.free_number(sandbox_id)?;
        let overlay = self.overlays.get_mut(&spec.network_id);
        let overlay = overlay.ok_or_else(|| Error::NetworkNotFound {
            id: spec.network_id.clone(),
        })?;
        let invalid = |reason: String| Error::Invalid {
            what: "address",
            reason,
        };
        let ip = spec
            .ip
            .ok_or_else(|| invalid("endpoints on overlays need one from the cluster".into()))?;
        let subnet = overlay.spec.subnet().filter(|s| s.contains(&ip));
        let subnet =
            subnet.ok_or_else(|| invalid(format!("{ip} is not in network {}", overlay.spec.name)))?;
        let index = overlay.take_index();
        let attachment = Attachment::Overlay { index };
        if self.is_local(&spec.network_id, v4(ip)?) {
            return Err(invalid(format!("{ip} is in use on this node")));
        }
        let record = EndpointRecord {
            endpoint: Endpoint {
                network_id: spec.network_id.clone(),
                ifname: self.interface_name(sandbox_id, "eth", spec)?,
                address: IpNet::new(ip, subnet.prefix_len()).ok(),
                address6: None,
                gateway: None,
                gateway6: None,
                mac: mac(ip),
            },
            aliases: spec.aliases.clone(),
            link: link_name(sandbox_id, index, number),
            number,
            attachment,
            priority: spec.priority,
            links: spec.links.clone(),
            routes: [false; 2],
        };
        let made = self
            .remember(sandbox_id, &record)
            .and_then(|()| self.program_overlay(sandbox_id, &record, index));
        self.settle(sandbox_id, record, made)
    }

    fn program_overlay(&mut self, sandbox_id: &str, record: &EndpointRecord, index: u32) -> Result<()> {
        let sandbox = self.sandboxes.get(sandbox_id);
        let netns = sandbox
            .and_then(|s| s.netns.as_ref())
            .ok_or_else(|| self.vanished(sandbox_id))?;
        let address = record.address().ok_or_else(|| self.vanished(sandbox_id))?;
        let overlay = self.overlays.get_mut(&record.endpoint.network_id);
        let overlay = overlay.ok_or_else(|| Error::NetworkNotFound {
            id: record.endpoint.network_id.clone(),
        })?;
        let mut batch = Batch::default();
        batch.add_veth(&Veth {
            name: &record.link,
            index,
            master: Some(super::overlay::BRIDGE_INDEX),
            mtu: overlay.mtu,
            mac: None,
            peer_namespace: netns.as_fd(),
            peer_name: &record.endpoint.ifname,
            peer_index: record.index(),
            peer_mac: Some(record.endpoint.mac),
        });
        overlay.connect(&mut batch, &record.link, index, address);
        overlay.route.transact(batch)?;
        let has_services = overlay.has_services();
        self.configure_inside(sandbox_id, record, &[])?;
        if let Some(overlay) = self.overlays.get_mut(&record.endpoint.network_id) {
            overlay.route.wait_running(&record.link)?;
        }
        if has_services {
            self.add_services(sandbox_id, &record.endpoint.network_id)?;
        }
        Ok(())
    }

    /// Addresses and link inside the sandbox, sent together.
    fn configure_inside(
        &mut self,
        sandbox_id: &str,
        record: &EndpointRecord,
        further: &[IpAddr],
    ) -> Result<()> {
        let index = record.index();
        let mut batch = Batch::default();
        for address in [record.endpoint.address, record.endpoint.address6]
            .into_iter()
            .flatten()
        {
            batch.add_address(index, address);
        }
        for address in further {
            batch.add_address(index, IpNet::from(*address));
        }
        batch.set_up(index);
        self.socket_inside(sandbox_id, Protocol::Route)?.transact(batch)
    }

    fn free_number(&self, sandbox_id: &str) -> Result<u32> {
        let endpoints = &self.sandbox(sandbox_id)?.record.endpoints;
        (0..100)
            .find(|n| endpoints.iter().all(|e| e.number != *n))
            .ok_or_else(|| Error::Invalid {
                what: "endpoint",
                reason: "a sandbox can have 100 at most".into(),
            })
    }

    /// Writes the endpoint down before the kernel is told.
    fn remember(&mut self, sandbox_id: &str, record: &EndpointRecord) -> Result<()> {
        self.sandbox_mut(sandbox_id)?
            .record
            .endpoints
            .push(record.clone());
        self.save_sandbox(sandbox_id)
    }

    fn settle(&mut self, sandbox_id: &str, record: EndpointRecord, made: Result<()>) -> Result<Endpoint> {
        if let Err(error) = made {
            self.undo_attach(sandbox_id, &record.endpoint.network_id);
            return Err(error);
        }
        Ok(record.endpoint)
    }

    /// Undoes an attach; the error that led here is the one to tell.
    fn undo_attach(&mut self, sandbox_id: &str, network_id: &str) {
        let (removal, _) = self.begin_detach(sandbox_id, network_id);
        let mut batch = Batch::default();
        for link in &removal.links {
            batch.remove_link(link);
        }
        let _ = self.route.transact_all(batch);
        for (_, link) in &removal.hidden {
            if let Some(overlay) = self.overlays.get_mut(network_id) {
                let mut batch = Batch::default();
                batch.remove_link(link);
                let _ = overlay.route.transact_all(batch);
            }
        }
        let _ = self.finish_detach(sandbox_id, network_id);
    }
}

fn no_subnet(ip: IpAddr) -> Error {
    Error::Invalid {
        what: "endpoint settings",
        reason: format!("no configured subnet contains IP address {ip}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_an_interface() {
        let good = sysctls("net.ipv4.conf.IFNAME.log_martians=1", "eth0").expect("well-formed");
        assert_eq!(
            good,
            [("net.ipv4.conf.eth0.log_martians".to_owned(), "1".to_owned())]
        );
        for bad in [
            "x",
            "net.core.somaxconn=1",
            "net.ipv4.conf.all.forwarding=1",
            "net.ipv4.conf.IFNAME=1",
        ] {
            assert!(sysctls(bad, "eth0").is_err(), "{bad}");
        }
    }
}
