//! A container's network: its sandbox, endpoints and published ports, made at its start and released at its end, and the
//! files in `/etc` that follow from them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use pontoon_net::{EndpointSpec, PortMapping, Protocol, Sandbox, SandboxMode, SandboxSpec};
use pontoon_proto::v1::{ContainerNetwork, ContainerSpec, HostConfig, PortBinding, PortProtocol};

use super::Container;
use super::record::Record;
use crate::error::IoContext;
use crate::undo::Undo;
use crate::{Engine, Error, Result, id};

/// A container's place in the network.
pub(crate) struct Connected {
    /// The network namespace; `None`: the host's.
    pub netns: Option<PathBuf>,
    /// Its endpoints, as `inspect` shows them.
    pub networks: Vec<ContainerNetwork>,
    /// Its published ports.
    pub ports: Vec<PortBinding>,
}

impl Engine {
    /// Makes the sandbox with all endpoints and ports, and writes the files. All or nothing, through `undo`.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        container: &Container,
        record: &Record,
        undo: &mut Undo,
    ) -> Result<Connected> {
        let id = container.id.clone();
        let spec = sandbox_spec(&id, record)?;
        let mode = spec.mode;
        let network = self.network.clone();
        let (manager, gone) = (network.clone(), id.clone());
        undo.push("remove the sandbox", async move {
            manager.remove_sandbox(&gone).await
        });
        let sandbox = network
            .create_sandbox(spec)
            .await
            .map_err(|error| Error::network(format!("create a sandbox for {}", id::short(&id)), error))?;
        if mode == SandboxMode::Managed {
            for (place, wanted) in record.wanted_networks.iter().enumerate() {
                self.attach_network(&id, record, wanted, place == 0).await?;
            }
            let ports = record
                .host()
                .port_bindings
                .iter()
                .map(mapping)
                .collect::<Result<Vec<_>>>()?;
            if !ports.is_empty() {
                network.publish(&id, &ports).await.map_err(|error| {
                    let what = "driver failed programming external connectivity on endpoint";
                    Error::network(format!("{what} {}", record.view().name), error)
                })?;
            }
        }
        self.write_files(container, record, mode).await?;
        let sandbox = match mode {
            SandboxMode::Managed => network
                .inspect_sandbox(&id)
                .await
                .map_err(|error| Error::network("read the sandbox", error))?,
            _ => sandbox,
        };
        Ok(connected(sandbox, &record.wanted_networks))
    }

    async fn attach_network(
        &self,
        id: &str,
        record: &Record,
        wanted: &ContainerNetwork,
        is_default_route: bool,
    ) -> Result<()> {
        let mut aliases = vec![record.view().name.clone()];
        aliases.extend(wanted.aliases.iter().cloned());
        let spec = EndpointSpec {
            network_id: wanted.network_id.clone(),
            ip: wanted.ip_address.parse().ok(),
            aliases,
            mac: mac(&wanted.mac_address)?,
            is_default_route,
        };
        self.network
            .attach(id, spec)
            .await
            .map(drop)
            .map_err(|error| Error::network(format!("attach to network {}", wanted.network), error))
    }

    /// `hosts`, `hostname` and `resolv.conf` in the container's folder, bound into it. Existing files are written in
    /// place: a running container has them mounted.
    async fn write_files(&self, container: &Container, record: &Record, mode: SandboxMode) -> Result<()> {
        let failed = |error| Error::network("describe the sandbox", error);
        let resolv = self.network.resolv_conf(&container.id).await.map_err(failed)?;
        let hosts = match mode {
            SandboxMode::Host => host_hosts(record)?,
            _ => self.network.hosts(&container.id).await.map_err(failed)?,
        };
        let hostname = record.config().hostname;
        for (name, content) in [
            ("resolv.conf", resolv),
            ("hosts", hosts),
            ("hostname", hostname + "\n"),
        ] {
            let path = container.dir.join(name);
            std::fs::write(&path, content).context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }
}

