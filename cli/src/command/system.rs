//! `version` and `info`, also under `system`.

use clap::{Args, Subcommand};
use pontoon_proto::v1::{InfoRequest, LocalNodeState, NodeRole, SwarmStatusRequest, VersionRequest};
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
    let swarm_state = match swarm.state() {
        LocalNodeState::Inactive => "inactive",
        LocalNodeState::Pending => "pending",
        LocalNodeState::Active => "active",
        LocalNodeState::Error => "error",
    };
    let is_manager = swarm.role() == NodeRole::Manager && swarm.state() == LocalNodeState::Active;
    let value = json!({
        "ID": info.id, "Name": info.name, "Containers": info.containers, "ContainersRunning": info.containers_running,
        "ContainersPaused": info.containers_paused, "ContainersStopped": info.containers_stopped, "Images": info.images,
        "ServerVersion": info.server_version, "Driver": info.storage_driver, "LoggingDriver": info.logging_driver,
        "CgroupDriver": info.cgroup_driver, "CgroupVersion": info.cgroup_version, "KernelVersion": info.kernel_version,
        "OperatingSystem": info.operating_system, "OSType": info.os_type, "Architecture": info.architecture,
        "NCPU": info.cpus, "MemTotal": info.memory_total, "DockerRootDir": info.data_dir,
        "DefaultRuntime": info.default_runtime, "Runtimes": info.runtimes, "SecurityOptions": info.security_options,
        "Warnings": info.warnings,
        "Swarm": {
            "LocalNodeState": swarm_state, "NodeID": swarm.node_id, "NodeAddr": swarm.node_addr, "Error": swarm.error,
            "ControlAvailable": is_manager, "Managers": swarm.managers, "Nodes": swarm.nodes,
            "RemoteManagers": swarm.remote_managers, "Cluster": { "ID": swarm.cluster_id },
        },
    });
    if let Some(format) = &arguments.format {
        print_formatted(format, &value)?;
        return Ok(0);
    }
    let mut text = format!(
        "Client: Pontoon\n Version:    {}\n\nServer:\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut line = |indent: usize, name: &str, shown: String| {
        text.push_str(&format!("{}{name}: {shown}\n", " ".repeat(indent)))
    };
    line(1, "Containers", info.containers.to_string());
    line(2, "Running", info.containers_running.to_string());
    line(2, "Paused", info.containers_paused.to_string());
    line(2, "Stopped", info.containers_stopped.to_string());
    line(1, "Images", info.images.to_string());
    line(1, "Server Version", info.server_version);
    line(1, "Storage Driver", info.storage_driver);
    line(1, "Logging Driver", info.logging_driver);
    line(1, "Cgroup Driver", info.cgroup_driver);
    line(1, "Cgroup Version", info.cgroup_version);
    line(1, "Swarm", swarm_state.to_owned());
    if swarm.state() != LocalNodeState::Inactive {
        line(2, "NodeID", swarm.node_id);
        if !swarm.error.is_empty() {
            line(2, "Error", swarm.error);
        }
        line(2, "Is Manager", is_manager.to_string());
        if is_manager {
            line(2, "ClusterID", swarm.cluster_id);
            line(2, "Managers", swarm.managers.to_string());
            line(2, "Nodes", swarm.nodes.to_string());
        }
        line(2, "Node Address", swarm.node_addr);
        if !swarm.remote_managers.is_empty() {
            line(2, "Manager Addresses", swarm.remote_managers.join(", "));
        }
    }
    line(1, "Runtimes", info.runtimes.join(" "));
    line(1, "Default Runtime", info.default_runtime);
    line(1, "Security Options", info.security_options.join(" "));
    line(1, "Kernel Version", info.kernel_version);
    line(1, "Operating System", info.operating_system);
    line(1, "OSType", info.os_type);
    line(1, "Architecture", info.architecture);
    line(1, "CPUs", info.cpus.to_string());
    line(1, "Total Memory", human::binary_size(info.memory_total));
    line(1, "Name", info.name);
    line(1, "ID", info.id);
    line(1, "Data Dir", info.data_dir);
    line(1, "Run Dir", info.run_dir);
    listing::write(&text);
    for warning in &info.warnings {
        eprintln!("WARNING: {warning}");
    }
    Ok(0)
}
