//! What happens to a cluster and its containers when daemons and machines end, and when the network between them does.

mod daemons;
mod faults;
mod load;
mod machines;
mod quorum;
mod recovery;

use std::collections::BTreeSet;

use anyhow::Result;
use pontoon_tests::view::{TaskRow, ensure_running};
use pontoon_tests::{Fleet, Host};

/// A web service on every test's cluster.
fn web(host: &Host, replicas: usize) -> Result<Vec<TaskRow>> {
    let replicas = replicas.to_string();
    host.ok(&[
        "service",
        "create",
        "--name",
        "web",
        "--replicas",
        &replicas,
        "--publish",
        "8080:8080",
        "--restart-delay",
        "100ms",
        "--env",
        "PONTOON_NODE={{.Node.Hostname}}",
        "--env",
        "PONTOON_TASK={{.Task.Name}}",
        "web:1",
    ])?;
    ensure_running(host, "web", replicas.parse()?)
}

fn label(host: &Host, value: &str) -> Result<String> {
    host.ok(&[
        "node",
        "update",
        "--label-add",
        &format!("written={value}"),
        "host1",
    ])
}

fn written(host: &Host) -> Result<String> {
    host.ok(&[
        "node",
        "inspect",
        "--format",
        "{{index .Spec.Labels \"written\"}}",
        "host1",
    ])
}

/// Pids of the containers' programs on a host, by container id.
fn pids(host: &Host) -> Result<BTreeSet<String>> {
    let ids = host.ok(&["ps", "--quiet", "--no-trunc"])?;
    ids.lines()
        .map(|id| host.ok(&["inspect", "--format", "{{.Id}} {{.State.Pid}}", id]))
        .collect()
}

fn all_but<'a>(fleet: &'a Fleet, gone: &Host) -> Vec<&'a Host> {
    let gone = gone.number();
    fleet
        .hosts()
        .iter()
        .filter(|host| host.number() != gone)
        .collect()
}
