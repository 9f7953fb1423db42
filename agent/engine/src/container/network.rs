//! A container's network: its sandbox, endpoints and published ports, made at its start and released at its end.
//!
//! - [`super::etc_files`]: the files in `/etc` that follow; [`super::links`]: `--link`
//! - `crate::networks`: networks themselves, and joining and leaving them while a container runs

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use pontoon_net::{EndpointSpec, PortMapping, Protocol, Sandbox, SandboxMode, SandboxSpec};
use pontoon_proto::v1::{ContainerNetwork, ContainerSpec, HostConfig, PortBinding, PortProtocol};

use super::Container;
use super::record::{Record, has_process};
use crate::undo::Undo;
use crate::{Engine, Error, Result, id};

/// The network whose members are not found by name, as Docker's.
pub(crate) const DEFAULT: &str = "bridge";

/// A container's place in the network.
pub(crate) struct Connected {
    /// The network namespace; `None`: the host's.
    pub netns: Option<PathBuf>,
    /// Folder with `hosts`, `hostname` and `resolv.conf`.
    pub files: PathBuf,
    /// Variables of `--link`.
    pub env: Vec<String>,
    /// Its endpoints, as `inspect` shows them.
    pub networks: Vec<ContainerNetwork>,
    /// Its published ports.
    pub ports: Vec<PortBinding>,
}

/// Whose network a container has.
pub(crate) enum NetworkMode<'a> {
    /// Loopback only.
    None,
    /// The host's.
    Host,
    /// That of another container.
    Container(&'a str),
    /// Its own, in the networks that it wants.
    Own,
}

impl<'a> NetworkMode<'a> {
    /// Reads `HostConfig.network_mode`.
    pub(crate) fn parse(mode: &'a str) -> Self {
        match mode.strip_prefix("container:") {
            Some(target) => Self::Container(target),
            None if mode == "none" => Self::None,
            None if mode == "host" => Self::Host,
            None => Self::Own,
        }
    }
}

