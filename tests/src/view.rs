//! What listings say, as values: rows of `--format json`. Used by suites instead of cutting tables apart.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::host::Host;

/// A row of `node ls`.
#[derive(Clone, Debug)]
pub struct NodeRow {
    /// Node id.
    pub id: String,
    /// `host1`, …
    pub hostname: String,
    /// Ready, Down, …
    pub status: String,
    /// Active, Pause, Drain.
    pub availability: String,
    /// Leader, Reachable, Unreachable; empty for workers.
    pub manager: String,
}

impl NodeRow {
    /// Whether it is a manager that answers.
    pub fn is_manager(&self) -> bool {
        self.manager == "Leader" || self.manager == "Reachable"
    }
}

/// A row of `service ps`.
#[derive(Clone, Debug)]
pub struct TaskRow {
    /// Task id.
    pub id: String,
    /// `web.1`
    pub name: String,
    /// Hostname of its node; empty before placement.
    pub node: String,
    /// Its service's image at that version.
    pub image: String,
    /// Running, Shutdown, …
    pub desired: String,
    /// First word of the current state: Running, Failed, …
    pub state: String,
    /// Why it is not running.
    pub error: String,
}

impl TaskRow {
    /// Runs and shall run.
    pub fn is_running(&self) -> bool {
        self.desired == "Running" && self.state == "Running"
    }
}

/// The rows of a listing command, to which `--format json` is added.
///
/// # Errors
/// When the command fails or prints no JSON.
pub fn rows(host: &Host, listing: &[&str]) -> Result<Vec<Value>> {
    let mut args = listing.to_vec();
    args.extend(["--format", "json"]);
    host.ok(&args)?
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
        .collect()
}

/// A field's text.
pub fn field(row: &Value, name: &str) -> String {
    row[name].as_str().unwrap_or_default().to_owned()
}

/// `node ls`.
///
/// # Errors
/// As [`rows`].
pub fn nodes(host: &Host) -> Result<Vec<NodeRow>> {
    let rows = rows(host, &["node", "ls"])?;
    Ok(rows
        .iter()
        .map(|row| NodeRow {
            id: field(row, "ID"),
            hostname: field(row, "Hostname"),
            status: field(row, "Status"),
            availability: field(row, "Availability"),
            manager: field(row, "ManagerStatus"),
        })
        .collect())
}

/// The row of one node.
///
/// # Errors
/// When it is not listed.
pub fn node(host: &Host, hostname: &str) -> Result<NodeRow> {
    let nodes = nodes(host)?;
    nodes
        .iter()
        .find(|node| node.hostname == hostname)
        .cloned()
        .with_context(|| format!("{hostname} is not in {nodes:?}"))
}

/// All tasks of a service, old ones too.
///
/// # Errors
/// As [`rows`].
pub fn tasks(host: &Host, service: &str) -> Result<Vec<TaskRow>> {
    task_rows(host, &["service", "ps", "--no-trunc", service])
}

/// The rows of any task listing.
///
/// # Errors
/// As [`rows`].
pub fn task_rows(host: &Host, listing: &[&str]) -> Result<Vec<TaskRow>> {
    let rows = rows(host, listing)?;
    Ok(rows
        .iter()
        .map(|row| TaskRow {
            id: field(row, "ID"),
            name: field(row, "Name"),
            node: field(row, "Node"),
            image: field(row, "Image"),
            desired: field(row, "DesiredState"),
            state: field(row, "CurrentState")
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned(),
            error: field(row, "Error"),
        })
        .collect())
}

/// The running tasks of a service.
///
/// # Errors
/// As [`rows`].
pub fn running(host: &Host, service: &str) -> Result<Vec<TaskRow>> {
    let mut tasks = tasks(host, service)?;
    tasks.retain(TaskRow::is_running);
    Ok(tasks)
}

/// All nodes, services and tasks, old ones too, with states, nodes and errors: for messages of failures. Empty if the host's
/// daemon is no manager or does not answer.
pub fn history(host: &Host) -> String {
    let ask = |args: &[&str]| match host.pontoon(args) {
        Ok(output) if output.code == 0 => Some(output.stdout),
        _ => None,
    };
    let Some(services) = ask(&["service", "ls", "--quiet"]) else {
        return String::new();
    };
    let ids: Vec<&str> = services.lines().collect();
    let tasks = [&["service", "ps", "--no-trunc"], ids.as_slice()].concat();
    [
        ask(&["node", "ls"]),
        ask(&["service", "ls"]),
        // Without services there is nothing to ask for.
        (!ids.is_empty()).then(|| ask(&tasks)).flatten(),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join("\n")
}

/// Checks that exactly `count` tasks of a service run and no other shall run; returns them.
///
/// # Errors
/// With the tasks as they are.
pub fn ensure_running(host: &Host, service: &str, count: usize) -> Result<Vec<TaskRow>> {
    let mut tasks = tasks(host, service)?;
    tasks.retain(|task| task.desired != "Shutdown" && task.desired != "Remove");
    let fine = tasks.len() == count && tasks.iter().all(TaskRow::is_running);
    ensure!(fine, "not {count} running tasks of {service}: {tasks:#?}");
    Ok(tasks)
}

/// Containers of a host that run, by `ps`.
///
/// # Errors
/// As [`rows`].
pub fn containers(host: &Host) -> Result<Vec<Value>> {
    rows(host, &["ps", "--no-trunc"])
}
