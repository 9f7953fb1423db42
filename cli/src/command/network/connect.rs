//! `network connect` and `network disconnect`.

use clap::Args;
use pontoon_proto::v1::{ConnectNetworkRequest, ContainerNetwork, DisconnectNetworkRequest};

use crate::client::Client;
use crate::command::container::config::pair;
use crate::error::Outcome;

/// `network connect [OPTIONS] NETWORK CONTAINER`
#[derive(Args, Debug)]
pub struct ConnectArguments {
    /// Add network-scoped alias for the container
    #[arg(long, value_name = "strings")]
    alias: Vec<String>,
    /// driver options for the network
    #[arg(long, value_name = "strings")]
    driver_opt: Vec<String>,
    /// Highest gw-priority provides the default gateway. Accepts positive and negative values.
    #[arg(
        long,
        value_name = "int",
        default_value_t = 0,
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    gw_priority: i32,
    /// IPv4 address (e.g., "172.30.100.104")
    #[arg(long, value_name = "ip")]
    ip: Option<std::net::Ipv4Addr>,
    /// IPv6 address (e.g., "2001:db8::33")
    #[arg(long, value_name = "ip")]
    ip6: Option<std::net::Ipv6Addr>,
    /// Add link to another container
    #[arg(long, value_name = "list")]
    link: Vec<String>,
    /// Add a link-local address for the container
    #[arg(long, value_name = "strings")]
    link_local_ip: Vec<std::net::IpAddr>,
    /// The network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// `network disconnect [OPTIONS] NETWORK CONTAINER`
#[derive(Args, Debug)]
pub struct DisconnectArguments {
    /// Force the container to disconnect from a network
    #[arg(short = 'f', long)]
    force: bool,
    /// The network
    #[arg(value_name = "NETWORK")]
    network: String,
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Runs `network connect`.
///
/// # Errors
/// A bad option, or the daemon's.
pub async fn connect(host: Option<&str>, arguments: ConnectArguments) -> Outcome {
    let text = |ip: Option<String>| ip.unwrap_or_default();
    let endpoint = ContainerNetwork {
        aliases: arguments.alias,
        ip_address: text(arguments.ip.map(|ip| ip.to_string())),
        ipv6_address: text(arguments.ip6.map(|ip| ip.to_string())),
        link_local_ips: arguments.link_local_ip.iter().map(ToString::to_string).collect(),
        driver_opts: arguments
            .driver_opt
            .iter()
            .map(|text| pair("driver-opt", text))
            .collect::<Result<_, _>>()?,
        gw_priority: arguments.gw_priority,
        links: arguments.link,
        ..ContainerNetwork::default()
    };
    let request = ConnectNetworkRequest {
        network: arguments.network,
        container: arguments.container,
        endpoint: Some(endpoint),
    };
    Client::connect(host)
        .await?
        .engine()
        .connect_network(request)
        .await?;
    Ok(0)
}

/// Runs `network disconnect`.
///
/// # Errors
/// The daemon's.
pub async fn disconnect(host: Option<&str>, arguments: DisconnectArguments) -> Outcome {
    let request = DisconnectNetworkRequest {
        network: arguments.network,
        container: arguments.container,
        force: arguments.force,
    };
    Client::connect(host)
        .await?
        .engine()
        .disconnect_network(request)
        .await?;
    Ok(0)
}
