//! Networks of a container: `--network` with its short and long form and the flags that belong to the first one
//! (`--network-alias`, `--ip`, `--ip6`, `--link`, `--link-local-ip`, `--mac-address`), `--dns*`, `--add-host`. Called by the
//! request's builder. Rules and texts are Docker's.

use std::net::IpAddr;

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

/// Whether text is the long form, which consists of fields.
fn is_long(network: &str) -> bool {
    let known = [
        "name=",
        "alias=",
        "driver-opt=",
        "ip=",
        "ip6=",
        "mac-address=",
        "link-local-ip=",
        "gw-priority=",
    ];
    network.split(',').all(|part| {
        let part = part.trim_start_matches('"');
        known.iter().any(|key| part.to_lowercase().starts_with(key))
    }) || network.contains('=') && network.contains(',')
        || network.starts_with("name=")
}

fn network_name(network: &str) -> String {
    let named = network
        .split(',')
        .find_map(|part| part.trim().strip_prefix("name="))
        .filter(|_| is_long(network));
    named.unwrap_or(network).to_owned()
}

fn long(network: &str) -> Result<ContainerNetwork, Failure> {
    let mut wish = ContainerNetwork::default();
    if !is_long(network) {
        network.clone_into(&mut wish.network);
        return Ok(wish);
    }
    for part in fields(network) {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| Failure::new(format!("invalid field {part}: must be a key=value pair")))?;
        match key.trim().to_lowercase().as_str() {
            "name" => value.clone_into(&mut wish.network),
            "alias" => wish.aliases.push(value.to_owned()),
            "ip" => wish.ip_address = address("ip", value)?,
            "ip6" => wish.ipv6_address = address("ip6", value)?,
            "link-local-ip" => wish.link_local_ips.push(address("link-local-ip", value)?),
            "mac-address" => wish.mac_address = mac(value)?,
            "driver-opt" => {
                let (key, value) = value
                    .split_once('=')
                    .ok_or_else(|| Failure::new("invalid key value pair format in driver options"))?;
                wish.driver_opts.insert(key.to_owned(), value.to_owned());
            }
            "gw-priority" => wish.gw_priority = priority(value)?,
            key => return Err(Failure::new(format!("invalid field key {key}"))),
        }
    }
    if wish.network.is_empty() {
        return Err(Failure::new("network name/id is not specified"));
    }
    Ok(wish)
}

/// Splits at commas outside of quotes, as Docker's CSV: `name=a,"driver-opt=x=1,2"`.
fn fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => {
                if let Some(field) = fields.last_mut() {
                    field.push(c);
                }
            }
        }
    }
    fields
}

fn address(flag: &str, text: &str) -> Result<String, Failure> {
    let ip: IpAddr = text
        .parse()
        .map_err(|_| Failure::new(format!("invalid {flag}: {text:?} is not an IP address")))?;
    Ok(ip.to_string())
}

fn mac(text: &str) -> Result<String, Failure> {
    let parts: Vec<_> = text.split([':', '-']).collect();
    let good = |part: &&str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
    if parts.len() == 6 && parts.iter().all(good) {
        return Ok(text.to_owned());
    }
    Err(Failure::new(format!("{text} is not a valid mac address")))
}

/// `gw-priority`.
///
/// # Errors
/// When it is no number.
pub(crate) fn priority(text: &str) -> Result<i32, Failure> {
    text.parse()
        .map_err(|_| Failure::new(format!("invalid gw-priority ({text}): must be a number")))
}

/// What the flags beside `--network` say about the first network; each given there as well is a conflict.
fn fill_first(wish: &mut ContainerNetwork, options: &ContainerOptions) -> Result<(), Failure> {
    let conflict = |flag: &str| {
        Failure::new(format!(
            "conflicting options: cannot specify both --{flag} and per-network {}",
            match flag {
                "network-alias" => "alias",
                "ip" => "IPv4 address",
                "ip6" => "IPv6 address",
                "link-local-ip" => "link-local IP addresses",
                "link" => "links",
                _ => "MAC address",
            }
        ))
    };
    if !options.network_alias.is_empty() {
        if !wish.aliases.is_empty() {
            return Err(conflict("network-alias"));
        }
        wish.aliases.clone_from(&options.network_alias);
    }
    for (flag, given, field) in [
        ("ip", options.ip.map(|ip| ip.to_string()), &mut wish.ip_address),
        (
            "ip6",
            options.ip6.map(|ip| ip.to_string()),
            &mut wish.ipv6_address,
        ),
        (
            "mac-address",
            (!options.mac_address.is_empty())
                .then(|| mac(&options.mac_address))
                .transpose()?,
            &mut wish.mac_address,
        ),
    ] {
        if let Some(given) = given {
            if !field.is_empty() {
                return Err(conflict(flag));
            }
            *field = given;
        }
    }
    if !options.link_local_ip.is_empty() {
        if !wish.link_local_ips.is_empty() {
            return Err(conflict("link-local-ip"));
        }
        for ip in &options.link_local_ip {
            wish.link_local_ips.push(address("link-local-ip", ip)?);
        }
    }
    Ok(())
}

fn special(name: &str) -> bool {
    matches!(name, "host" | "none" | "bridge" | "default") || name.starts_with("container:")
}

/// Links of the default bridge; those of user-defined networks go with the first network.
pub(super) fn links(options: &ContainerOptions) -> Result<Vec<String>, Failure> {
    for link in &options.link {
        let parts: Vec<_> = link.split(':').collect();
        if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
            return Err(Failure::new(format!("bad format for links: {link}")));
        }
    }
    Ok(options.link.clone())
}

