//! What a new network may be: Docker's checks and texts, then the network manager's.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use pontoon_net::{Driver, IpamConfig, NetworkSpec};
use pontoon_proto::v1::{self, CreateNetworkRequest, CreateNetworkResponse};

use super::CREATED;
use crate::{Engine, Error, Result, id};

impl Engine {
    /// Makes a network of this host.
    ///
    /// # Errors
    /// A bad setting, a name that is taken, an overlapping subnet.
    pub async fn create_network(
        self: &Arc<Self>,
        request: CreateNetworkRequest,
    ) -> Result<CreateNetworkResponse> {
        let engine = self.clone();
        self.whole(async move {
            let spec = spec(request)?;
            let made = engine.network.create_network(spec).await;
            let network = made.map_err(|error| match error {
                error @ pontoon_net::Error::Predefined { .. } => Error::Invalid(error.to_string()),
                error => Error::network("failed to create network", error),
            })?;
            engine.emit_network("create", &network.spec, None);
            Ok(CreateNetworkResponse {
                id: network.spec.id,
                warning: String::new(),
            })
        })
        .await
    }
}

fn spec(request: CreateNetworkRequest) -> Result<NetworkSpec> {
    name(&request.name)?;
    let driver = match request.driver.as_str() {
        "" | "bridge" => Driver::Bridge,
        "macvlan" => Driver::Macvlan,
        "ipvlan" => Driver::Ipvlan,
        driver @ ("host" | "null") => {
            return Err(Error::Invalid(format!(
                "only one instance of \"{driver}\" network is allowed"
            )));
        }
        driver => {
            return Err(Error::Invalid(format!(
                "could not find plugin {driver} in v1 plugin registry: plugin not found: this version has bridge, macvlan \
                 and ipvlan; overlays are made on a manager"
            )));
        }
    };
    if !matches!(request.ipam_driver.as_str(), "" | "default") {
        return Err(Error::Invalid(format!(
            "could not find plugin {} in v1 plugin registry: plugin not found: \"default\" is the only IPAM driver",
            request.ipam_driver
        )));
    }
    if request.labels.contains_key(CREATED) {
        return Err(Error::Invalid(format!("the label {CREATED} is reserved")));
    }
    let mut spec = NetworkSpec::new(id::generate(), request.name, driver);
    spec.enable_ipv6 = request.enable_ipv6;
    spec.enable_ipv4 = request.enable_ipv4.unwrap_or(true);
    spec.ipam = ipam(&request.ipam, spec.enable_ipv6)?;
    spec.internal = request.internal;
    spec.attachable = request.attachable;
    spec.ipam_options = request.ipam_options.into_iter().collect();
    spec.options = request.options.into_iter().collect();
    spec.labels = request.labels.into_iter().collect();
    spec.labels.insert(CREATED.to_owned(), id::now().to_string());
    Ok(spec)
}

fn name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if matches!(name, "bridge" | "host" | "none" | "default") {
        return Err(Error::Invalid(format!(
            "operation is not permitted on predefined {name} network"
        )));
    }
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(good) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "invalid network name: {name:?}: use letters, digits and \"_.-\", a letter or digit first"
    )))
}

/// Docker's checks of subnets; all mistakes at once.
fn ipam(configs: &[v1::IpamConfig], ipv6: bool) -> Result<Vec<IpamConfig>> {
    let mut mistakes = Vec::new();
    let mut checked = Vec::new();
    for config in configs {
        let subnet: IpNet = match config.subnet.parse() {
            Ok(subnet) => subnet,
            Err(_) if config.subnet.is_empty() && config.range.is_empty() => {
                // A gateway alone belongs to a subnet that is yet to be chosen.
                mistakes.push("no matching subnet for gateway or auxiliary address".to_owned());
                continue;
            }
            Err(_) => {
                mistakes.push(format!(
                    "invalid subnet {}: invalid CIDR block notation",
                    config.subnet
                ));
                continue;
            }
        };
        if subnet.addr().is_ipv6() && !ipv6 {
            continue;
        }
        if subnet.trunc() != subnet {
            mistakes.push(format!(
                "invalid subnet {subnet}: it should be {}",
                subnet.trunc()
            ));
        }
        let mut address = |what: String, text: &str| check_address(&subnet, what, text, &mut mistakes);
        let gateway = address(format!("invalid gateway {}", config.gateway), &config.gateway);
        let mut auxiliary: Vec<_> = config.auxiliary_addresses.iter().collect();
        auxiliary.sort();
        let auxiliary = auxiliary
            .into_iter()
            .filter_map(|(name, text)| {
                Some((
                    name.clone(),
                    address(format!("invalid auxiliary address {name}"), text)?,
                ))
            })
            .collect();
        let range = check_range(&subnet, &config.range, &mut mistakes);
        checked.push(IpamConfig {
            subnet: Some(subnet.trunc()),
            range,
            gateway,
            auxiliary,
        });
    }
    if mistakes.is_empty() {
        return Ok(checked);
    }
    Err(Error::Invalid(format!(
        "invalid network config:\n{}",
        mistakes.join("\n")
    )))
}

