//! `ps` and `port`.

use clap::Args;
use pontoon_proto::v1::{
    Container, ContainerRequest, ContainerState, HealthState, ListContainersRequest, PortBinding,
    PortProtocol,
};
use serde_json::{Value, json};

use crate::client::Client;
use crate::command::filters;
use crate::error::{Failure, Outcome};
use crate::output::human;
use crate::output::listing::{self, Column};

/// `ps [OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Show all containers (default shows just running)
    #[arg(short = 'a', long)]
    all: bool,
    /// Filter output based on conditions provided
    #[arg(short = 'f', long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or TEMPLATE
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show n last created containers (includes all states)
    #[arg(short = 'n', long, value_name = "int", allow_hyphen_values = true)]
    last: Option<i64>,
    /// Show the latest created container (includes all states)
    #[arg(short = 'l', long)]
    latest: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display container IDs
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Display total file sizes
    #[arg(short = 's', long)]
    size: bool,
}

/// `port CONTAINER [PRIVATE_PORT[/PROTO]]`
#[derive(Args, Debug)]
pub struct PortArguments {
    /// The container
    container: String,
    /// A port of it
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    port: Option<String>,
}

const COLUMNS: &[Column] = &[
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
];
const SIZE: Column = ("SIZE", "Size");
const OTHER_HEADINGS: &[Column] = &[
    SIZE,
    ("STATE", "State"),
    ("CREATED AT", "CreatedAt"),
    ("LABELS", "Labels"),
    ("MOUNTS", "Mounts"),
    ("NETWORKS", "Networks"),
    ("LOCAL VOLUMES", "LocalVolumes"),
];

/// Runs `ps`.
///
/// # Errors
/// A malformed filter or template, or the daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let last = if arguments.latest {
        1
    } else {
        arguments.last.and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
    };
    let request = ListContainersRequest {
        all: arguments.all,
        last,
        filters: filters(&arguments.filter)?,
        // Sizes take the daemon a walk through the files: only for those who look at them.
        size: arguments.size
            || arguments
                .format
                .as_deref()
                .is_some_and(|format| format.contains(".Size")),
    };
    let client = Client::connect(host).await?;
    let containers = client
        .engine()
        .list_containers(request)
        .await?
        .into_inner()
        .containers;
    let rows: Vec<Value> = containers
        .iter()
        .map(|container| row(container, arguments.no_trunc))
        .collect();
    let quiet = arguments.quiet.then_some("{{.ID}}");
    let mut columns = COLUMNS.to_vec();
    if arguments.size {
        columns.push(SIZE);
    }
    listing::print(
        quiet.or(arguments.format.as_deref()),
        &columns,
        OTHER_HEADINGS,
        &rows,
    )?;
    Ok(0)
}

/// Docker's fields of a container, as `ps` shows them; `full` cuts nothing.
pub fn row(container: &Container, full: bool) -> Value {
    let config = container.config.clone().unwrap_or_default();
    let mut labels: Vec<_> = config
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.sort();
    let command = [std::slice::from_ref(&container.path), &container.args]
        .concat()
        .join(" ");
    let command = if full || command.chars().count() <= 20 {
        command
    } else {
        command.chars().take(19).chain(['…']).collect()
    };
    let image = match container.image.strip_prefix("sha256:") {
        Some(id) if !full => human::short_id(id),
        _ => &container.image,
    };
    let networks: Vec<_> = container
        .networks
        .iter()
        .map(|network| network.network.as_str())
        .collect();
    let mounts: Vec<_> = config
        .mounts
        .iter()
        .map(|mount| mount.source.as_str())
        .filter(|source| !source.is_empty())
        .collect();
    json!({
        "ID": if full { &container.id } else { human::short_id(&container.id) },
        "Image": image,
        "Command": format!("\"{command}\""),
        "CreatedAt": human::local_time(container.created_at),
        "RunningFor": human::ago(container.created_at),
        "Status": status(container),
        "State": state_name(container.state()),
        "Ports": ports(container),
        "Names": container.name,
        "Labels": labels.join(","),
        "Mounts": mounts.join(","),
        "Networks": networks.join(","),
        "LocalVolumes": "0",
        "Size": format!("{} (virtual {})", human::short_size(container.size_rw), human::short_size(container.size_root_fs)),
        "Platform": container.platform,
    })
}