pub(super) fn networks(options: &ContainerOptions) -> Result<Vec<ContainerNetwork>, Failure> {
    let mut networks = options
        .network
        .iter()
        .map(|network| long(network))
        .collect::<Result<Vec<_>, _>>()?;
    let has_own = |wish: &ContainerNetwork| {
        let bare = ContainerNetwork {
            network: wish.network.clone(),
            ..ContainerNetwork::default()
        };
        *wish != bare
    };
    if networks.is_empty() {
        networks.push(ContainerNetwork {
            network: "bridge".to_owned(),
            ..ContainerNetwork::default()
        });
    }
    fill_first(&mut networks[0], options)?;
    let private = |name: &str| matches!(name, "host" | "none") || name.starts_with("container:");
    if networks.len() > 1 && networks.iter().any(|network| private(&network.network)) {
        return Err(Failure::new(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
        ));
    }
    for wish in &networks {
        let is_special = special(&wish.network);
        if is_special && !wish.aliases.is_empty() {
            return Err(Failure::new(
                "network-scoped alias is supported only for containers in user defined networks",
            ));
        }
        if is_special && !(wish.ip_address.is_empty() && wish.ipv6_address.is_empty()) {
            return Err(Failure::new(
                "user specified IP address is supported on user defined networks only",
            ));
        }
        if wish.network.starts_with("container:") && !wish.mac_address.is_empty() {
            return Err(Failure::new(
                "conflicting options: mac-address and the network mode",
            ));
        }
        if private(&wish.network) && has_own(wish) {
            return Err(Failure::new(format!(
                "conflicting options: the network mode {} takes no settings of an endpoint",
                wish.network
            )));
        }
    }
    // `network_mode` says it all for these; what is left are networks with settings of their own.
    networks.retain(|network| !private(&network.network));
    if options.network.is_empty() {
        networks.retain(has_own);
    }
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
    let bad = || Failure::new(format!("bad format for add-host: {text:?} (use name:address)"));
    let (name, address) = text.split_once([':', '=']).ok_or_else(bad)?;
    if name.is_empty() {
        return Err(bad());
    }
    // The daemon knows what that is.
    if address == "host-gateway" {
        return Ok(format!("{name}:{address}"));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = bare.unwrap_or(address);
    if address.parse::<IpAddr>().is_err() {
        return Err(Failure::new(format!(
            "invalid IP address in add-host: {address:?}"
        )));
    }
    Ok(format!("{name}:{address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    #[command(disable_help_flag = true)]
    struct Flags {
        #[command(flatten)]
        options: ContainerOptions,
    }

    fn options(flags: &[&str]) -> ContainerOptions {
        let words = ["run"].iter().chain(flags);
        <Flags as clap::Parser>::parse_from(words).options
    }

    #[test]
    fn long_form() {
        let text = "name=front,alias=web,alias=www,ip=10.1.0.5,ip6=fd00::5,mac-address=02:42:ac:11:00:09,\
                    \"driver-opt=com.docker.network.endpoint.sysctls=a=1,b=2\",gw-priority=-3";
        let options = options(&["--network", text, "--network", "back"]);
        assert_eq!(mode(&options), "front");
        let networks = networks(&options).unwrap();
        assert_eq!(networks.len(), 2);
        let front = &networks[0];
        assert_eq!(front.aliases, ["web", "www"]);
        assert_eq!(
            (front.ip_address.as_str(), front.ipv6_address.as_str()),
            ("10.1.0.5", "fd00::5")
        );
        assert_eq!(
            front.driver_opts["com.docker.network.endpoint.sysctls"],
            "a=1,b=2"
        );
        assert_eq!((front.gw_priority, networks[1].network.as_str()), (-3, "back"));
        for bad in [
            "name=a,ip=x",
            "name=a,what=1",
            "alias=x,ip=1.2.3.4",
            "name=a,gw-priority=x",
            "name=a,mac-address=1",
        ] {
            assert!(long(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_belong_to_the_first_network() {
        let mac = "02:42:ac:11:00:09";
        let given = options(&[
            "--network",
            "front",
            "--ip",
            "10.1.0.9",
            "--network-alias",
            "w",
            "--mac-address",
            mac,
        ]);
        let made = networks(&given).unwrap();
        assert_eq!(made[0].ip_address, "10.1.0.9");
        assert_eq!(made[0].aliases, ["w"]);
        let text = |flags: &[&str]| networks(&options(flags)).unwrap_err().message;
        let error = text(&["--network", "name=a,alias=b", "--network-alias", "c"]);
        assert!(
            error.contains("cannot specify both --network-alias and per-network alias"),
            "{error}"
        );
        let error = text(&["--ip", "10.0.0.1"]);
        assert!(error.contains("on user defined networks only"), "{error}");
        let error = text(&["--network", "a", "--network", "host"]);
        assert!(error.contains("cannot attach both"), "{error}");
        let alone = options(&["--mac-address", mac]);
        assert_eq!(networks(&alone).unwrap()[0].network, "bridge");
        assert!(networks(&options(&[])).unwrap().is_empty());
    }

    #[test]
    fn extra_hosts() {
        assert_eq!(extra_host("a=host-gateway").unwrap(), "a:host-gateway");
        assert_eq!(extra_host("a:[fd00::1]").unwrap(), "a:fd00::1");
        assert!(extra_host("a").is_err() && extra_host("a:b").is_err());
    }
}
