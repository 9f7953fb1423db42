//! `pontoon network …`: this host's networks and the cluster's.
//!
//! `create` goes to the cluster for the overlay driver and to the local engine for the rest; the other commands look at both.

use std::collections::HashMap;

use clap::{Args, Subcommand};
use pontoon_proto::v1::{
    Annotations, CreateClusterNetworkRequest, CreateNetworkRequest, FilterValues, GetRequest, IpamConfig,
    ListNetworksRequest, ListRequest, LocalNodeState, NetworkRequest, NetworkSpec, SwarmStatusRequest,
};
use serde_json::{Value, json};

use super::container::config::{label, pair};
use super::filters;
use crate::client::Client;
use crate::error::{Failure, Outcome, for_each_target};
use crate::output::human;
use crate::output::listing::{self, Column};

/// `pontoon network …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a network
    Create(CreateArguments),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ListArguments),
    /// Display detailed information on one or more networks
    Inspect(super::inspect::KindArguments),
    /// Remove one or more networks
    #[command(visible_alias = "remove")]
    Rm(RemoveArguments),
}

/// `network create [OPTIONS] NETWORK`
#[derive(Args, Debug)]
pub struct CreateArguments {
    /// Driver to manage the Network
    #[arg(short = 'd', long, value_name = "string", default_value = "bridge")]
    driver: String,
    /// IPv4 Gateway for the master subnet
    #[arg(long, value_name = "strings")]
    gateway: Vec<String>,
    /// Create swarm routing-mesh network
    #[arg(long)]
    ingress: bool,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Allocate container ip from a sub-range
    #[arg(long, value_name = "strings")]
    ip_range: Vec<String>,
    /// Set metadata on a network
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Set driver specific options
    #[arg(short = 'o', long = "opt", value_name = "map")]
    options: Vec<String>,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long, value_name = "strings")]
    subnet: Vec<String>,
    /// Its name
    #[arg(value_name = "NETWORK")]
    name: String,
}