/// Docker's word for a state.
pub fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Paused => "paused",
        ContainerState::Restarting => "restarting",
        ContainerState::Removing => "removing",
        ContainerState::Exited => "exited",
        ContainerState::Dead => "dead",
    }
}

fn status(container: &Container) -> String {
    let up = || human::duration(human::now() - container.started_at);
    let ended = || human::ago(container.finished_at);
    match container.state() {
        ContainerState::Created => "Created".to_owned(),
        ContainerState::Paused => format!("Up {} (Paused)", up()),
        ContainerState::Restarting => format!("Restarting ({}) {}", container.exit_code, ended()),
        ContainerState::Removing => "Removal In Progress".to_owned(),
        ContainerState::Dead => "Dead".to_owned(),
        ContainerState::Exited => format!("Exited ({}) {}", container.exit_code, ended()),
        ContainerState::Running => match container.health.as_ref().map(|health| health.state()) {
            Some(HealthState::Starting) => format!("Up {} (health: starting)", up()),
            Some(HealthState::Healthy) => format!("Up {} (healthy)", up()),
            Some(HealthState::Unhealthy) => format!("Up {} (unhealthy)", up()),
            _ => format!("Up {}", up()),
        },
    }
}

fn protocol(port: &PortBinding) -> &'static str {
    match port.protocol() {
        PortProtocol::Tcp => "tcp",
        PortProtocol::Udp => "udp",
        PortProtocol::Sctp => "sctp",
    }
}

fn host_ip(port: &PortBinding) -> &str {
    if port.host_ip.is_empty() {
        "0.0.0.0"
    } else {
        &port.host_ip
    }
}

fn ports(container: &Container) -> String {
    let mut shown: Vec<String> = container
        .ports
        .iter()
        .map(|port| {
            format!(
                "{}:{}->{}/{}",
                host_ip(port),
                port.host_port,
                port.container_port,
                protocol(port)
            )
        })
        .collect();
    let is_published = |exposed: &String| {
        container
            .ports
            .iter()
            .any(|port| format!("{}/{}", port.container_port, protocol(port)) == **exposed)
    };
    if matches!(
        container.state(),
        ContainerState::Running | ContainerState::Paused
    ) {
        shown.extend(
            container
                .exposed_ports
                .iter()
                .filter(|exposed| !is_published(exposed))
                .cloned(),
        );
    }
    shown.join(", ")
}

/// Runs `port`.
///
/// # Errors
/// When the port is not published, or the daemon's.
pub async fn port(host: Option<&str>, arguments: PortArguments) -> Outcome {
    let client = Client::connect(host).await?;
    let container = client
        .engine()
        .inspect_container(ContainerRequest {
            target: arguments.container,
        })
        .await?
        .into_inner();
    let wanted = arguments.port.map(|port| {
        if port.contains('/') {
            port
        } else {
            format!("{port}/tcp")
        }
    });
    let mut found = false;
    for port in &container.ports {
        let inside = format!("{}/{}", port.container_port, protocol(port));
        let outside = format!("{}:{}", host_ip(port), port.host_port);
        match &wanted {
            None => listing::write(&format!("{inside} -> {outside}\n")),
            Some(wanted) if *wanted == inside => {
                found = true;
                listing::write(&format!("{outside}\n"));
            }
            Some(_) => {}
        }
    }
    match wanted {
        Some(wanted) if !found => Err(Failure::new(format!(
            "No public port '{wanted}' published for {}",
            container.name
        ))),
        _ => Ok(0),
    }
}
