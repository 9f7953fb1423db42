//! `network create`: flags to a request, to the cluster for overlays and to the local engine for the rest.

use clap::Args;
use ipnet::IpNet;
use pontoon_proto::v1::{
    Annotations, CreateClusterNetworkRequest, CreateNetworkRequest, IpamConfig, NetworkSpec,
};

use crate::client::Client;
use crate::command::container::config::{label, pair};
use crate::error::{Failure, Outcome};
use crate::output::listing;

/// `network create [OPTIONS] NETWORK`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Enable manual container attachment
    #[arg(long)]
    attachable: bool,
    /// Auxiliary IPv4 or IPv6 addresses used by Network driver
    #[arg(long, value_name = "map")]
    aux_address: Vec<String>,
    /// The network from which to copy the configuration
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    config_from: String,
    /// Create a configuration only network
    #[arg(long)]
    config_only: bool,
    /// Driver to manage the Network
    #[arg(short = 'd', long, value_name = "string", default_value = "bridge")]
    driver: String,
    /// IPv4 or IPv6 Gateway for the master subnet
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    gateway: Vec<String>,
    /// Create swarm routing-mesh network
    #[arg(long)]
    ingress: bool,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Allocate container ip from a sub-range
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    ip_range: Vec<String>,
    /// IP Address Management Driver
    #[arg(long, value_name = "string", default_value = "default")]
    ipam_driver: String,
    /// Set IPAM driver specific options
    #[arg(long, value_name = "map")]
    ipam_opt: Vec<String>,
    /// Enable or disable IPv4 address assignment
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set, hide_default_value = true)]
    ipv4: bool,
    /// Enable or disable IPv6 address assignment
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set, hide_default_value = true)]
    ipv6: bool,
    /// Set metadata on a network
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Set driver specific options
    #[arg(short = 'o', long = "opt", value_name = "map")]
    options: Vec<String>,
    /// Control the network's scope
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    scope: String,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    subnet: Vec<String>,
    /// Its name
    #[arg(value_name = "NETWORK")]
    name: String,
}

/// Docker's consolidation: each range, gateway and auxiliary address goes to the subnet that it is in.
fn ipam(arguments: &Arguments) -> Result<Vec<IpamConfig>, Failure> {
    let subnets = &arguments.subnet;
    if subnets.len() < arguments.ip_range.len() || subnets.len() < arguments.gateway.len() {
        return Err(Failure::new(
            "every ip-range or gateway must have a corresponding subnet",
        ));
    }
    let mut configs: Vec<(IpNet, IpamConfig)> = Vec::new();
    for text in subnets {
        let subnet: IpNet = text
            .parse()
            .map_err(|_| Failure::new(format!("invalid subnet {text}: invalid CIDR address: {text}")))?;
        let overlaps = |(other, _): &(IpNet, IpamConfig)| {
            other.contains(&subnet.network()) || subnet.contains(&other.network())
        };
        if configs.iter().any(overlaps) {
            return Err(Failure::new(
                "multiple overlapping subnet configuration is not supported",
            ));
        }
        let config = IpamConfig {
            subnet: text.clone(),
            ..IpamConfig::default()
        };
        configs.push((subnet, config));
    }
    for text in &arguments.ip_range {
        let range: IpNet = text
            .parse()
            .map_err(|_| Failure::new(format!("invalid CIDR address: {text}")))?;
        let config = configs
            .iter_mut()
            .find(|(subnet, _)| subnet.contains(&range.network()));
        let (_, config) =
            config.ok_or_else(|| Failure::new(format!("no matching subnet for range {text}")))?;
        once("ranges", &mut config.range, text, &config.subnet)?;
    }
    for text in &arguments.gateway {
        let config = matching(&mut configs, "gateway", text)?;
        once("gateways", &mut config.gateway, text, &config.subnet)?;
    }
    for text in &arguments.aux_address {
        let (name, address) = pair("aux-address", text)?;
        let config = matching(&mut configs, "aux-address", &address)?;
        config.auxiliary_addresses.insert(name, address);
    }
    Ok(configs.into_iter().map(|(_, config)| config).collect())
}

