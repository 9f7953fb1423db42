//! `pontoon node …`.

use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use clap::{Args, Subcommand, ValueEnum};
use pontoon_proto::v1::{
    GetClusterRequest, GetRequest, ListRequest, ListTasksRequest, Node, NodeDescription, NodeRole,
    RemoveNodeRequest, SwarmStatusRequest, TlsInfo, UpdateNodeRequest,
};
use serde_json::{Value, json};

use super::container::config::label;
use super::inspect::{availability_name, reachability_name};
use super::service::tasks;
use super::swarm::AvailabilityFlag;
use crate::client::Client;
use crate::error::{Failure, Outcome, for_each_target};
use crate::output::listing::{self, Column};

/// `pontoon node …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Demote one or more nodes from manager in the swarm
    Demote(Targets),
    /// Display detailed information on one or more nodes
    Inspect(InspectArguments),
    /// List nodes in the swarm
    #[command(visible_alias = "list")]
    Ls(ListArguments),
    /// Promote one or more nodes to manager in the swarm
    Promote(Targets),
    /// List tasks running on one or more nodes, defaults to current node
    Ps(PsArguments),
    /// Remove one or more nodes from the swarm
    #[command(visible_alias = "remove")]
    Rm(RemoveArguments),
    /// Update a node
    Update(UpdateArguments),
}

