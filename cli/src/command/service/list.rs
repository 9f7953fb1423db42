//! `service ls` and `service rm`, and the rows of `stack services`.

use clap::Args;
use pontoon_proto::v1::{
    GetRequest, ListRequest, PortProtocol, PublishMode, ServiceStatus, service_spec::Mode,
};
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::{Failure, Outcome, for_each_target};
use crate::output::human;
use crate::output::listing::{self, Column};

/// `service ls [OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    options: ListingOptions,
}

/// Flags of `service ls` and `stack services`.
#[derive(Args, Debug)]
pub struct ListingOptions {
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

/// `service rm SERVICE [SERVICE...]`
#[derive(Args, Debug)]
pub struct RemoveArguments {
    /// Services, by name or id
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

const COLUMNS: &[Column] = &[
    ("ID", "ID"),
    ("NAME", "Name"),
    ("MODE", "Mode"),
    ("REPLICAS", "Replicas"),
    ("IMAGE", "Image"),
    ("PORTS", "Ports"),
];

/// Runs `service ls`.
///
/// # Errors
/// A malformed filter or template, or the daemon's.
pub async fn run(client: &Client, arguments: Arguments) -> Outcome {
    print(client, ListRequest::default(), &arguments.options).await?;
    Ok(0)
}

/// Lists the services that match; returns how many there were.
///
/// # Errors
/// A malformed filter or template, or the daemon's.
pub async fn print(
    client: &Client,
    mut request: ListRequest,
    options: &ListingOptions,
) -> Result<usize, Failure> {
    for filter in &options.filter {
        match filter.split_once('=') {
            Some(("id", id)) => request.ids.push(id.to_owned()),
            Some(("name", name)) => request.names.push(name.to_owned()),
            Some(("label", label)) => request.labels.push(label.to_owned()),
            Some(("mode", mode @ ("replicated" | "global"))) => request.modes.push(mode.to_owned()),
            _ => {
                return Err(Failure::new(format!(
                    "invalid filter '{filter}': use id=, name=, label=, or mode=replicated|global"
                )));
            }
        }
    }
    let mut services = client
        .control()
        .list_services(request)
        .await?
        .into_inner()
        .services;
    services.sort_by_key(name);
    let rows: Vec<Value> = services.iter().map(row).collect();
    let quiet = options.quiet.then_some("{{.ID}}");
    listing::print(quiet.or(options.format.as_deref()), COLUMNS, &[], &rows)?;
    Ok(rows.len())
}

fn name(status: &ServiceStatus) -> String {
    let spec = status.service.as_ref().and_then(|service| service.spec.as_ref());
    spec.and_then(|spec| spec.annotations.as_ref())
        .map(|annotations| annotations.name.clone())
        .unwrap_or_default()
}

fn row(status: &ServiceStatus) -> Value {
    let service = status.service.clone().unwrap_or_default();
    let spec = service.spec.clone().unwrap_or_default();
    let task = spec.task.unwrap_or_default();
    let max_replicas = task.placement.unwrap_or_default().max_replicas;
    let limit = if max_replicas > 0 {
        format!(" (max {max_replicas} per node)")
    } else {
        String::new()
    };
    let image = task.container.unwrap_or_default().image;
    let ports: Vec<_> = service
        .endpoint
        .unwrap_or_default()
        .ports
        .iter()
        .filter(|port| port.publish_mode() == PublishMode::Ingress)
        .map(|port| {
            let protocol = match port.protocol() {
                PortProtocol::Tcp => "tcp",
                PortProtocol::Udp => "udp",
                PortProtocol::Sctp => "sctp",
            };
            format!("*:{}->{}/{protocol}", port.published_port, port.target_port)
        })
        .collect();
    json!({
        "ID": human::short_id(&service.id), "Name": name(status),
        "Mode": if matches!(spec.mode, Some(Mode::Global(_))) { "global" } else { "replicated" },
        "Replicas": format!("{}/{}{limit}", status.running_tasks, status.desired_tasks),
        "Image": image.split('@').next().unwrap_or_default(), "Ports": ports.join(", "),
    })
}

/// Runs `service rm`.
///
/// # Errors
/// The daemon's, one line a service.
pub async fn remove(client: &Client, arguments: RemoveArguments) -> Outcome {
    for_each_target(&arguments.services, |target| {
        let client = client.clone();
        async move {
            client
                .control()
                .remove_service(GetRequest {
                    target: target.clone(),
                })
                .await?;
            Ok(target)
        }
    })
    .await
}