impl Engine {
    /// Makes the sandbox with all endpoints and ports, and writes the files. All or nothing, through `undo`.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        container: &Container,
        record: &Record,
        undo: &mut Undo,
    ) -> Result<Connected> {
        let host = record.host();
        let mode = match NetworkMode::parse(&host.network_mode) {
            NetworkMode::Container(target) => return self.share_network(target),
            NetworkMode::None => SandboxMode::None,
            NetworkMode::Host => SandboxMode::Host,
            NetworkMode::Own => SandboxMode::Managed,
        };
        let id = container.id.clone();
        if record.wanted_networks.iter().any(|n| n.from_cluster) {
            let (engine, id) = (self.clone(), id.clone());
            // Last of all: an address is others' only when nothing here has it any more.
            undo.push("give addresses back to the cluster", async move {
                engine.detach_cluster(&*engine.containers.find(&id)?, None).await;
                Ok::<(), Error>(())
            });
        }
        let spec = self.sandbox_spec(&id, record, mode).await?;
        let network = self.network.clone();
        let (manager, gone) = (network.clone(), id.clone());
        undo.push("remove the sandbox", async move {
            manager.remove_sandbox(&gone).await
        });
        let mut sandbox = network
            .create_sandbox(spec)
            .await
            .map_err(|error| Error::network(format!("create a sandbox for {}", id::short(&id)), error))?;
        let mut env = Vec::new();
        if mode == SandboxMode::Managed {
            for (place, wanted) in record.wanted_networks.iter().enumerate() {
                self.attach_network(&id, record, wanted, place == 0).await?;
            }
            if !record.wanted_networks.is_empty() {
                self.publish_ports(&id, record).await?;
            }
            env = self.link_variables(record)?;
            sandbox = self.sandbox(&id).await?;
        }
        self.write_files(container, record).await?;
        self.refresh_linked(&id).await;
        let (networks, ports) = seen(&sandbox, record);
        Ok(Connected {
            netns: sandbox.netns,
            files: container.dir.clone(),
            env,
            networks,
            ports,
        })
    }

    /// The network of a running container for another one.
    fn share_network(&self, target: &str) -> Result<Connected> {
        let other = self.containers.find(target)?;
        let record = other.record();
        if !has_process(record.view().state()) {
            return Err(Error::Conflict(format!(
                "cannot join network of a non running container: {}",
                other.id
            )));
        }
        let view = record.view();
        // That of the host, of its own, or of a third one.
        let netns = (!view.sandbox_key.is_empty()).then(|| PathBuf::from(&view.sandbox_key));
        let hosts = PathBuf::from(&view.hosts_path);
        Ok(Connected {
            netns,
            files: hosts.parent().unwrap_or(&other.dir).to_owned(),
            env: Vec::new(),
            networks: Vec::new(),
            ports: Vec::new(),
        })
    }

    /// Publishes what is asked for.
    pub(crate) async fn publish_ports(&self, id: &str, record: &Record) -> Result<()> {
        let bindings = record.host().port_bindings;
        let ports = bindings.iter().map(mapping).collect::<Result<Vec<_>>>()?;
        if ports.is_empty() {
            return Ok(());
        }
        let published = self.network.publish(id, &ports).await;
        published.map(drop).map_err(|error| {
            let what = "driver failed programming external connectivity on endpoint";
            let endpoint = record
                .wanted_networks
                .first()
                .map(|n| endpoint_id(id, &n.network_id));
            let name = &record.view().name;
            Error::network(format!("{what} {name} ({})", endpoint.unwrap_or_default()), error)
        })
    }

    /// A container's sandbox as it is.
    pub(crate) async fn sandbox(&self, id: &str) -> Result<Sandbox> {
        self.network
            .inspect_sandbox(id)
            .await
            .map_err(|error| Error::network("read the sandbox", error))
    }

    /// Makes an endpoint of a sandbox.
    pub(crate) async fn attach_network(
        &self,
        id: &str,
        record: &Record,
        wanted: &ContainerNetwork,
        is_default_route: bool,
    ) -> Result<()> {
        let mut links = Vec::new();
        for link in &wanted.links {
            let (target, alias) = super::links::split(link);
            links.push((self.containers.find(target)?.id.clone(), alias.to_owned()));
        }
        let spec = EndpointSpec {
            network_id: wanted.network_id.clone(),
            ip: wanted.ip_address.parse().ok(),
            ip6: wanted.ipv6_address.parse().ok(),
            link_local: addresses("link-local", &wanted.link_local_ips)?,
            options: wanted.driver_opts.clone().into_iter().collect(),
            priority: wanted.gw_priority,
            aliases: dns_names(id, record, wanted),
            mac: mac(&wanted.mac_address)?,
            links,
            is_default_route,
        };
        if wanted.from_cluster {
            return self.attach_cluster(id, record, wanted, spec).await;
        }
        self.network
            .attach(id, spec)
            .await
            .map(drop)
            .map_err(|error| Error::network("failed to set up container networking", error))
    }

    async fn sandbox_spec(&self, id: &str, record: &Record, mode: SandboxMode) -> Result<SandboxSpec> {
        let config = record.config();
        let mut spec = SandboxSpec::new(id, mode);
        spec.hostname = match record.domainname.as_str() {
            "" => config.hostname.clone(),
            domain => format!("{}.{domain}", config.hostname),
        };
        let own = config.dns.unwrap_or_default();
        let defaults = &self.config.networks;
        let or = |own: Vec<String>, default: &[String]| if own.is_empty() { default.to_vec() } else { own };
        spec.dns = own
            .nameservers
            .iter()
            .map(|text| {
                text.parse()
                    .map_err(|_| Error::Invalid(format!("{text} is not an ip address")))
            })
            .collect::<Result<_>>()?;
        if spec.dns.is_empty() {
            spec.dns.clone_from(&defaults.dns);
        }
        spec.dns_search = or(own.search, &defaults.dns_search);
        spec.dns_options = or(own.options, &defaults.dns_options);
        spec.extra_hosts = self.extra_hosts(&config.hosts).await?;
        spec.sysctls = crate::spec::namespaces::net_sysctls(&config.sysctls, mode == SandboxMode::Host);
        Ok(spec)
    }
}

/// Names under which a container is found on a network: Docker's, in its order.
pub(crate) fn dns_names(id: &str, record: &Record, wanted: &ContainerNetwork) -> Vec<String> {
    let mut names = vec![record.view().name.clone()];
    names.extend(wanted.aliases.iter().cloned());
    names.push(id::short(id).to_owned());
    names.push(record.config().hostname);
    let mut known = std::collections::HashSet::new();
    names.retain(|name| !name.is_empty() && known.insert(name.clone()));
    names
}