/// Commands that take nodes only.
#[derive(Args, Debug)]
pub struct Targets {
    /// Nodes, by hostname or id
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

/// `node inspect [OPTIONS] self|NODE [NODE...]`
#[derive(Args, Debug)]
pub struct InspectArguments {
    #[command(flatten)]
    shared: super::inspect::KindArguments,
    /// Print the information in a human friendly format
    #[arg(long, conflicts_with = "format")]
    pretty: bool,
}

/// `node ls [OPTIONS]`
#[derive(Args, Debug)]
pub struct ListArguments {
    /// Filter output based on conditions provided
    #[arg(short = 'f', long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or TEMPLATE
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Only display IDs
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// `node ps [OPTIONS] [NODE...]`
#[derive(Args, Debug)]
pub struct PsArguments {
    #[command(flatten)]
    listing: tasks::ListingOptions,
    /// Nodes, by hostname or id; none: this one
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
}

/// `node rm [OPTIONS] NODE [NODE...]`
#[derive(Args, Debug)]
pub struct RemoveArguments {
    /// Force remove a node from the swarm
    #[arg(short = 'f', long)]
    force: bool,
    /// Nodes, by hostname or id
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleFlag {
    Worker,
    Manager,
}

/// `node update [OPTIONS] NODE`
#[derive(Args, Debug)]
pub struct UpdateArguments {
    /// Availability of the node ("active", "pause", "drain")
    #[arg(long, value_name = "string", value_enum)]
    availability: Option<AvailabilityFlag>,
    /// Add or update a node label (key=value)
    #[arg(long, value_name = "list")]
    label_add: Vec<String>,
    /// Remove a node label if exists
    #[arg(long, value_name = "list")]
    label_rm: Vec<String>,
    /// Role of the node ("worker", "manager")
    #[arg(long, value_name = "string", value_enum)]
    role: Option<RoleFlag>,
    /// The node, by hostname or id
    node: String,
}

/// Runs a `node` command.
///
/// # Errors
/// The daemon's.
pub async fn dispatch(host: Option<&str>, command: Command) -> Outcome {
    if let Command::Inspect(InspectArguments {
        shared,
        pretty: false,
    }) = command
    {
        return super::inspect::one_kind(host, super::inspect::Kind::Node, shared).await;
    }
    let client = Client::connect(host).await?;
    match command {
        Command::Demote(targets) => set_role(&client, &targets.nodes, NodeRole::Worker).await,
        Command::Promote(targets) => set_role(&client, &targets.nodes, NodeRole::Manager).await,
        Command::Inspect(arguments) => pretty(&client, &arguments.shared.names).await,
        Command::Ls(arguments) => list(&client, arguments).await,
        Command::Ps(arguments) => ps(&client, arguments).await,
        Command::Rm(arguments) => {
            for_each_target(&arguments.nodes, |target| {
                let client = client.clone();
                async move {
                    let request = RemoveNodeRequest {
                        target: target.clone(),
                        force: arguments.force,
                    };
                    client.control().remove_node(request).await?;
                    Ok(target)
                }
            })
            .await
        }
        Command::Update(arguments) => update(&client, arguments).await,
    }
}

/// The node's id for `self`, else the name as it is.
async fn resolve(client: &Client, target: &str) -> Result<String, Failure> {
    if target != "self" {
        return Ok(target.to_owned());
    }
    Ok(client
        .swarm()
        .status(SwarmStatusRequest {})
        .await?
        .into_inner()
        .node_id)
}

async fn set_role(client: &Client, nodes: &[String], role: NodeRole) -> Outcome {
    for_each_target(nodes, |name| {
        let client = client.clone();
        async move {
            let node = client
                .control()
                .get_node(GetRequest {
                    target: resolve(&client, &name).await?,
                })
                .await?
                .into_inner();
            let mut spec = node.spec.clone().unwrap_or_default();
            let word = if role == NodeRole::Manager {
                "manager"
            } else {
                "worker"
            };
            if spec.role() == role {
                return Ok(format!("Node {name} is already a {word}."));
            }
            spec.set_role(role);
            let version = node.meta.unwrap_or_default().version;
            client
                .control()
                .update_node(UpdateNodeRequest {
                    target: node.id,
                    version,
                    spec: Some(spec),
                })
                .await?;
            Ok(match role {
                NodeRole::Manager => format!("Node {name} promoted to a manager in the swarm."),
                NodeRole::Worker => format!("Manager {name} demoted in the swarm."),
            })
        }
    })
    .await
}

async fn update(client: &Client, arguments: UpdateArguments) -> Outcome {
    let node = client
        .control()
        .get_node(GetRequest {
            target: resolve(client, &arguments.node).await?,
        })
        .await?
        .into_inner();
    let mut spec = node.spec.clone().unwrap_or_default();
    if let Some(availability) = arguments.availability {
        spec.set_availability(availability.into());
    }
    if let Some(role) = arguments.role {
        spec.set_role(match role {
            RoleFlag::Worker => NodeRole::Worker,
            RoleFlag::Manager => NodeRole::Manager,
        });
    }
    let labels = &mut spec.annotations.get_or_insert_default().labels;
    for key in &arguments.label_rm {
        if labels.remove(key).is_none() {
            return Err(Failure::new(format!("key {key} doesn't exist in node's labels")));
        }
    }
    labels.extend(arguments.label_add.iter().map(|text| label(text)));
    let version = node.meta.unwrap_or_default().version;
    client
        .control()
        .update_node(UpdateNodeRequest {
            target: node.id,
            version,
            spec: Some(spec),
        })
        .await?;
    listing::write(&format!("{}\n", arguments.node));
    Ok(0)
}

/// What `--filter` asks the managers for, and the labels of engines, which are looked at here.
fn filtered(filters: &[String]) -> Result<(ListRequest, Vec<String>), Failure> {
    let mut request = ListRequest::default();
    let mut node_labels = Vec::new();
    for filter in filters {
        let (key, value) = filter
            .split_once('=')
            .ok_or_else(|| Failure::new(format!("bad format of filter {filter:?} (expected name=value)")))?;
        match key {
            "id" => request.ids.push(value.to_owned()),
            "name" => request.names.push(value.to_owned()),
            "engine.label" => node_labels.push(value.to_owned()),
            "label" | "node.label" => request.labels.push(value.to_owned()),
            "role" => request.roles.push(match value {
                "manager" => NodeRole::Manager.into(),
                "worker" => NodeRole::Worker.into(),
                other => {
                    return Err(Failure::new(format!(
                        "invalid filter 'role={other}': use manager or worker"
                    )));
                }
            }),
            "membership" if value == "accepted" => {}
            other => {
                return Err(Failure::new(format!(
                    "invalid filter '{other}': use id, name, label, engine.label or role"
                )));
            }
        }
    }
    Ok((request, node_labels))
}

async fn list(client: &Client, arguments: ListArguments) -> Outcome {
    let (request, node_labels) = filtered(&arguments.filter)?;
    let own = client
        .swarm()
        .status(SwarmStatusRequest {})
        .await?
        .into_inner()
        .node_id;
    let nodes = client.control().list_nodes(request).await?.into_inner().nodes;
    let wanted = match arguments.format.as_deref() {
        // Asked for only where it shows.
        Some(format) if format.contains("TLSStatus") || format == "json" => {
            client
                .control()
                .get_cluster(GetClusterRequest {})
                .await?
                .into_inner()
                .tls_info
        }
        _ => None,
    };
    let has_engine_labels = |node: &Node| {
        let labels = node
            .description
            .as_ref()
            .and_then(|description| description.engine.as_ref())
            .map(|engine| &engine.labels);
        node_labels.iter().all(|wanted| {
            let (key, value) = label(wanted);
            labels
                .and_then(|labels| labels.get(&key))
                .is_some_and(|has| value.is_empty() || *has == value)
        })
    };
    let mut rows: Vec<Value> = nodes
        .iter()
        .filter(|node| has_engine_labels(node))
        .map(|node| row(node, &own, wanted.as_ref()))
        .collect();
    rows.sort_by(|a, b| a["Hostname"].as_str().cmp(&b["Hostname"].as_str()));
    let columns: &[Column] = &[
        ("ID", "_MarkedID"),
        ("HOSTNAME", "Hostname"),
        ("STATUS", "Status"),
        ("AVAILABILITY", "Availability"),
        ("MANAGER STATUS", "ManagerStatus"),
        ("ENGINE VERSION", "EngineVersion"),
    ];
    let quiet = arguments.quiet.then_some("{{.ID}}");
    listing::print(
        quiet.or(arguments.format.as_deref()),
        columns,
        &[("ID", "ID"), ("SELF", "Self"), ("TLS STATUS", "TLSStatus")],
        &rows,
    )?;
    Ok(0)
}

fn manager_status(node: &Node) -> &'static str {
    match &node.manager_status {
        None => "",
        Some(status) if status.leader => "Leader",
        Some(status) => match reachability_name(status.reachability()) {
            "reachable" => "Reachable",
            "unreachable" => "Unreachable",
            _ => "Unknown",
        },
    }
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

/// Whether the node's certificate and root are as the cluster's are to be.
fn tls_status(info: Option<&TlsInfo>, wanted: Option<&TlsInfo>) -> &'static str {
    match (info, wanted) {
        (Some(info), Some(wanted)) if info == wanted => "Ready",
        (Some(_), Some(_)) => "Needs Rotation",
        _ => "Unknown",
    }
}

fn row(node: &Node, own: &str, wanted: Option<&TlsInfo>) -> Value {
    let description = node.description.clone().unwrap_or_default();
    let marked = if node.id == own {
        format!("{} *", node.id)
    } else {
        node.id.clone()
    };
    json!({
        "ID": node.id, "_MarkedID": marked, "Self": node.id == own,
        "Hostname": description.hostname,
        "Status": capitalized(node.status.clone().unwrap_or_default().state().name()),
        "Availability": capitalized(availability_name(node.spec.clone().unwrap_or_default().availability())),
        "ManagerStatus": manager_status(node),
        "TLSStatus": tls_status(description.tls_info.as_ref(), wanted),
        "EngineVersion": description.engine.unwrap_or_default().engine_version,
    })
}

async fn ps(client: &Client, arguments: PsArguments) -> Outcome {
    let names = if arguments.nodes.is_empty() {
        vec!["self".to_owned()]
    } else {
        arguments.nodes
    };
    let mut nodes = Vec::new();
    for name in &names {
        let node = client
            .control()
            .get_node(GetRequest {
                target: resolve(client, name).await?,
            })
            .await?
            .into_inner();
        nodes.push(node.id);
    }
    tasks::print(
        client,
        ListTasksRequest {
            nodes,
            ..Default::default()
        },
        &arguments.listing,
    )
    .await
}

/// The drivers that the node tells of, a line a kind.
fn plugins(description: &NodeDescription) -> String {
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let engine = description.engine.as_ref();
    for plugin in engine.map_or(&[][..], |engine| &engine.plugins) {
        kinds.entry(&plugin.r#type).or_default().push(&plugin.name);
    }
    if kinds.is_empty() {
        return String::new();
    }
    let line = |(kind, names): (&str, Vec<&str>)| format!(" {kind}:\t\t{}\n", names.join(", "));
    let lines: String = kinds.into_iter().map(line).collect();
    format!("Plugins:\n{lines}")
}

/// A list of labels, sorted; nothing if there are none.
fn labels(title: &str, labels: HashMap<String, String>) -> String {
    let labels: BTreeMap<_, _> = labels.into_iter().collect();
    let line = |(key, value): (&String, &String)| format!(" - {key}={value}\n");
    let lines: String = labels.iter().map(line).collect();
    if lines.is_empty() {
        lines
    } else {
        format!("{title}:\n{lines}")
    }
}

async fn pretty(client: &Client, names: &[String]) -> Outcome {
    for name in names {
        let node = client
            .control()
            .get_node(GetRequest {
                target: resolve(client, name).await?,
            })
            .await?
            .into_inner();
        let spec = node.spec.clone().unwrap_or_default();
        let description = node.description.clone().unwrap_or_default();
        let platform = description.platform.clone().unwrap_or_default();
        let resources = description.resources.unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        let mut text = format!("ID:\t\t\t{}\n", node.id);
        text.push_str(&labels(
            "Labels",
            spec.annotations.clone().unwrap_or_default().labels,
        ));
        text.push_str(&format!("Hostname:              \t{}\n", description.hostname));
        text.push_str(&format!(
            "Status:\n State:\t\t\t{}\n",
            capitalized(status.state().name())
        ));
        text.push_str(&format!(
            " Availability:         \t{}\n",
            capitalized(availability_name(spec.availability()))
        ));
        text.push_str(&format!(" Address:\t\t{}\n", status.addr));
        if let Some(manager) = &node.manager_status {
            text.push_str(&format!("Manager Status:\n Address:\t\t{}\n", manager.addr));
            text.push_str(&format!(
                " Raft Status:\t\t{}\n",
                capitalized(reachability_name(manager.reachability()))
            ));
            text.push_str(&format!(
                " Leader:\t\t{}\n",
                if manager.leader { "Yes" } else { "No" }
            ));
        }
        text.push_str(&format!(
            "Platform:\n Operating System:\t{}\n Architecture:\t\t{}\n",
            platform.os, platform.architecture
        ));
        let memory = crate::output::human::binary_size(resources.memory_bytes);
        text.push_str(&format!(
            "Resources:\n CPUs:\t\t\t{}\n Memory:\t\t{memory}\n",
            resources.nano_cpus / 1_000_000_000
        ));
        text.push_str(&plugins(&description));
        let engine = description.engine.clone().unwrap_or_default();
        text.push_str(&format!("Engine Version:\t\t{}\n", engine.engine_version));
        text.push_str(&labels("Engine Labels", engine.labels));
        if let Some(info) = &description.tls_info {
            text.push_str(&format!(
                "TLS Info:\n TrustRoot:\n{}\n Issuer Subject:\t{}\n Issuer Public Key:\t{}\n",
                String::from_utf8_lossy(&info.trust_root).trim(),
                STANDARD.encode(&info.issuer_subject),
                STANDARD.encode(&info.issuer_public_key),
            ));
        }
        listing::write(&text);
    }
    Ok(0)
}
