//! `version` and `info`.

use std::collections::HashMap;
use std::sync::Arc;

use pontoon_proto::v1::{ContainerState, InfoResponse, PluginDescription, VersionResponse};

use crate::config::{ContainerDefaults, NATIVE_RUNTIME};
use crate::engine::blocking;
use crate::kernel_limits::{KernelLimits, is_on};
use crate::{Engine, Error, Result, id};

/// Kinds of networks that a container can be in.
const NETWORK_DRIVERS: [&str; 6] = ["bridge", "host", "ipvlan", "macvlan", "null", "overlay"];
/// What can make a volume.
const VOLUME_DRIVERS: [&str; 1] = ["local"];

/// The drivers that this engine has, as a node tells its managers: a task that needs another one is not placed here.
pub fn plugins() -> Vec<PluginDescription> {
    let kinds: [(&str, &[&str]); 3] = [
        ("Log", &crate::logs::DRIVERS),
        ("Network", &NETWORK_DRIVERS),
        ("Volume", &VOLUME_DRIVERS),
    ];
    let of_kind = |(kind, names): (&str, &[&str])| {
        let plugin = |name: &&str| PluginDescription {
            r#type: kind.to_owned(),
            name: (*name).to_owned(),
        };
        names.iter().map(plugin).collect::<Vec<_>>()
    };
    kinds.into_iter().flat_map(of_kind).collect()
}

/// This machine's architecture in Go's names.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Memory of this machine in bytes, 0 if unknown.
pub fn memory_total() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .unwrap_or_default();
    let kilobytes = line
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse::<i64>()
        .unwrap_or_default();
    kilobytes.saturating_mul(1024)
}

/// Processors that this process may use.
pub fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// This machine's host name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

impl Engine {
    /// Which build this is.
    pub fn version(&self) -> VersionResponse {
        let build = self.config.build.clone();
        VersionResponse {
            version: build.version,
            git_commit: build.git_commit,
            built_at: build.built_at,
            os: "linux".to_owned(),
            arch: architecture().to_owned(),
            kernel_version: kernel(),
            api_version: "v1".to_owned(),
        }
    }

    /// What this engine and its host have.
    ///
    /// # Errors
    /// The image store can't be read.
    pub async fn info(self: &Arc<Self>) -> Result<InfoResponse> {
        let images = self.images.clone();
        let images = blocking(move || images.list(&Default::default()).map_err(Error::Image))
            .await?
            .len();
        let states: Vec<ContainerState> = self.containers.all().iter().map(|c| c.state()).collect();
        let count =
            |test: fn(&ContainerState) -> bool| states.iter().filter(|state| test(state)).count() as u64;
        let running = count(|state| *state == ContainerState::Running);
        let paused = count(|state| *state == ContainerState::Paused);
        let mut runtimes: Vec<String> = self.config.runtimes.keys().cloned().collect();
        runtimes.push(NATIVE_RUNTIME.to_owned());
        runtimes.sort();
        let limits = KernelLimits::read();
        let mut runtime_paths: HashMap<String, String> = self
            .config
            .runtimes
            .iter()
            .map(|(name, path)| (name.clone(), path.display().to_string()))
            .collect();
        runtime_paths.insert(NATIVE_RUNTIME.to_owned(), NATIVE_RUNTIME.to_owned());
        Ok(InfoResponse {
            id: self.id.clone(),
            name: host_name(),
            containers: states.len() as u64,
            containers_running: running,
            containers_paused: paused,
            containers_stopped: states.len() as u64 - running - paused,
            images: images as u64,
            server_version: self.config.build.version.clone(),
            storage_driver: self.images.storage().0.to_owned(),
            logging_driver: self.config.log.name.clone(),
            cgroup_driver: "cgroupfs".to_owned(),
            cgroup_version: if has_unified_cgroups() { "2" } else { "1" }.to_owned(),
            kernel_version: kernel(),
            operating_system: operating_system(),
            os_type: "linux".to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            cpus: cpus(),
            memory_total: memory_total(),
            data_dir: self.config.data_dir.display().to_string(),
            run_dir: self.config.run_dir.display().to_string(),
            default_runtime: self.config.default_runtime.clone(),
            runtimes,
            runtime_paths,
            security_options: security_options(&self.config.containers, self.remap.is_some()),
            log_drivers: names(&crate::logs::DRIVERS),
            network_drivers: names(&NETWORK_DRIVERS),
            volume_drivers: names(&VOLUME_DRIVERS),
            generic_resources: self.generic_resources(),
            labels: self.labels(),
            init_binary: "docker-init".to_owned(),
            // Containers always outlive the daemon.
            live_restore: true,
            debug: tracing::enabled!(tracing::Level::DEBUG),
            file_descriptors: open_files(),
            system_time: id::now(),
            driver_status: self.driver_status(),
            event_listeners: self.event_log.watchers(),
            ipv4_forwarding: is_on("/proc/sys/net/ipv4/ip_forward"),
            memory_limit: limits.memory,
            swap_limit: limits.swap,
            cpu_cfs_quota: limits.cpu_quota,
            cpu_shares: limits.cpu_shares,
            cpu_set: limits.cpuset,
            pids_limit: limits.pids,
            oom_kill_disable: limits.oom_kill_disable,
            warnings: limits.warnings(),
            insecure_registries: self.registries.settings().shown_insecure(),
            registry_mirrors: self.registries.settings().shown_mirrors(),
            ..InfoResponse::default()
        })
    }

    /// What `info` says of the storage driver, in Docker's words.
    fn driver_status(&self) -> Vec<String> {
        let (_, status) = self.images.storage();
        status
            .into_iter()
            .map(|(key, value)| format!("{key}: {value}"))
            .collect()
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What confines containers here, in Docker's form.
fn security_options(defaults: &ContainerDefaults, remapped: bool) -> Vec<String> {
    let mut options = vec![format!("name=seccomp,profile={}", defaults.seccomp.name())];
    if crate::spec::security::has_apparmor() {
        options.insert(0, "name=apparmor".to_owned());
    }
    if remapped {
        options.push("name=userns".to_owned());
    }
    if defaults.no_new_privileges {
        options.push("name=no-new-privileges".to_owned());
    }
    options.push("name=cgroupns".to_owned());
    options
}

fn open_files() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64)
}

/// True if limits go through the unified hierarchy (cgroups(7), version 2).
pub(crate) fn has_unified_cgroups() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn operating_system() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}
