//! What the daemon tells the engine at its start: folders, runtimes, defaults. Built by `cli`'s daemon and by tests.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pontoon_proto::v1::LogDriver;

/// Name of the built-in runtime in `--runtime` and `default_runtime`.
pub const NATIVE_RUNTIME: &str = "pontoon";

/// Settings of an [`Engine`](crate::Engine). Nothing outside `data_dir`, `run_dir`, the cgroup parent and the network
/// namespace of the process is touched, so that several engines fit on one machine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Lasting state: `engine/containers/<id>/`, `image/`, `network/`.
    pub data_dir: PathBuf,
    /// State of this boot: `shim/<id>/`, network namespaces, sockets. Keep it short: a socket path has 107 bytes.
    pub run_dir: PathBuf,
    /// Absolute path below each cgroup hierarchy under which a container's group is made: `/pontoon`.
    pub cgroup_parent: String,
    /// Runtime of containers that name none: [`NATIVE_RUNTIME`] or a key of `runtimes`.
    pub default_runtime: String,
    /// Further OCI runtimes by name: `runc` → `/usr/sbin/runc`.
    pub runtimes: BTreeMap<String, PathBuf>,
    /// The program that is run as `<exe> shim …` and `<exe> netd …`; our own by default.
    pub exe: PathBuf,
    /// Log driver of containers that name none; default `json-file`.
    pub log: LogDriver,
    /// Labels of this engine, `key=value`, as `info` shows them.
    pub labels: Vec<String>,
    /// What `version` answers.
    pub build: BuildInfo,
    /// Name of the default bridge's interface.
    pub bridge: String,
    /// Name of the interface through which overlay containers reach the outside.
    pub gateway_bridge: String,
    /// UDP port of VXLAN.
    pub data_path_port: u16,
    /// Serve names at 127.0.0.11 in user-defined networks (starts `netd`).
    pub dns: bool,
    /// The host's resolver configuration, from which containers' are made.
    pub resolv_conf: PathBuf,
}

impl EngineConfig {
    /// The product's defaults below two folders.
    pub fn new(data_dir: impl Into<PathBuf>, run_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            run_dir: run_dir.into(),
            cgroup_parent: "/pontoon".to_owned(),
            default_runtime: NATIVE_RUNTIME.to_owned(),
            runtimes: BTreeMap::new(),
            exe: PathBuf::from("/proc/self/exe"),
            log: LogDriver {
                name: "json-file".to_owned(),
                ..LogDriver::default()
            },
            labels: Vec::new(),
            build: BuildInfo::default(),
            bridge: "pontoon0".to_owned(),
            gateway_bridge: "pontoon_gw".to_owned(),
            data_path_port: 4789,
            dns: true,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        }
    }
}

/// Where this binary came from.
#[derive(Clone, Debug)]
pub struct BuildInfo {
    /// Release: `0.1.0`.
    pub version: String,
    /// Commit, empty when unknown.
    pub git_commit: String,
    /// RFC 3339, empty when unknown.
    pub built_at: String,
}

impl Default for BuildInfo {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            git_commit: String::new(),
            built_at: String::new(),
        }
    }
}
