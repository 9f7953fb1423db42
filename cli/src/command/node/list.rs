//! `pontoon node ls`.

use clap::Args;
use pontoon_proto::v1::{GetClusterRequest, ListRequest, Node, NodeRole, SwarmStatusRequest, TlsInfo};
use serde_json::{Value, json};

use super::capitalized;
use crate::client::Client;
use crate::command::container::config::label;
use crate::command::inspect::{availability_name, reachability_name};
use crate::error::{Failure, Outcome};
use crate::output::listing::{self, Column};

/// `node ls [OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {
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

/// Prints the nodes.
pub(super) async fn run(client: &Client, arguments: Arguments) -> Outcome {
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