/// The host name of a container whose id is `id`: the wanted one, else the host's where it shares that, else the short id.
pub(crate) fn hostname(id: &str, config: &ContainerSpec, host: &HostConfig) -> String {
    if !config.hostname.is_empty() {
        config.hostname.clone()
    } else if host.network_mode == "host" || host.uts_mode == "host" {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        id::short(id).to_owned()
    }
}

/// Addresses of a list.
pub(crate) fn addresses(kind: &str, texts: &[String]) -> Result<Vec<IpAddr>> {
    let parse = |text: &String| {
        text.parse()
            .map_err(|_| Error::Invalid(format!("invalid {kind} IP address: {text}")))
    };
    texts.iter().map(parse).collect()
}

/// A MAC address; empty is none.
pub(crate) fn mac(text: &str) -> Result<Option<[u8; 6]>> {
    if text.is_empty() {
        return Ok(None);
    }
    let invalid = || Error::Invalid(format!("{text} is not a valid mac address"));
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next().ok_or_else(invalid)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
    }
    if parts.next().is_some() {
        Err(invalid())
    } else {
        Ok(Some(bytes))
    }
}

fn mapping(binding: &PortBinding) -> Result<PortMapping> {
    let port = |number: u32| {
        u16::try_from(number).map_err(|_| Error::Invalid(format!("invalid port specification: {number}")))
    };
    let host_ip = match binding.host_ip.as_str() {
        "" => None,
        text => {
            let invalid = |_| Error::Invalid(format!("invalid IP address: {text}"));
            Some(text.parse().map_err(invalid)?)
        }
    };
    let host_port = port(binding.host_port)?;
    Ok(PortMapping {
        host_ip,
        host_port: (host_port != 0).then_some(host_port),
        host_port_end: port(binding.host_port_end)?,
        container_port: port(binding.container_port)?,
        protocol: match binding.protocol() {
            PortProtocol::Tcp => Protocol::Tcp,
            PortProtocol::Udp => Protocol::Udp,
            PortProtocol::Sctp => Protocol::Sctp,
        },
    })
}

/// Networks and ports of a container as `inspect` shows them.
pub(crate) fn seen(sandbox: &Sandbox, record: &Record) -> (Vec<ContainerNetwork>, Vec<PortBinding>) {
    let id = &sandbox.id;
    let networks = record.wanted_networks.iter().map(|wanted| {
        let mut network = wanted.clone();
        let own = sandbox
            .endpoints
            .iter()
            .find(|e| e.network_id == wanted.network_id);
        let Some(endpoint) = own else { return network };
        let text = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
        let length = |net: Option<u8>| u32::from(net.unwrap_or_default());
        network.ip_address = text(endpoint.address.map(|net| net.addr()));
        network.ip_prefix_len = length(endpoint.address.map(|net| net.prefix_len()));
        network.gateway = text(endpoint.gateway);
        network.ipv6_address = text(endpoint.address6.map(|net| net.addr()));
        network.ipv6_prefix_len = length(endpoint.address6.map(|net| net.prefix_len()));
        network.ipv6_gateway = text(endpoint.gateway6);
        network.mac_address = endpoint.mac.map(|byte| format!("{byte:02x}")).join(":");
        network.endpoint_id = endpoint_id(id, &network.network_id);
        if network.network != DEFAULT {
            network.dns_names = dns_names(id, record, wanted);
        }
        network
    });
    let ports = sandbox.ports.iter().map(|port| PortBinding {
        protocol: match port.protocol {
            Protocol::Tcp => PortProtocol::Tcp,
            Protocol::Udp => PortProtocol::Udp,
            Protocol::Sctp => PortProtocol::Sctp,
        }
        .into(),
        container_port: u32::from(port.container_port),
        host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        host_port: u32::from(port.host_port.unwrap_or_default()),
        host_port_end: 0,
    });
    (networks.collect(), ports.collect())
}

/// An endpoint's id: 64 digits that follow from the sandbox's and the network's, so that it needs no storage.
pub(crate) fn endpoint_id(sandbox: &str, network: &str) -> String {
    pontoon_image::Digest::of(format!("{sandbox}/{network}").as_bytes()).hex()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses() {
        assert_eq!(
            mac("02:42:ac:11:00:02").unwrap(),
            Some([2, 0x42, 0xac, 0x11, 0, 2])
        );
        assert_eq!(mac("").unwrap(), None);
        assert!(mac("02:42").is_err() && mac("02:42:ac:11:00:02:03").is_err() && mac("x").is_err());
    }
}
