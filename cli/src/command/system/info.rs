//! `info`: what the engine, its host and the node's place in a swarm are.

use clap::Args;
use pontoon_proto::v1::{
    Cluster, GetClusterRequest, InfoRequest, InfoResponse, LocalNodeState, NodeRole, SwarmStatus,
    SwarmStatusRequest,
};
use serde_json::{Value, json};

use super::print_formatted;
use crate::client::Client;
use crate::command::inspect::tls_json;
use crate::error::Outcome;
use crate::generic;
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
    // A manager that can't ask the leader shows the rest all the same.
    let cluster = match is_manager(&swarm) {
        true => client.control().get_cluster(GetClusterRequest {}).await.ok(),
        false => None,
    };
    let cluster = cluster.map(tonic::Response::into_inner);
    if let Some(format) = &arguments.format {
        let mut value = info_json(&info, &swarm);
        if let Some(cluster) = &cluster {
            value["Swarm"]["Cluster"] = cluster_json(cluster);
        }
        print_formatted(format, &value)?;
        return Ok(0);
    }
    listing::write(&info_text(&info, &swarm, cluster.as_ref()));
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
        LocalNodeState::Locked => "locked",
    }
}

fn is_manager(swarm: &SwarmStatus) -> bool {
    swarm.role() == NodeRole::Manager && swarm.state() == LocalNodeState::Active
}

fn info_json(info: &InfoResponse, swarm: &SwarmStatus) -> Value {
    let driver_status: Vec<Value> = info
        .driver_status
        .iter()
        .map(|line| {
            let (key, value) = line.split_once(": ").unwrap_or((line, ""));
            json!([key, value])
        })
        .collect();
    let paths: std::collections::BTreeMap<_, _> = info
        .runtime_paths
        .iter()
        .map(|(name, path)| (name, json!({ "path": path })))
        .collect();
    // Docker's word for none is null.
    let units = (!info.generic_resources.is_empty()).then(|| generic::json(&info.generic_resources));
    let engine = json!({
        "ID": info.id, "Name": info.name, "Containers": info.containers, "ContainersRunning": info.containers_running,
        "ContainersPaused": info.containers_paused, "ContainersStopped": info.containers_stopped, "Images": info.images,
        "Driver": info.storage_driver, "DriverStatus": driver_status, "GenericResources": units,
        "Plugins": {
            "Volume": info.volume_drivers, "Network": info.network_drivers, "Authorization": null, "Log": info.log_drivers,
        },
        "MemoryLimit": info.memory_limit, "SwapLimit": info.swap_limit, "CpuCfsPeriod": info.cpu_cfs_quota,
        "CpuCfsQuota": info.cpu_cfs_quota, "CPUShares": info.cpu_shares, "CPUSet": info.cpu_set,
        "PidsLimit": info.pids_limit, "OomKillDisable": info.oom_kill_disable, "IPv4Forwarding": info.ipv4_forwarding,
    });
    let host = json!({
        "Debug": info.debug, "NFd": info.file_descriptors, "SystemTime": human::rfc3339(info.system_time),
        "NEventsListener": info.event_listeners, "LoggingDriver": info.logging_driver,
        "CgroupDriver": info.cgroup_driver, "CgroupVersion": info.cgroup_version, "KernelVersion": info.kernel_version,
        "OperatingSystem": info.operating_system, "OSType": info.os_type, "Architecture": info.architecture,
        "NCPU": info.cpus, "MemTotal": info.memory_total, "DockerRootDir": info.data_dir, "Labels": info.labels,
        "ExperimentalBuild": false, "ServerVersion": info.server_version, "DefaultRuntime": info.default_runtime,
        "Runtimes": paths, "LiveRestoreEnabled": info.live_restore, "InitBinary": info.init_binary,
        "DefaultAddressPools": info.default_address_pools, "SecurityOptions": info.security_options,
        "Warnings": info.warnings, "RegistryConfig": registries(info),
        "IndexServerAddress": crate::credentials::HUB,
        "Swarm": {
            "LocalNodeState": swarm_state(swarm), "NodeID": swarm.node_id, "NodeAddr": swarm.node_addr,
            "Error": swarm.error, "ControlAvailable": is_manager(swarm), "Managers": swarm.managers, "Nodes": swarm.nodes,
            "RemoteManagers": swarm.remote_managers, "Cluster": { "ID": swarm.cluster_id },
        },
    });
    let mut all = serde_json::Map::new();
    for part in [engine, host] {
        if let Value::Object(fields) = part {
            all.extend(fields);
        }
    }
    Value::Object(all)
}

