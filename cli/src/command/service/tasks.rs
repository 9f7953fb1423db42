//! Listings of tasks: `service ps`, `stack ps`, `node ps`.

use clap::Args;
use pontoon_proto::v1::{ListTasksRequest, PortProtocol, TaskState, TaskView};
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::human;
use crate::output::listing::{self, Column};

/// Flags that all task listings have.
#[derive(Args, Debug)]
pub struct ListingOptions {
    /// Filter output based on conditions provided
    #[arg(short = 'f', long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or TEMPLATE
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Do not map IDs to Names
    #[arg(long)]
    no_resolve: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display task IDs
    #[arg(short = 'q', long)]
    quiet: bool,
}

const COLUMNS: &[Column] = &[
    ("ID", "ID"),
    ("NAME", "_IndentedName"),
    ("IMAGE", "Image"),
    ("NODE", "Node"),
    ("DESIRED STATE", "DesiredState"),
    ("CURRENT STATE", "CurrentState"),
    ("ERROR", "Error"),
    ("PORTS", "Ports"),
];

/// Errors longer than this are cut in tables.
const ERROR_WIDTH: usize = 30;

/// Lists the tasks that match, newest of each slot first, older ones of the slot indented below it.
///
/// # Errors
/// A malformed filter or template, or the daemon's.
pub async fn print(client: &Client, mut request: ListTasksRequest, options: &ListingOptions) -> Outcome {
    let mut names = Vec::new();
    for filter in &options.filter {
        let (key, value) = filter
            .split_once('=')
            .ok_or_else(|| Failure::new(format!("bad format of filter {filter:?} (expected name=value)")))?;
        match (key, value) {
            ("id", id) => request.ids.push(id.to_owned()),
            ("name", name) => names.push(name.to_owned()),
            ("node", node) => request.nodes.push(node.to_owned()),
            ("desired-state", "running") => request.desired_states.push(TaskState::Running.into()),
            ("desired-state", "complete") => request.desired_states.push(TaskState::Complete.into()),
            ("desired-state", "shutdown") => request.desired_states.push(TaskState::Shutdown.into()),
            ("desired-state", "accepted" | "ready") => request.desired_states.push(TaskState::Ready.into()),
            _ => {
                return Err(Failure::new(format!(
                    "invalid filter '{filter}': use id, name, node, or desired-state=running|complete|shutdown|accepted"
                )));
            }
        }
    }
    let mut tasks = client.control().list_tasks(request).await?.into_inner().tasks;
    let name = |view: &TaskView| name(view, options.no_resolve);
    tasks.retain(|view| names.is_empty() || names.iter().any(|wanted| name(view).starts_with(wanted)));
    let created = |view: &TaskView| {
        view.task
            .as_ref()
            .and_then(|task| task.meta)
            .unwrap_or_default()
            .created_at
    };
    let place = |view: &TaskView| {
        let task = view.task.as_ref();
        (
            view.service_name.clone(),
            task.map_or(0, |task| task.slot),
            if task.is_some_and(|task| task.slot == 0) {
                name(view)
            } else {
                String::new()
            },
        )
    };
    tasks.sort_by(|a, b| place(a).cmp(&place(b)).then(created(b).cmp(&created(a))));
    let mut before = None;
    let mut rows = Vec::new();
    for view in &tasks {
        let name = name(view);
        let older = before.as_ref() == Some(&name);
        rows.push(row(view, &name, older, options));
        before = Some(name);
    }
    let quiet = options.quiet.then_some("{{.ID}}");
    listing::print(
        quiet.or(options.format.as_deref()),
        COLUMNS,
        &[("NAME", "Name")],
        &rows,
    )?;
    Ok(0)
}

/// `service.slot`, or `service.node` for a global service's task.
fn name(view: &TaskView, ids: bool) -> String {
    let task = view.task.clone().unwrap_or_default();
    let service = if ids { &task.service_id } else { &view.service_name };
    if task.slot > 0 {
        format!("{service}.{}", task.slot)
    } else {
        format!("{service}.{}", task.node_id)
    }
}

fn title(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

fn row(view: &TaskView, name: &str, older: bool, options: &ListingOptions) -> Value {
    let task = view.task.clone().unwrap_or_default();
    let status = task.status.clone().unwrap_or_default();
    let mut error = if status.err.is_empty() {
        view.waits_for.clone()
    } else {
        status.err.clone()
    };
    if options.no_trunc && !status.output.is_empty() {
        error = format!("{error}: last output: {}", status.output.join(" | "));
    }
    if !options.no_trunc && error.chars().count() > ERROR_WIDTH {
        error = error.chars().take(ERROR_WIDTH - 1).chain(['…']).collect();
    }
    let error = if error.is_empty() {
        error
    } else {
        format!("\"{error}\"")
    };
    let image = if options.no_trunc {
        view.image.as_str()
    } else {
        view.image.split('@').next().unwrap_or_default()
    };
    let ports: Vec<_> = status
        .ports
        .iter()
        .map(|port| {
            let protocol = match port.protocol() {
                PortProtocol::Tcp => "tcp",
                PortProtocol::Udp => "udp",
                PortProtocol::Sctp => "sctp",
            };
            format!("*:{}->{}/{protocol}", port.published_port, port.target_port)
        })
        .collect();
    let node = if options.no_resolve {
        &task.node_id
    } else {
        &view.node_hostname
    };
    json!({
        "ID": if options.no_trunc { task.id.as_str() } else { human::short_id(&task.id) },
        "Name": name,
        "_IndentedName": if older { format!(" \\_ {name}") } else { name.to_owned() },
        "Image": image,
        "Node": node,
        "DesiredState": title(task.desired_state().name()),
        "CurrentState": format!("{} {}", title(status.state().name()), human::ago(status.timestamp).to_lowercase()),
        "Error": error,
        "Ports": ports.join(","),
    })
}
