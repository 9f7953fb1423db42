//! `version` and `info`, also under `system`.

use clap::{Args, Subcommand};
use pontoon_proto::v1::{
    InfoRequest, InfoResponse, LocalNodeState, NodeRole, SwarmStatus, SwarmStatusRequest, VersionRequest,
};
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::template::Template;
use crate::output::{human, listing};

/// `pontoon system …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Display system-wide information
    Info(InfoArguments),
}

/// Runs a `system` command.
///
/// # Errors
/// The command's.
pub async fn dispatch(host: Option<&str>, command: Command) -> Outcome {
    match command {
        Command::Info(arguments) => info(host, arguments).await,
    }
}

/// `version [OPTIONS]`
#[derive(Args, Debug)]
pub struct VersionArguments {
    /// Format output using a custom template: 'json' or TEMPLATE
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
}

/// `info [OPTIONS]`
#[derive(Args, Debug)]
pub struct InfoArguments {
    /// Format output using a custom template: 'json' or TEMPLATE
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
}

/// Prints a value by a template or as JSON.
///
/// # Errors
/// When the template is malformed or names a field that is not there.
pub fn print_formatted(format: &str, value: &Value) -> Result<(), Failure> {
    let text = match format {
        "json" => value.to_string(),
        template => Template::parse(template)
            .and_then(|template| template.render(value))
            .map_err(Failure::new)?,
    };
    listing::write(&format!("{text}\n"));
    Ok(())
}

/// Runs `version`.
///
/// # Errors
/// When the daemon does not answer, after the client's part is printed.
pub async fn version(host: Option<&str>, arguments: VersionArguments) -> Outcome {
    let client = json!({
        "Version": env!("CARGO_PKG_VERSION"), "APIVersion": "v1",
        "Os": std::env::consts::OS, "Arch": human_arch(std::env::consts::ARCH),
    });
    let answered = match Client::connect(host).await {
        Ok(connection) => connection
            .engine()
            .version(VersionRequest {})
            .await
            .map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    let (server, failure) = match answered {
        Ok(response) => {
            let server = response.into_inner();
            let server = json!({
                "Version": server.version, "ApiVersion": server.api_version, "GitCommit": server.git_commit,
                "Os": server.os, "Arch": server.arch, "KernelVersion": server.kernel_version, "BuildTime": server.built_at,
            });
            (server, None)
        }
        Err(failure) => (Value::Null, Some(failure)),
    };
    if let Some(format) = &arguments.format {
        print_formatted(format, &json!({ "Client": client, "Server": server }))?;
    } else {
        let mut text = String::from("Client: Pontoon\n");
        let mut lines = |title: &str, value: &Value| {
            text.push_str(&format!(" {title:<18}{}\n", value.as_str().unwrap_or_default()))
        };
        lines("Version:", &client["Version"]);
        lines("API version:", &client["APIVersion"]);
        lines(
            "OS/Arch:",
            &Value::from(format!(
                "{}/{}",
                std::env::consts::OS,
                human_arch(std::env::consts::ARCH)
            )),
        );
        if !server.is_null() {
            let platform = format!(
                "{}/{}",
                server["Os"].as_str().unwrap_or_default(),
                server["Arch"].as_str().unwrap_or_default()
            );
            text.push_str("\nServer: Pontoon Engine\n");
            let mut lines = |title: &str, value: &Value| {
                text.push_str(&format!(" {title:<18}{}\n", value.as_str().unwrap_or_default()))
            };
            lines("Version:", &server["Version"]);
            lines("API version:", &server["ApiVersion"]);
            lines("OS/Arch:", &Value::from(platform));
            lines("Kernel version:", &server["KernelVersion"]);
        }
        listing::write(&text);
    }
    failure.map_or(Ok(0), Err)
}

/// GOARCH names of the architectures we know.
fn human_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Runs `info`.
///
/// # Errors
/// The daemon's.
pub async fn info(host: Option<&str>, arguments: InfoArguments) -> Outcome {
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