/// Docker's `Swarm.Cluster`, as far as there is of it.
fn cluster_json(cluster: &Cluster) -> Value {
    let spec = cluster.spec.clone().unwrap_or_default();
    let annotations = spec.annotations.unwrap_or_default();
    let meta = cluster.meta.unwrap_or_default();
    json!({
        "ID": cluster.id,
        "Version": { "Index": meta.version },
        "CreatedAt": human::rfc3339(meta.created_at), "UpdatedAt": human::rfc3339(meta.updated_at),
        "Spec": {
            "Name": annotations.name, "Labels": annotations.labels,
            "Orchestration": { "TaskHistoryRetentionLimit": task_history(cluster) },
            "Raft": { "SnapshotInterval": snapshot_interval(cluster), "KeepOldSnapshots": spec.old_snapshots },
            "Dispatcher": { "HeartbeatPeriod": heartbeat(cluster) },
            "CAConfig": { "NodeCertExpiry": node_cert_expiry(cluster) },
            "TaskDefaults": {},
            "EncryptionConfig": { "AutoLockManagers": spec.autolock_managers },
        },
        "TLSInfo": tls_json(cluster.tls_info.as_ref()),
        "RootRotationInProgress": in_rotation(cluster),
        "DataPathPort": data_path_port(cluster),
        "DefaultAddrPool": address_pools(cluster),
        "SubnetSize": subnet_size(cluster),
    })
}

fn in_rotation(cluster: &Cluster) -> bool {
    cluster
        .root_ca
        .as_ref()
        .is_some_and(|root| root.rotation.is_some())
}

/// Ended tasks that are kept a slot.
fn task_history(cluster: &Cluster) -> u32 {
    let spec = cluster.spec.as_ref();
    spec.and_then(|spec| spec.task_history_limit).unwrap_or(5)
}

/// UDP port of VXLAN.
fn data_path_port(cluster: &Cluster) -> u32 {
    let wish = cluster.spec.as_ref().map_or(0, |spec| spec.data_path_port);
    if wish > 0 { wish } else { 4789 }
}

/// Where overlays' subnets are cut from.
fn address_pools(cluster: &Cluster) -> Vec<String> {
    let wish = cluster
        .spec
        .as_ref()
        .map(|spec| spec.default_address_pool.clone());
    wish.filter(|pools| !pools.is_empty())
        .unwrap_or_else(|| vec!["10.0.0.0/8".to_owned()])
}

/// Prefix length of such a subnet.
fn subnet_size(cluster: &Cluster) -> u32 {
    let wish = cluster.spec.as_ref().map_or(0, |spec| spec.subnet_size);
    if wish > 0 { wish } else { 24 }
}

/// Entries of the log after which a manager takes a snapshot.
fn snapshot_interval(cluster: &Cluster) -> u64 {
    let wish = cluster.spec.as_ref().map_or(0, |spec| spec.snapshot_interval);
    if wish > 0 { wish } else { 10_000 }
}

/// The agents' heartbeat in nanoseconds.
fn heartbeat(cluster: &Cluster) -> i64 {
    let wish = cluster.spec.as_ref().map_or(0, |spec| spec.heartbeat_period);
    if wish > 0 { wish } else { 1_000_000_000 }
}

/// Lifetime of node certificates in nanoseconds.
fn node_cert_expiry(cluster: &Cluster) -> i64 {
    const DEFAULT: i64 = 90 * 24 * 3600 * 1_000_000_000;
    let wish = cluster.spec.as_ref().map_or(0, |spec| spec.node_cert_expiry);
    if wish > 0 { wish } else { DEFAULT }
}

/// Docker's `RegistryConfig`.
fn registries(info: &InfoResponse) -> Value {
    let is_net = |entry: &&String| entry.contains('/');
    let nets: Vec<&String> = info.insecure_registries.iter().filter(is_net).collect();
    let hosts = info.insecure_registries.iter().filter(|entry| !is_net(entry));
    let mut indexes = serde_json::Map::new();
    indexes.insert(
        "docker.io".to_owned(),
        json!({ "Name": "docker.io", "Mirrors": info.registry_mirrors, "Secure": true, "Official": true }),
    );
    for host in hosts {
        let entry = json!({ "Name": host, "Mirrors": [], "Secure": false, "Official": false });
        indexes.insert(host.clone(), entry);
    }
    json!({ "IndexConfigs": indexes, "InsecureRegistryCIDRs": nets, "Mirrors": info.registry_mirrors })
}

/// Docker's page. Each part adds its lines.
fn info_text(info: &InfoResponse, swarm: &SwarmStatus, cluster: Option<&Cluster>) -> String {
    let mut page = Page(format!(
        "Client: Pontoon\n Version:    {}\n\nServer:\n",
        env!("CARGO_PKG_VERSION")
    ));
    engine_lines(&mut page, info);
    swarm_lines(&mut page, swarm, cluster);
    host_lines(&mut page, info);
    page.0
}

/// Lines of `name: value`, indented.
struct Page(String);

impl Page {
    fn line(&mut self, indent: usize, name: &str, value: impl std::fmt::Display) {
        self.0
            .push_str(&format!("{}{name}: {value}\n", " ".repeat(indent)));
    }

    fn heading(&mut self, indent: usize, name: &str) {
        self.0.push_str(&format!("{}{name}\n", " ".repeat(indent)));
    }
}

