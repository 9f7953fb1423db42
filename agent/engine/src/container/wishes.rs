//! Which networks a new container will be in, and as what: checked and named by id. Docker's rules and texts. Called by `create`
//! and, for a running container's new network, by `crate::networks`.

use std::net::IpAddr;
use std::sync::Arc;

use pontoon_net::{Driver, NetworkSpec};
use pontoon_proto::v1::{ContainerNetwork, ContainerSpec, HostConfig};

use super::Container;
use super::network::{DEFAULT, NetworkMode, addresses, mac};
use crate::networks::cluster::check_overlay;
use crate::{Engine, Error, Result};

fn invalid(text: &str) -> Error {
    Error::Invalid(text.to_owned())
}

impl Engine {
    /// Names the container of `--network container:X` by its id, so that a rename changes nothing.
    pub(super) fn resolve_network_mode(&self, host: &mut HostConfig) -> Result<()> {
        if let NetworkMode::Container(target) = NetworkMode::parse(&host.network_mode) {
            host.network_mode = format!("container:{}", self.containers.find(target)?.id);
        }
        Ok(())
    }

    /// The container whose network is shared.
    pub(super) fn sharing(&self, host: &HostConfig) -> Option<Arc<Container>> {
        match NetworkMode::parse(&host.network_mode) {
            NetworkMode::Container(target) => self.containers.find(target).ok(),
            _ => None,
        }
    }

    /// Which networks it will be in: the mode's, and those listed (for a task or not). Names become ids.
    pub(super) async fn wanted_networks(
        &self,
        host: &HostConfig,
        config: &ContainerSpec,
        (listed, is_task): (&[ContainerNetwork], bool),
    ) -> Result<Vec<ContainerNetwork>> {
        let mode = host.network_mode.as_str();
        if !matches!(NetworkMode::parse(mode), NetworkMode::Own) {
            if !listed.is_empty() {
                return Err(invalid(
                    "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
                ));
            }
            if mode == "host" && config.sysctls.keys().any(|name| name.starts_with("net.")) {
                return Err(invalid("sysctl 'net.*' not allowed in host network mode"));
            }
            return Ok(Vec::new());
        }
        let mode = match mode {
            "" | "default" if listed.is_empty() => DEFAULT,
            "" | "default" => "",
            mode => mode,
        };
        let mut wanted = Vec::new();
        if !mode.is_empty() && !listed.iter().any(|network| network.network == mode) {
            wanted.push(ContainerNetwork {
                network: mode.to_owned(),
                ..ContainerNetwork::default()
            });
        }
        wanted.extend(listed.iter().cloned());
        for network in &mut wanted {
            if network.network == "default" {
                DEFAULT.clone_into(&mut network.network);
            }
            self.resolve_network(network, is_task).await?;
        }
        let mut ids = std::collections::HashSet::new();
        if let Some(twice) = wanted.iter().find(|n| !ids.insert(n.network_id.clone())) {
            return Err(Error::Invalid(format!(
                "network \"{}\" is specified multiple times",
                twice.network
            )));
        }
        Ok(wanted)
    }

    /// Resolves links: those of the host settings are the default bridge's, others their network's.
    pub(super) fn resolve_wishes(
        &self,
        host: &mut HostConfig,
        wanted: &mut [ContainerNetwork],
    ) -> Result<()> {
        // Docker takes the links of the host settings for the first network where that is not the default bridge.
        if let Some(first) = wanted.first_mut().filter(|n| n.network != DEFAULT) {
            first.links.append(&mut host.links);
        }
        self.resolve_links(&mut host.links, DEFAULT)?;
        for network in wanted {
            let name = network.network.clone();
            self.resolve_links(&mut network.links, &name)?;
        }
        Ok(())
    }

    /// Checks a wish and fills in the network's name and id.
    pub(crate) async fn resolve_network(&self, wish: &mut ContainerNetwork, is_task: bool) -> Result<()> {
        let (found, from_cluster) = match is_task {
            true => (self.find_network(&wish.network).await?.spec, false),
            false => self.find_joinable(&wish.network).await?,
        };
        check(wish, &found)?;
        if from_cluster {
            check_overlay(wish, &found.name)?;
        }
        wish.network = found.name;
        wish.network_id = found.id;
        wish.from_cluster = from_cluster;
        Ok(())
    }
}

fn check(wish: &ContainerNetwork, network: &NetworkSpec) -> Result<()> {
    if matches!(network.driver, Driver::None | Driver::Host) {
        return Err(invalid(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
        ));
    }
    let is_default = network.name == DEFAULT;
    for (family, text) in [("IPv4", &wish.ip_address), ("IPv6", &wish.ipv6_address)] {
        if text.is_empty() {
            continue;
        }
        let ip: IpAddr = text
            .parse()
            .map_err(|_| Error::Invalid(format!("invalid {family} address: {text}")))?;
        if ip.is_ipv4() != (family == "IPv4") {
            return Err(Error::Invalid(format!("invalid {family} address: {text}")));
        }
        if is_default {
            return Err(invalid(
                "user specified IP address is supported on user defined networks only",
            ));
        }
        let mut subnets = network.ipam.iter().filter_map(|ipam| ipam.subnet);
        if !subnets.any(|subnet| subnet.contains(&ip)) {
            return Err(Error::Invalid(format!(
                "invalid endpoint settings: no configured subnet contains IP address {ip}"
            )));
        }
    }
    if is_default && !wish.aliases.is_empty() {
        return Err(invalid(
            "network-scoped alias is supported only for containers in user defined networks",
        ));
    }
    addresses("link-local", &wish.link_local_ips)?;
    mac(&wish.mac_address)?;
    Ok(())
}
