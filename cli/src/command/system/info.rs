//! `info`: what the engine, its host and the node's place in a swarm are.

use clap::Args;
use pontoon_proto::v1::{
    InfoRequest, InfoResponse, LocalNodeState, NodeRole, SwarmStatus, SwarmStatusRequest,
};
use serde_json::{Value, json};

use super::print_formatted;
use crate::client::Client;
use crate::error::Outcome;
use crate::output::{human, listing};

/// `info [OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Format output using a custom template: 'json' or TEMPLATE
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
}

/// Runs `info`.
///
/// # Errors
/// The daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let client = Client::connect(host).await?;
    let info = client.engine().info(InfoRequest {}).await?.into_inner();
    let swarm = client.swarm().status(SwarmStatusRequest {}).await?.into_inner();
    if let Some(format) = &arguments.format {
        print_formatted(format, &info_json(&info, &swarm))?;
        return Ok(0);
    }
    listing::write(&info_text(&info, &swarm));
    for warning in &info.warnings {
        eprintln!("WARNING: {warning}");
    }
    Ok(0)
}

fn swarm_state(swarm: &SwarmStatus) -> &'static str {
    match swarm.state() {
        LocalNodeState::Inactive => "inactive",
        LocalNodeState::Pending => "pending",
        LocalNodeState::Active => "active",
        LocalNodeState::Error => "error",
    }
}

fn is_manager(swarm: &SwarmStatus) -> bool {
    swarm.role() == NodeRole::Manager && swarm.state() == LocalNodeState::Active
}

fn info_json(info: &InfoResponse, swarm: &SwarmStatus) -> Value {
    json!({
        "ID": info.id, "Name": info.name, "Containers": info.containers, "ContainersRunning": info.containers_running,
        "ContainersPaused": info.containers_paused, "ContainersStopped": info.containers_stopped, "Images": info.images,
        "ServerVersion": info.server_version, "Driver": info.storage_driver, "LoggingDriver": info.logging_driver,
        "CgroupDriver": info.cgroup_driver, "CgroupVersion": info.cgroup_version, "KernelVersion": info.kernel_version,
        "OperatingSystem": info.operating_system, "OSType": info.os_type, "Architecture": info.architecture,
        "NCPU": info.cpus, "MemTotal": info.memory_total, "DockerRootDir": info.data_dir,
        "DefaultRuntime": info.default_runtime, "Runtimes": info.runtimes, "SecurityOptions": info.security_options,
        "Warnings": info.warnings,
        "Swarm": {
            "LocalNodeState": swarm_state(swarm), "NodeID": swarm.node_id, "NodeAddr": swarm.node_addr,
            "Error": swarm.error, "ControlAvailable": is_manager(swarm), "Managers": swarm.managers, "Nodes": swarm.nodes,
            "RemoteManagers": swarm.remote_managers, "Cluster": { "ID": swarm.cluster_id },
        },
    })
}

fn info_text(info: &InfoResponse, swarm: &SwarmStatus) -> String {
    let mut text = format!(
        "Client: Pontoon\n Version:    {}\n\nServer:\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut lines = |indent: usize, all: &[(&str, &dyn std::fmt::Display)]| {
        for (name, shown) in all {
            text.push_str(&format!("{}{name}: {shown}\n", " ".repeat(indent)));
        }
    };
    lines(1, &[("Containers", &info.containers)]);
    lines(
        2,
        &[
            ("Running", &info.containers_running),
            ("Paused", &info.containers_paused),
            ("Stopped", &info.containers_stopped),
        ],
    );
    lines(
        1,
        &[
            ("Images", &info.images),
            ("Server Version", &info.server_version),
            ("Storage Driver", &info.storage_driver),
            ("Logging Driver", &info.logging_driver),
            ("Cgroup Driver", &info.cgroup_driver),
            ("Cgroup Version", &info.cgroup_version),
            ("Swarm", &swarm_state(swarm)),
        ],
    );
    if swarm.state() != LocalNodeState::Inactive {
        lines(2, &[("NodeID", &swarm.node_id)]);
        if !swarm.error.is_empty() {
            lines(2, &[("Error", &swarm.error)]);
        }
        lines(2, &[("Is Manager", &is_manager(swarm))]);
        if is_manager(swarm) {
            lines(
                2,
                &[
                    ("ClusterID", &swarm.cluster_id),
                    ("Managers", &swarm.managers),
                    ("Nodes", &swarm.nodes),
                ],
            );
        }
        lines(2, &[("Node Address", &swarm.node_addr)]);
        if !swarm.remote_managers.is_empty() {
            lines(2, &[("Manager Addresses", &swarm.remote_managers.join(", "))]);
        }
    }
    lines(
        1,
        &[
            ("Runtimes", &info.runtimes.join(" ")),
            ("Default Runtime", &info.default_runtime),
            ("Security Options", &info.security_options.join(" ")),
            ("Kernel Version", &info.kernel_version),
            ("Operating System", &info.operating_system),
            ("OSType", &info.os_type),
            ("Architecture", &info.architecture),
            ("CPUs", &info.cpus),
            ("Total Memory", &human::binary_size(info.memory_total)),
            ("Name", &info.name),
            ("ID", &info.id),
            ("Data Dir", &info.data_dir),
            ("Run Dir", &info.run_dir),
        ],
    );
    text
}
