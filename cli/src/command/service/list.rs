//! `service ls` and `service rm`, and the rows of `stack services`.

use clap::Args;
use pontoon_proto::v1::{
    GetRequest, ListRequest, PortProtocol, PublishMode, ServiceSpec, ServiceStatus, service_spec::Mode,
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
            Some(("mode", mode @ ("replicated" | "global" | "replicated-job" | "global-job"))) => {
                request.modes.push(mode.to_owned());
            }
            _ => {
                return Err(Failure::new(format!(
                    "invalid filter '{filter}': use id=, name=, label=, or mode=replicated|global|replicated-job|global-job"
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
    // Docker's words in the column, with a blank; filters and flags have a dash there.
    let mode = spec.mode_name().replace('-', " ");
    let replicas = replicas(status, &spec);
    let task = spec.task.unwrap_or_default();
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
        "Mode": mode,
        "Replicas": replicas,
        "Image": image.split('@').next().unwrap_or_default(), "Ports": ports.join(", "),
    })
}

/// Tasks that run, of those that are to; of a job also how many have completed, of how many.
fn replicas(status: &ServiceStatus, spec: &ServiceSpec) -> String {
    let (desired, completed) = (status.desired_tasks, status.completed_tasks);
    let counts = format!("{}/{desired}", status.running_tasks);
    let placement = spec.task.as_ref().and_then(|task| task.placement.as_ref());
    let limit = placement.map_or(0, |placement| placement.max_replicas);
    match &spec.mode {
        Some(Mode::ReplicatedJob(job)) => {
            format!("{counts} ({completed}/{} completed)", job.total_completions)
        }
        Some(Mode::GlobalJob(_)) => format!("{counts} ({completed}/{} completed)", desired + completed),
        _ if limit > 0 => format!("{counts} (max {limit} per node)"),
        _ => counts,
    }
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

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{GlobalJobMode, ReplicatedJobMode, ReplicatedMode, Service};

    use super::*;

    #[test]
    fn jobs_show_how_far_they_are() {
        let shown = |mode: Mode, running_tasks, desired_tasks, completed_tasks| {
            let status = ServiceStatus {
                service: Some(Service {
                    spec: Some(ServiceSpec {
                        mode: Some(mode),
                        ..ServiceSpec::default()
                    }),
                    ..Service::default()
                }),
                running_tasks,
                desired_tasks,
                completed_tasks,
            };
            let row = row(&status);
            format!(
                "{} {}",
                row["Mode"].as_str().unwrap(),
                row["Replicas"].as_str().unwrap()
            )
        };
        let job = Mode::ReplicatedJob(ReplicatedJobMode {
            max_concurrent: 1,
            total_completions: 5,
        });
        assert_eq!(shown(job, 0, 1, 5), "replicated job 0/1 (5/5 completed)");
        let job = Mode::GlobalJob(GlobalJobMode {});
        assert_eq!(shown(job, 1, 2, 3), "global job 1/2 (3/5 completed)");
        let web = Mode::Replicated(ReplicatedMode { replicas: 2 });
        assert_eq!(shown(web, 1, 2, 0), "replicated 1/2");
    }
}