fn once(what: &str, field: &mut String, text: &str, subnet: &str) -> Result<(), Failure> {
    if !field.is_empty() {
        return Err(Failure::new(format!(
            "cannot configure multiple {what} ({text}, {field}) on the same subnet ({subnet})"
        )));
    }
    text.clone_into(field);
    Ok(())
}

fn matching<'a>(
    configs: &'a mut [(IpNet, IpamConfig)],
    what: &str,
    text: &str,
) -> Result<&'a mut IpamConfig, Failure> {
    let none = || Failure::new(format!("no matching subnet for {what} {text}"));
    let ip: std::net::IpAddr = text.parse().map_err(|_| none())?;
    let config = configs.iter_mut().find(|(subnet, _)| subnet.contains(&ip));
    config.map(|(_, config)| config).ok_or_else(none)
}

fn refuse(arguments: &Arguments) -> Result<(), Failure> {
    let own_scope = match arguments.driver.as_str() {
        "overlay" => "swarm",
        _ => "local",
    };
    for (name, given) in [
        ("config-from", !arguments.config_from.is_empty()),
        ("config-only", arguments.config_only),
        // Each driver has one scope.
        ("scope", !["", own_scope].contains(&arguments.scope.as_str())),
    ] {
        if given {
            return Err(Failure::new(format!(
                "\"--{name}\" is not supported by this version"
            )));
        }
    }
    Ok(())
}

/// Runs `network create`.
///
/// # Errors
/// A bad option, or the daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    refuse(&arguments)?;
    let ipam = ipam(&arguments)?;
    let labels = arguments.label.iter().map(|text| label(text)).collect();
    let options = arguments
        .options
        .iter()
        .map(|text| pair("opt", text))
        .collect::<Result<_, _>>()?;
    let client = Client::connect(host).await?;
    if arguments.driver != "overlay" {
        if arguments.ingress {
            return Err(Failure::new("--ingress needs the overlay driver: add -d overlay"));
        }
        let request = CreateNetworkRequest {
            name: arguments.name,
            driver: arguments.driver,
            ipam,
            internal: arguments.internal,
            options,
            labels,
            attachable: arguments.attachable,
            enable_ipv6: arguments.ipv6,
            enable_ipv4: Some(arguments.ipv4),
            ipam_driver: arguments.ipam_driver,
            ipam_options: arguments
                .ipam_opt
                .iter()
                .map(|text| pair("ipam-opt", text))
                .collect::<Result<_, _>>()?,
        };
        let created = client.engine().create_network(request).await?.into_inner();
        if !created.warning.is_empty() {
            eprintln!("WARNING: {}", created.warning);
        }
        listing::write(&format!("{}\n", created.id));
        return Ok(0);
    }
    for (name, given) in [
        ("ipv6", arguments.ipv6),
        ("ipv4=false", !arguments.ipv4),
        ("ipam-driver", arguments.ipam_driver != "default"),
        ("ipam-opt", !arguments.ipam_opt.is_empty()),
    ] {
        if given {
            return Err(Failure::new(format!(
                "\"--{name}\" is not supported by this version for overlay networks"
            )));
        }
    }
    let spec = NetworkSpec {
        annotations: Some(Annotations {
            name: arguments.name,
            labels,
        }),
        driver: arguments.driver,
        driver_opts: options,
        ipam,
        internal: arguments.internal,
        attachable: arguments.attachable,
        ingress: arguments.ingress,
        enable_ipv6: false,
    };
    let request = CreateClusterNetworkRequest { spec: Some(spec) };
    let created = client.control().create_network(request).await?.into_inner();
    listing::write(&format!("{}\n", created.id));
    Ok(0)
}
