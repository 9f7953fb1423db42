//! Networks of a container: `--network` with its short and long form, `--network-alias`, `--ip`, `--dns*`, `--add-host`.
//! Called by the request's builder.

use pontoon_proto::v1::{ContainerNetwork, DnsConfig};

use super::super::options::ContainerOptions;
use crate::error::Failure;

/// The network mode: the first `--network`, or the default bridge.
pub(super) fn mode(options: &ContainerOptions) -> String {
    options
        .network
        .first()
        .map_or("bridge".to_owned(), |network| network_name(network))
}

fn network_name(network: &str) -> String {
    let named = network.split(',').find_map(|part| part.strip_prefix("name="));
    named.unwrap_or(network).to_owned()
}

pub(super) fn networks(options: &ContainerOptions) -> Result<Vec<ContainerNetwork>, Failure> {
    let mut networks = Vec::new();
    for (at, network) in options.network.iter().enumerate() {
        let mut wish = ContainerNetwork {
            network: network_name(network),
            ..Default::default()
        };
        for part in network.split(',').filter(|part| part.contains('=')) {
            match part.split_once('=') {
                Some(("name", _)) => {}
                Some(("alias", alias)) => wish.aliases.push(alias.to_owned()),
                Some(("ip", ip)) => wish.ip_address = ip.to_owned(),
                _ => {
                    return Err(Failure::new(format!(
                        "invalid field in --network {network:?}: {part}"
                    )));
                }
            }
        }
        if at == 0 {
            wish.aliases.extend(options.network_alias.iter().cloned());
            wish.ip_address = options.ip.map_or(wish.ip_address, |ip| ip.to_string());
        }
        networks.push(wish);
    }
    let special = |name: &str| matches!(name, "host" | "none" | "bridge" | "default");
    if networks.len() > 1
        && networks
            .iter()
            .any(|network| matches!(network.network.as_str(), "host" | "none"))
    {
        return Err(Failure::new(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
        ));
    }
    if !options.network_alias.is_empty() && networks.first().is_none_or(|network| special(&network.network)) {
        return Err(Failure::new(
            "network-scoped alias is supported only for containers in user defined networks",
        ));
    }
    if options.ip.is_some() && networks.first().is_none_or(|network| special(&network.network)) {
        return Err(Failure::new(
            "user specified IP address is supported on user defined networks only",
        ));
    }
    // `network_mode` says it all for these; what is left are networks with settings of their own.
    networks.retain(|network| !matches!(network.network.as_str(), "host" | "none"));
    Ok(networks)
}

pub(super) fn dns(options: &ContainerOptions) -> Option<DnsConfig> {
    (!options.dns.is_empty() || !options.dns_search.is_empty() || !options.dns_option.is_empty()).then(|| {
        DnsConfig {
            nameservers: options.dns.clone(),
            search: options.dns_search.clone(),
            options: options.dns_option.clone(),
        }
    })
}

pub(super) fn extra_host(text: &str) -> Result<String, Failure> {
    match text.split_once([':', '=']) {
        Some((name, address)) if !name.is_empty() && address.parse::<std::net::IpAddr>().is_ok() => {
            Ok(format!("{name}:{address}"))
        }
        _ => Err(Failure::new(format!(
            "bad format for add-host: {text:?} (use name:address)"
        ))),
    }
}