/// `network ls [OPTIONS]`
#[derive(Args, Debug)]
pub struct ListArguments {
    /// Provide filter values (e.g. "driver=bridge")
    #[arg(short = 'f', long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or TEMPLATE
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Do not truncate the output
    #[arg(long)]
    no_trunc: bool,
    /// Only display network IDs
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// `network rm NETWORK [NETWORK...]`
#[derive(Args, Debug)]
pub struct RemoveArguments {
    /// Do not error if the network does not exist
    #[arg(short = 'f', long)]
    force: bool,
    /// Networks to remove
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Runs a `network` command.
///
/// # Errors
/// The daemon's.
pub async fn dispatch(host: Option<&str>, command: Command) -> Outcome {
    match command {
        Command::Create(arguments) => create(host, arguments).await,
        Command::Ls(arguments) => list(host, arguments).await,
        Command::Inspect(arguments) => {
            super::inspect::one_kind(host, super::inspect::Kind::Network, arguments).await
        }
        Command::Rm(arguments) => remove(host, arguments).await,
    }
}

fn ipam(arguments: &CreateArguments) -> Result<Vec<IpamConfig>, Failure> {
    let within = |flag: &str, values: &[String]| {
        if values.len() > arguments.subnet.len() {
            return Err(Failure::new(format!(
                "every {flag} needs a --subnet that it belongs to"
            )));
        }
        Ok(())
    };
    within("--gateway", &arguments.gateway)?;
    within("--ip-range", &arguments.ip_range)?;
    let at = |values: &[String], place: usize| values.get(place).cloned().unwrap_or_default();
    Ok(arguments
        .subnet
        .iter()
        .enumerate()
        .map(|(place, subnet)| IpamConfig {
            subnet: subnet.clone(),
            range: at(&arguments.ip_range, place),
            gateway: at(&arguments.gateway, place),
            ..IpamConfig::default()
        })
        .collect())
}

async fn create(host: Option<&str>, arguments: CreateArguments) -> Outcome {
    let ipam = ipam(&arguments)?;
    let labels = arguments.label.iter().map(|text| label(text)).collect();
    let options = arguments
        .options
        .iter()
        .map(|text| pair("opt", text))
        .collect::<Result<_, _>>()?;
    let client = Client::connect(host).await?;
    let id = if arguments.driver == "overlay" {
        let spec = NetworkSpec {
            annotations: Some(Annotations {
                name: arguments.name,
                labels,
            }),
            driver: arguments.driver,
            driver_opts: options,
            ipam,
            internal: arguments.internal,
            attachable: false,
            ingress: arguments.ingress,
            enable_ipv6: false,
        };
        client
            .control()
            .create_network(CreateClusterNetworkRequest { spec: Some(spec) })
            .await?
            .into_inner()
            .id
    } else {
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
            ..CreateNetworkRequest::default()
        };
        let created = client.engine().create_network(request).await?.into_inner();
        if !created.warning.is_empty() {
            eprintln!("WARNING: {}", created.warning);
        }
        created.id
    };
    listing::write(&format!("{id}\n"));
    Ok(0)
}

async fn list(host: Option<&str>, arguments: ListArguments) -> Outcome {
    let client = Client::connect(host).await?;
    let filters = filters(&arguments.filter)?;
    let local = client
        .engine()
        .list_networks(ListNetworksRequest {
            filters: filters.clone(),
        })
        .await?
        .into_inner()
        .networks;
    let mut rows: Vec<Value> = local
        .iter()
        .map(|network| {
            let listed = Listed {
                id: &network.id,
                name: &network.name,
                driver: &network.driver,
                scope: &network.scope,
                internal: network.internal,
                labels: &network.labels,
                created_at: network.created_at,
            };
            row(&listed, arguments.no_trunc)
        })
        .collect();
    // On a manager, the cluster's networks that have not reached this host yet are shown as well.
    if let Ok(response) = client.control().list_networks(ListRequest::default()).await {
        for network in response.into_inner().networks {
            if local.iter().any(|known| known.id == network.id) {
                continue;
            }
            let spec = network.spec.unwrap_or_default();
            let annotations = spec.annotations.unwrap_or_default();
            let matches = fits(&filters, &network.id, &spec.driver, &annotations);
            if matches {
                let listed = Listed {
                    id: &network.id,
                    name: &annotations.name,
                    driver: &spec.driver,
                    scope: "swarm",
                    internal: spec.internal,
                    labels: &annotations.labels,
                    created_at: network.meta.unwrap_or_default().created_at,
                };
                rows.push(row(&listed, arguments.no_trunc));
            }
        }
    }
    rows.sort_by(|a, b| a["Name"].as_str().cmp(&b["Name"].as_str()));
    let columns: &[Column] = &[
        ("NETWORK ID", "ID"),
        ("NAME", "Name"),
        ("DRIVER", "Driver"),
        ("SCOPE", "Scope"),
    ];
    let quiet = arguments.quiet.then_some("{{.ID}}");
    listing::print(
        quiet.or(arguments.format.as_deref()),
        columns,
        &[
            ("INTERNAL", "Internal"),
            ("IPV6", "IPv6"),
            ("LABELS", "Labels"),
            ("CREATED AT", "CreatedAt"),
        ],
        &rows,
    )?;
    Ok(0)
}

/// Whether a network of the cluster meets all filters.
fn fits(filters: &HashMap<String, FilterValues>, id: &str, driver: &str, annotations: &Annotations) -> bool {
    filters.iter().all(|(key, wanted)| {
        let any = |test: &dyn Fn(&str) -> bool| wanted.values.iter().any(|value| test(value));
        match key.as_str() {
            "driver" => any(&|value| value == driver),
            "id" => any(&|value| id.starts_with(value)),
            "name" => any(&|value| annotations.name.contains(value)),
            "scope" => any(&|value| value == "swarm"),
            "type" => any(&|value| value == "custom"),
            "label" => any(&|value| {
                let (key, wanted) = label(value);
                let has = annotations.labels.get(&key);
                has.is_some_and(|has| wanted.is_empty() || *has == wanted)
            }),
            _ => false,
        }
    })
}

/// A network of either kind, as `network ls` shows it.
struct Listed<'a> {
    id: &'a str,
    name: &'a str,
    driver: &'a str,
    scope: &'a str,
    internal: bool,
    labels: &'a HashMap<String, String>,
    created_at: i64,
}

fn row(network: &Listed<'_>, full: bool) -> Value {
    let mut labels: Vec<_> = network
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.sort();
    json!({
        "ID": if full { network.id } else { human::short_id(network.id) }, "Name": network.name,
        "Driver": network.driver, "Scope": network.scope, "Internal": network.internal.to_string(), "IPv6": "false",
        "Labels": labels.join(","), "CreatedAt": human::local_time(network.created_at),
    })
}

/// Without a cluster the engine's answer, that there is no such network, is better than the cluster's, that there is none.
async fn in_cluster(client: &Client) -> bool {
    let status = client.swarm().status(SwarmStatusRequest {}).await;
    status.is_ok_and(|status| status.get_ref().state() != LocalNodeState::Inactive)
}

async fn remove(host: Option<&str>, arguments: RemoveArguments) -> Outcome {
    let client = Client::connect(host).await?;
    for_each_target(&arguments.networks, |target| {
        let client = client.clone();
        async move {
            let request = NetworkRequest {
                target: target.clone(),
            };
            let local = client.engine().inspect_network(request.clone()).await;
            let is_swarm = match &local {
                Ok(found) => found.get_ref().scope == "swarm",
                Err(status) => status.code() == tonic::Code::NotFound,
            };
            let removed = if is_swarm {
                let removed = client
                    .control()
                    .remove_network(GetRequest {
                        target: target.clone(),
                    })
                    .await;
                match (removed, local) {
                    (Err(_), Err(missing)) if !in_cluster(&client).await => Err(missing),
                    (removed, _) => removed.map(|_| ()),
                }
            } else {
                client.engine().remove_network(request).await.map(|_| ())
            };
            match removed {
                Err(status) if arguments.force && status.code() == tonic::Code::NotFound => Ok(target),
                Err(status) => Err(status.into()),
                Ok(()) => Ok(target),
            }
        }
    })
    .await
}