fn version(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn check_address(subnet: &IpNet, what: String, text: &str, mistakes: &mut Vec<String>) -> Option<IpAddr> {
    if text.is_empty() {
        return None;
    }
    let Ok(ip) = text.parse::<IpAddr>() else {
        mistakes.push(format!("{what}: invalid address"));
        return None;
    };
    if ip.is_ipv4() != subnet.addr().is_ipv4() {
        let family = version(subnet.addr());
        mistakes.push(format!("{what}: parent subnet is an {family} block"));
    } else if !subnet.contains(&ip) {
        mistakes.push(format!(
            "{what}: parent subnet {subnet} doesn't contain this address"
        ));
    }
    Some(ip)
}

fn check_range(subnet: &IpNet, text: &str, mistakes: &mut Vec<String>) -> Option<IpNet> {
    if text.is_empty() {
        return None;
    }
    let Ok(range) = text.parse::<IpNet>() else {
        mistakes.push(format!("invalid ip-range {text}: invalid CIDR block notation"));
        return None;
    };
    if range.addr().is_ipv4() != subnet.addr().is_ipv4() {
        let family = version(subnet.addr());
        mistakes.push(format!(
            "invalid ip-range {range}: parent subnet is an {family} block"
        ));
        return None;
    }
    if range.prefix_len() < subnet.prefix_len() {
        mistakes.push(format!(
            "invalid ip-range {range}: CIDR block is bigger than its parent subnet {subnet}"
        ));
    }
    if range.trunc() != range {
        mistakes.push(format!(
            "invalid ip-range {range}: it should be {}",
            range.trunc()
        ));
    }
    if !subnet.contains(&range.network()) && !range.contains(&subnet.network()) {
        mistakes.push(format!(
            "invalid ip-range {range}: parent subnet {subnet} doesn't contain ip-range"
        ));
    }
    Some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(subnet: &str, range: &str, gateway: &str) -> Result<Vec<IpamConfig>> {
        let config = v1::IpamConfig {
            subnet: subnet.into(),
            range: range.into(),
            gateway: gateway.into(),
            ..v1::IpamConfig::default()
        };
        ipam(&[config], true)
    }

    #[test]
    fn mistakes_in_subnets_have_dockers_words() {
        check("10.1.0.0/16", "10.1.2.0/24", "10.1.0.9").unwrap();
        check("fd00::/64", "", "fd00::1").unwrap();
        for (subnet, range, gateway, text) in [
            ("10.1", "", "", "invalid subnet 10.1: invalid CIDR block notation"),
            (
                "10.1.2.3/16",
                "",
                "",
                "invalid subnet 10.1.2.3/16: it should be 10.1.0.0/16",
            ),
            (
                "10.1.0.0/16",
                "",
                "10.2.0.1",
                "invalid gateway 10.2.0.1: parent subnet 10.1.0.0/16 doesn't contain this address",
            ),
            (
                "10.1.0.0/16",
                "",
                "fd00::1",
                "invalid gateway fd00::1: parent subnet is an IPv4 block",
            ),
            (
                "10.1.0.0/16",
                "10.0.0.0/8",
                "",
                "invalid ip-range 10.0.0.0/8: CIDR block is bigger than its parent subnet 10.1.0.0/16",
            ),
            (
                "10.1.0.0/16",
                "10.2.0.0/24",
                "",
                "invalid ip-range 10.2.0.0/24: parent subnet 10.1.0.0/16 doesn't contain ip-range",
            ),
        ] {
            let error = check(subnet, range, gateway).unwrap_err().to_string();
            assert_eq!(error, format!("invalid network config:\n{text}"));
        }
        assert!(
            name("my_net.1").is_ok() && name("bridge").is_err() && name("").is_err() && name("a b").is_err()
        );
    }
}
