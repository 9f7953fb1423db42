//! `version` and `info`.

use std::sync::Arc;

use pontoon_proto::v1::{ContainerState, InfoResponse, VersionResponse};

use crate::config::NATIVE_RUNTIME;
use crate::engine::blocking;
use crate::{Engine, Error, Result};

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
        Ok(InfoResponse {
            id: self.id.clone(),
            name: host_name(),
            containers: states.len() as u64,
            containers_running: running,
            containers_paused: paused,
            containers_stopped: states.len() as u64 - running - paused,
            images: images as u64,
            server_version: self.config.build.version.clone(),
            storage_driver: "overlay2".to_owned(),
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
            security_options: vec!["name=seccomp,profile=builtin".to_owned()],
            warnings: Vec::new(),
            ..InfoResponse::default()
        })
    }
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