/// In the host's network names resolve as on the host, and the container's own additions come on top.
fn host_hosts(record: &Record) -> Result<String> {
    let mut hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    if !hosts.is_empty() && !hosts.ends_with('\n') {
        hosts.push('\n');
    }
    for (name, address) in extra_hosts(&record.config().hosts)? {
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    Ok(hosts)
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

fn sandbox_spec(id: &str, record: &Record) -> Result<SandboxSpec> {
    let config = record.config();
    let mode = match record.host().network_mode.as_str() {
        "none" => SandboxMode::None,
        "host" => SandboxMode::Host,
        _ => SandboxMode::Managed,
    };
    let mut spec = SandboxSpec::new(id, mode);
    spec.hostname = record.config().hostname;
    let dns = config.dns.unwrap_or_default();
    spec.dns = dns
        .nameservers
        .iter()
        .map(|text| {
            text.parse()
                .map_err(|_| Error::Invalid(format!("{text} is not an ip address")))
        })
        .collect::<Result<_>>()?;
    spec.dns_search = dns.search;
    spec.dns_options = dns.options;
    spec.extra_hosts = extra_hosts(&config.hosts)?;
    spec.sysctls = crate::spec::namespaces::net_sysctls(&config.sysctls, mode == SandboxMode::Host);
    Ok(spec)
}

/// `name:address` entries.
pub(crate) fn extra_hosts(entries: &[String]) -> Result<Vec<(String, IpAddr)>> {
    entries
        .iter()
        .map(|entry| {
            let invalid = || Error::Invalid(format!("bad format for add-host: {entry:?}"));
            let (name, address) = entry.split_once(':').ok_or_else(invalid)?;
            let address = address.trim_start_matches('[').trim_end_matches(']');
            Ok((name.to_owned(), address.parse().map_err(|_| invalid())?))
        })
        .collect()
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
    let host_ip = if binding.host_ip.is_empty() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        let invalid = |_| Error::Invalid(format!("invalid IP address: {}", binding.host_ip));
        binding.host_ip.parse().map_err(invalid)?
    };
    let host_port = port(binding.host_port)?;
    Ok(PortMapping {
        host_ip,
        host_port: (host_port != 0).then_some(host_port),
        container_port: port(binding.container_port)?,
        protocol: match binding.protocol() {
            PortProtocol::Tcp => Protocol::Tcp,
            PortProtocol::Udp => Protocol::Udp,
            PortProtocol::Sctp => Protocol::Sctp,
        },
    })
}

fn connected(sandbox: Sandbox, wanted: &[ContainerNetwork]) -> Connected {
    let networks = wanted
        .iter()
        .map(|wanted| {
            let mut network = wanted.clone();
            if let Some(endpoint) = sandbox
                .endpoints
                .iter()
                .find(|e| e.network_id == wanted.network_id)
            {
                network.ip_address = endpoint.address.addr().to_string();
                network.ip_prefix_len = u32::from(endpoint.address.prefix_len());
                network.gateway = endpoint.gateway.map(|ip| ip.to_string()).unwrap_or_default();
                network.mac_address = endpoint.mac.map(|byte| format!("{byte:02x}")).join(":");
                network.endpoint_id = endpoint_id(&sandbox.id, &network.network_id);
            }
            network
        })
        .collect();
    let ports = sandbox
        .ports
        .iter()
        .map(|port| PortBinding {
            protocol: match port.protocol {
                Protocol::Tcp => PortProtocol::Tcp,
                Protocol::Udp => PortProtocol::Udp,
                Protocol::Sctp => PortProtocol::Sctp,
            }
            .into(),
            container_port: u32::from(port.container_port),
            host_ip: port.host_ip.to_string(),
            host_port: u32::from(port.host_port.unwrap_or_default()),
        })
        .collect();
    Connected {
        netns: sandbox.netns,
        networks,
        ports,
    }
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

    #[test]
    fn extra_hosts_take_both_families() {
        let parsed = extra_hosts(&["a:10.0.0.1".into(), "b:[::1]".into(), "c:fe80::1".into()]).unwrap();
        assert_eq!(parsed[1].1, "::1".parse::<IpAddr>().unwrap());
        assert_eq!(parsed[2].1, "fe80::1".parse::<IpAddr>().unwrap());
        assert!(extra_hosts(&["a".into()]).is_err());
    }
}
