//! `ps`: rows and status texts. Ports are in [`super::ports`].

use clap::Args;
use pontoon_proto::v1::{Container, ContainerState, HealthState, ListContainersRequest};
use serde_json::{Value, json};

use super::ports;
use crate::client::Client;
use crate::command::filters;
use crate::error::Outcome;
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

/// Docker's `--format raw`.
const RAW: &str = "container_id: {{.ID}}\nimage: {{.Image}}\ncommand: {{.Command}}\ncreated_at: {{.CreatedAt}}\n\
state: {{.State}}\nstatus: {{.Status}}\nnames: {{.Names}}\nlabels: {{.Labels}}\nports: {{.Ports}}\n";

/// Characters of a mount's name in the table.
const MOUNT: usize = 15;

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
    let mut columns = COLUMNS.to_vec();
    if arguments.size {
        columns.push(SIZE);
    }
    let format = format_of(&arguments);
    listing::print(format.as_deref(), &columns, OTHER_HEADINGS, &rows)?;
    Ok(0)
}

/// The template to print with: `--quiet` gives way to one of the user's own, as in Docker; `raw` is Docker's long form.
fn format_of(arguments: &Arguments) -> Option<String> {
    let format = arguments.format.as_deref().filter(|format| !format.is_empty());
    match (format, arguments.quiet) {
        (None | Some("table"), true) => Some("{{.ID}}".to_owned()),
        (Some("raw"), true) => Some("container_id: {{.ID}}".to_owned()),
        (Some("raw"), false) => {
            let size = if arguments.size { "size: {{.Size}}\n" } else { "" };
            Some(format!("{RAW}{size}"))
        }
        (format, _) => format.map(str::to_owned),
    }
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
    let mut networks: Vec<_> = container
        .networks
        .iter()
        .map(|network| network.network.as_str())
        .collect();
    let mode = container
        .host
        .as_ref()
        .map_or("", |host| host.network_mode.as_str());
    if networks.is_empty() && matches!(mode, "host" | "none") {
        networks.push(mode);
    }
    networks.sort_unstable();
    let (mounts, volumes) = mounts(container, full);
    json!({
        "ID": if full { &container.id } else { human::short_id(&container.id) },
        "Image": image,
        "Command": format!("\"{command}\""),
        "CreatedAt": human::local_time(container.created_at),
        "RunningFor": human::ago(container.created_at),
        "Status": status(container),
        "State": state_name(container.state()),
        "Ports": ports::shown(container),
        "Names": container.name,
        "Labels": labels.join(","),
        "Mounts": mounts.join(","),
        "Networks": networks.join(","),
        "LocalVolumes": volumes.to_string(),
        "Size": size(container),
        "Platform": container.platform,
    })
}

/// Bytes written, and with the image if the daemon was asked for sizes.
fn size(container: &Container) -> String {
    let own = human::short_size(container.size_rw);
    match container.size_root_fs {
        0 => own,
        all => format!("{own} (virtual {})", human::short_size(all)),
    }
}

/// Names of the mounts, sources of those that have none; and how many are volumes of the local driver.
fn mounts(container: &Container, full: bool) -> (Vec<String>, usize) {
    let cut = |name: &str| {
        if full || name.chars().count() <= MOUNT {
            name.to_owned()
        } else {
            name.chars().take(MOUNT - 1).chain(['…']).collect()
        }
    };
    if !container.mounts.is_empty() {
        let names = container.mounts.iter().map(|mount| {
            let name = if mount.name.is_empty() {
                &mount.source
            } else {
                &mount.name
            };
            cut(name)
        });
        let volumes = container.mounts.iter().filter(|mount| mount.driver == "local");
        let names = names.filter(|name| !name.is_empty()).collect();
        return (names, volumes.count());
    }
    let config = container.config.as_ref();
    let sources = config
        .iter()
        .flat_map(|config| &config.mounts)
        .map(|mount| mount.source.as_str());
    let names = sources.filter(|source| !source.is_empty()).map(cut).collect();
    (names, 0)
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
