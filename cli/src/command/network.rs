//! `pontoon network …`: this host's networks and the cluster's.
//!
//! `create` goes to the cluster for the overlay driver and to the local engine for the rest; the other commands look at both.
//! [`create`], [`connect`] (with `disconnect`) and [`doctor`] have files of their own.

mod connect;
mod create;
mod doctor;

use std::collections::HashMap;

use clap::{Args, Subcommand};
use pontoon_proto::v1::{
    Annotations, FilterValues, GetRequest, ListNetworksRequest, ListRequest, LocalNodeState, NetworkRequest,
    PruneRequest, SwarmStatusRequest,
};
use serde_json::{Value, json};

use super::container::config::label;
use super::filters;
use super::system::prune::is_confirmed;
use crate::client::Client;
use crate::error::{Failure, Outcome, for_each_target};
use crate::output::human;
use crate::output::listing::{self, Column};

/// `pontoon network …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Connect a container to a network
    Connect(connect::ConnectArguments),
    /// Create a network
    Create(Box<create::Arguments>),
    /// Disconnect a container from a network
    Disconnect(connect::DisconnectArguments),
    /// Compare overlay networks on all nodes with what they should be
    Doctor(doctor::Arguments),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ListArguments),
    /// Display detailed information on one or more networks
    Inspect(InspectArguments),
    /// Remove all unused networks
    Prune(PruneArguments),
    /// Remove one or more networks
    #[command(visible_alias = "remove")]
    Rm(RemoveArguments),
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

/// `network inspect [OPTIONS] NETWORK [NETWORK...]`
#[derive(Args, Debug)]
pub struct InspectArguments {
    /// Format output using a custom template: 'json' or TEMPLATE
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
    /// Verbose output for diagnostics
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    names: Vec<String>,
}

/// `network prune [OPTIONS]`
#[derive(Args, Debug)]
pub struct PruneArguments {
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short = 'f', long)]
    force: bool,
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
        Command::Connect(arguments) => connect::connect(host, arguments).await,
        Command::Create(arguments) => create::run(host, *arguments).await,
        Command::Disconnect(arguments) => connect::disconnect(host, arguments).await,
        Command::Doctor(arguments) => doctor::run(host, arguments).await,
        Command::Ls(arguments) => list(host, arguments).await,
        Command::Inspect(arguments) => {
            let InspectArguments {
                format,
                verbose,
                names,
            } = arguments;
            if verbose {
                check_verbose(host, &names).await?;
            }
            let arguments = super::inspect::KindArguments { format, names };
            super::inspect::one_kind(host, super::inspect::Kind::Network, arguments).await
        }
        Command::Prune(arguments) => prune(host, arguments).await,
        Command::Rm(arguments) => remove(host, arguments).await,
    }
}

/// `--verbose` adds the services and tasks of an overlay, which are not told here; about other networks it adds nothing.
async fn check_verbose(host: Option<&str>, names: &[String]) -> Result<(), Failure> {
    let client = Client::connect(host).await?;
    for name in names {
        let target = name.clone();
        let found = client.engine().inspect_network(NetworkRequest { target }).await;
        if found.is_ok_and(|found| found.get_ref().scope == "swarm") {
            return Err(Failure::new(
                "\"--verbose\" is not supported by this version for overlay networks",
            ));
        }
    }
    Ok(())
}

async fn prune(host: Option<&str>, arguments: PruneArguments) -> Outcome {
    let filters = filters(&arguments.filter)?;
    let warning = "WARNING! This will remove all custom networks not used by at least one container.";
    if !arguments.force && !is_confirmed(warning) {
        return Ok(0);
    }
    let client = Client::connect(host).await?;
    let pruned = client
        .engine()
        .prune_networks(PruneRequest { filters })
        .await?
        .into_inner();
    if !pruned.deleted.is_empty() {
        listing::write(&format!("Deleted Networks:\n{}\n\n", pruned.deleted.join("\n")));
    }
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
                ipv6: network.enable_ipv6,
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
                    ipv6: spec.enable_ipv6,
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
    ipv6: bool,
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
        "Driver": network.driver, "Scope": network.scope, "Internal": network.internal.to_string(), "IPv6": network.ipv6.to_string(),
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
