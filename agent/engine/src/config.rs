//! What the daemon tells the engine at its start: folders, runtimes, defaults. Built by `cli`'s daemon and by tests.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use pontoon_image::StorageOptions;
use pontoon_image::registry::RegistrySettings;
use pontoon_proto::v1::{GenericResource, LogDriver, Ulimit};

use crate::images::ImageGc;
use crate::spec::security::Seccomp;

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
    /// What this node offers services besides CPUs and memory.
    pub generic_resources: Vec<GenericResource>,
    /// Where systemd's journal takes entries, for the log driver `journald`.
    pub journal: PathBuf,
    /// What `version` answers.
    pub build: BuildInfo,
    /// Name of the default bridge's interface.
    pub bridge: String,
    /// Name of the interface through which overlay containers reach the outside.
    pub gateway_bridge: String,
    /// Serve names at 127.0.0.11 in user-defined networks (starts `netd`).
    pub dns: bool,
    /// The host's resolver configuration, from which containers' are made.
    pub resolv_conf: PathBuf,
    /// What holds for containers that say nothing about it.
    pub containers: ContainerDefaults,
    /// What holds for networks that say nothing about it, and the default bridge.
    pub networks: NetworkDefaults,
    /// Mirrors, insecure registries, certificates, how much at once.
    pub registries: RegistrySettings,
    /// Storage driver and its options.
    pub storage: StorageOptions,
    /// Remove unused images when the disk is full; none: never.
    pub image_gc: Option<ImageGc>,
    /// Run containers in user namespaces: "default", or `USER[:GROUP]` whose subordinate ids (subuid(5), subgid(5)) are used. Empty:
    /// containers have the host's users.
    pub userns_remap: String,
    /// This host is in a cluster, whose part is started later: containers in its networks wait for that.
    pub in_cluster: bool,
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
            generic_resources: Vec::new(),
            journal: PathBuf::from("/run/systemd/journal/socket"),
            build: BuildInfo::default(),
            bridge: "pontoon0".to_owned(),
            gateway_bridge: "pontoon_gw".to_owned(),
            dns: true,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            containers: ContainerDefaults::default(),
            networks: NetworkDefaults::default(),
            registries: RegistrySettings::default(),
            storage: StorageOptions::default(),
            image_gc: None,
            userns_remap: String::new(),
            in_cluster: false,
        }
    }
}

/// Settings of networks and of the default bridge; dockerd's.
#[derive(Clone, Debug, Default)]
pub struct NetworkDefaults {
    /// From where subnets are cut: bases with the length of each subnet; empty: Docker's.
    pub address_pools: Vec<(IpNet, u8)>,
    /// The default bridge's address and subnet.
    pub bip: Option<IpNet>,
    /// Part of it for containers.
    pub fixed_cidr: Option<IpNet>,
    /// IPv6 on the default bridge.
    pub ipv6: bool,
    /// Its IPv6 subnet; without one, a unique local one.
    pub fixed_cidr_v6: Option<IpNet>,
    /// MTU of the default bridge.
    pub mtu: Option<u32>,
    /// Further driver options of the default bridge.
    pub bridge_options: BTreeMap<String, String>,
    /// Address to which ports are published that name none.
    pub host_binding: Option<Ipv4Addr>,
    /// What `host-gateway` stands for; empty: the default bridge's addresses.
    pub host_gateway: Vec<IpAddr>,
    /// Resolvers of containers; empty: the host's.
    pub dns: Vec<IpAddr>,
    /// Search domains of containers.
    pub dns_search: Vec<String>,
    /// Resolver options of containers.
    pub dns_options: Vec<String>,
    /// Accept rules for our bridges are put in front of other firewalls' forward chains.
    pub firewall_accept: bool,
}

/// Settings of containers that don't set them.
#[derive(Clone, Debug)]
pub struct ContainerDefaults {
    /// Limits of names that a container does not set itself.
    pub ulimits: Vec<Ulimit>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: i64,
    /// "private" or "shareable".
    pub ipc_mode: String,
    /// "private" or "host"; empty: private where the kernel has unified cgroups only, as Docker.
    pub cgroupns_mode: String,
    /// Run a small init as pid 1.
    pub init: bool,
    /// No process can gain privileges by execve.
    pub no_new_privileges: bool,
    pub(crate) seccomp: Seccomp,
}

impl Default for ContainerDefaults {
    fn default() -> Self {
        Self {
            ulimits: Vec::new(),
            shm_size: 64 << 20,
            ipc_mode: "private".to_owned(),
            cgroupns_mode: String::new(),
            init: false,
            no_new_privileges: false,
            seccomp: Seccomp::Builtin,
        }
    }
}

impl ContainerDefaults {
    /// Sets the system call filter: "builtin", "unconfined", or a profile as JSON.
    ///
    /// # Errors
    /// A profile that can't be read.
    pub fn set_seccomp(&mut self, profile: &str) -> crate::Result<()> {
        self.seccomp = Seccomp::parse(profile);
        self.seccomp.check()
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