fn engine_lines(page: &mut Page, info: &InfoResponse) {
    page.line(1, "Containers", info.containers);
    page.line(2, "Running", info.containers_running);
    page.line(2, "Paused", info.containers_paused);
    page.line(2, "Stopped", info.containers_stopped);
    page.line(1, "Images", info.images);
    page.line(1, "Server Version", &info.server_version);
    page.line(1, "Storage Driver", &info.storage_driver);
    for status in &info.driver_status {
        page.heading(2, status);
    }
    page.line(1, "Logging Driver", &info.logging_driver);
    page.line(1, "Cgroup Driver", &info.cgroup_driver);
    page.line(1, "Cgroup Version", &info.cgroup_version);
    page.heading(1, "Plugins:");
    page.line(2, "Volume", info.volume_drivers.join(" "));
    page.line(2, "Network", info.network_drivers.join(" "));
    page.line(2, "Log", info.log_drivers.join(" "));
}

fn swarm_lines(page: &mut Page, swarm: &SwarmStatus, cluster: Option<&Cluster>) {
    page.line(1, "Swarm", swarm_state(swarm));
    if matches!(swarm.state(), LocalNodeState::Inactive | LocalNodeState::Locked) {
        return;
    }
    page.line(2, "NodeID", &swarm.node_id);
    if !swarm.error.is_empty() {
        page.line(2, "Error", &swarm.error);
    }
    page.line(2, "Is Manager", is_manager(swarm));
    if is_manager(swarm) {
        page.line(2, "ClusterID", &swarm.cluster_id);
        page.line(2, "Managers", swarm.managers);
        page.line(2, "Nodes", swarm.nodes);
    }
    if let Some(cluster) = cluster {
        let spec = cluster.spec.clone().unwrap_or_default();
        page.line(2, "Default Address Pool", address_pools(cluster).join("  "));
        page.line(2, "SubnetSize", subnet_size(cluster));
        page.line(2, "Data Path Port", data_path_port(cluster));
        page.heading(2, "Orchestration:");
        page.line(3, "Task History Retention Limit", task_history(cluster));
        page.heading(2, "Raft:");
        page.line(3, "Snapshot Interval", snapshot_interval(cluster));
        page.line(3, "Number of Old Snapshots to Retain", spec.old_snapshots);
        page.heading(2, "Dispatcher:");
        page.line(3, "Heartbeat Period", human::duration(heartbeat(cluster)));
        page.heading(2, "CA Configuration:");
        page.line(3, "Expiry Duration", human::duration(node_cert_expiry(cluster)));
        page.line(2, "Autolock Managers", spec.autolock_managers);
        page.line(2, "Root Rotation In Progress", in_rotation(cluster));
    }
    page.line(2, "Node Address", &swarm.node_addr);
    if !swarm.remote_managers.is_empty() {
        page.heading(2, "Manager Addresses:");
        for address in &swarm.remote_managers {
            page.heading(3, address);
        }
    }
}

fn host_lines(page: &mut Page, info: &InfoResponse) {
    page.line(1, "Runtimes", info.runtimes.join(" "));
    page.line(1, "Default Runtime", &info.default_runtime);
    page.line(1, "Init Binary", &info.init_binary);
    page.heading(1, "Security Options:");
    for option in &info.security_options {
        // "name=seccomp,profile=builtin": the name, and below it the rest.
        let mut words = option.split(',');
        page.heading(
            2,
            words.next().map_or("", |name| name.trim_start_matches("name=")),
        );
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (first, rest) = key.split_at(key.len().min(1));
            page.line(3, &format!("{}{rest}", first.to_uppercase()), value);
        }
    }
    page.line(1, "Kernel Version", &info.kernel_version);
    page.line(1, "Operating System", &info.operating_system);
    page.line(1, "OSType", &info.os_type);
    page.line(1, "Architecture", &info.architecture);
    page.line(1, "CPUs", info.cpus);
    page.line(1, "Total Memory", human::binary_size(info.memory_total));
    page.line(1, "Name", &info.name);
    page.line(1, "ID", &info.id);
    page.line(1, "Data Dir", &info.data_dir);
    page.line(1, "Run Dir", &info.run_dir);
    page.line(1, "Debug Mode", info.debug);
    if info.debug {
        page.line(2, "File Descriptors", info.file_descriptors);
        page.line(2, "System Time", human::local_rfc3339(info.system_time));
        page.line(2, "EventsListeners", info.event_listeners);
    }
    if !info.labels.is_empty() {
        page.heading(1, "Labels:");
        for label in &info.labels {
            page.heading(2, label);
        }
    }
    page.line(1, "Experimental", false);
    page.heading(1, "Insecure Registries:");
    for registry in &info.insecure_registries {
        page.heading(2, registry);
    }
    if !info.registry_mirrors.is_empty() {
        page.heading(1, "Registry Mirrors:");
        for mirror in &info.registry_mirrors {
            page.heading(2, mirror);
        }
    }
    page.line(1, "Live Restore Enabled", info.live_restore);
    if !info.default_address_pools.is_empty() {
        page.heading(1, "Default Address Pools:");
        for pool in &info.default_address_pools {
            page.heading(3, pool);
        }
    }
}
