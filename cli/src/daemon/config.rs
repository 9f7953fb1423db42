//! The daemon's flags, each also an environment variable, turned into settings and folders.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use clap::Args;
use pontoon_controller::ExternalStore;
use pontoon_engine::{ImageGc, NATIVE_RUNTIME, NetworkDefaults, RegistrySettings, validate_log_driver};
use pontoon_image::StorageOptions;
use pontoon_proto::v1::{GenericResource, LogDriver};
use tracing_subscriber::filter::LevelFilter;

use super::backups::Schedule;
use crate::error::Failure;
use crate::generic;

mod backups;
mod containers;
mod images;
mod network;
mod registries;
mod store;

pub use containers::{ContainerArguments, Containers};

/// A unix socket's path has at most this many bytes (unix(7): `sun_path` is 108 with its NUL).
const SOCKET_PATH_LIMIT: usize = 107;
/// The longest path below the run folder: `/shim/<64 hex digits>/shim.sock`.
const LONGEST_SOCKET: usize = "/shim/".len() + 64 + "/shim.sock".len();

/// `daemon [OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    network: network::NetworkArguments,
    #[command(flatten)]
    containers: ContainerArguments,
    #[command(flatten)]
    registries: registries::RegistryArguments,
    #[command(flatten)]
    images: images::ImageArguments,
    #[command(flatten)]
    backups: backups::BackupArguments,
    #[command(flatten)]
    store: store::StoreArguments,
    /// Absolute path below each cgroup hierarchy under which containers' groups are made
    #[arg(
        long,
        value_name = "path",
        env = "PONTOON_CGROUP_PARENT",
        default_value = "/pontoon",
        hide_env = true
    )]
    cgroup_parent: String,
    /// Settings file: TOML, or JSON as Docker's daemon.json; keys are flags' names (default /etc/pontoon/pontoon.toml)
    // Read by `file` before the flags are parsed.
    #[arg(long, value_name = "file", env = "PONTOON_CONFIG", hide_env = true)]
    config: Option<PathBuf>,
    /// Folder of lasting state
    #[arg(
        long,
        value_name = "path",
        env = "PONTOON_DATA_DIR",
        default_value = "/var/lib/pontoon",
        hide_env = true
    )]
    data_dir: PathBuf,
    /// Runtime of containers that name none
    #[arg(long, value_name = "string", env = "PONTOON_DEFAULT_RUNTIME", default_value = NATIVE_RUNTIME, hide_env = true)]
    default_runtime: String,
    /// Group that may use the local socket, if it exists
    #[arg(
        long,
        value_name = "string",
        env = "PONTOON_GROUP",
        default_value = "pontoon",
        hide_env = true
    )]
    group: String,
    /// Set key=value labels to the daemon
    #[arg(long = "label", value_name = "list")]
    labels: Vec<String>,
    /// Default driver for container logs
    #[arg(
        long,
        value_name = "string",
        env = "PONTOON_LOG_DRIVER",
        default_value = "json-file",
        hide_env = true
    )]
    log_driver: String,
    /// Logging level ("error", "warn", "info", "debug", "trace")
    #[arg(
        short = 'l',
        long,
        value_name = "string",
        env = "PONTOON_LOG_LEVEL",
        default_value = "info",
        hide_env = true
    )]
    log_level: LevelFilter,
    /// Default log driver options for containers
    #[arg(long = "log-opt", value_name = "map")]
    log_opts: Vec<String>,
    /// Advertise user-defined resource
    #[arg(long = "node-generic-resource", value_name = "list", value_parser = generic::pair)]
    generic_resources: Vec<String>,
    /// Folder of sockets and of state that ends with the machine
    #[arg(
        long,
        value_name = "path",
        env = "PONTOON_RUN_DIR",
        default_value = "/run/pontoon",
        hide_env = true
    )]
    run_dir: PathBuf,
    /// Further OCI runtimes (name=/path/to/binary)
    #[arg(long = "add-runtime", value_name = "runtime")]
    runtimes: Vec<String>,
    /// Storage driver to use ("overlay2", "btrfs", "vfs")
    #[arg(
        short = 's',
        long,
        value_name = "string",
        env = "PONTOON_STORAGE_DRIVER",
        default_value = "",
        hide_default_value = true,
        hide_env = true
    )]
    storage_driver: String,
    /// Storage driver options
    #[arg(long = "storage-opt", value_name = "list")]
    storage_opts: Vec<String>,
}

/// The daemon's settings.
#[derive(Debug)]
pub struct Config {
    /// Lasting state.
    pub data_dir: PathBuf,
    /// Sockets and state of this boot.
    pub run_dir: PathBuf,
    /// Below which containers' cgroups are made.
    pub cgroup_parent: String,
    /// Name of the runtime of containers that name none.
    pub default_runtime: String,
    /// External runtimes by name.
    pub runtimes: BTreeMap<String, PathBuf>,
    /// `key=value` labels of this engine.
    pub labels: Vec<String>,
    /// What this node offers services besides CPUs and memory.
    pub generic_resources: Vec<GenericResource>,
    /// Networks and the default bridge.
    pub networks: NetworkDefaults,
    /// Mirrors, insecure registries, certificates, how much at once.
    pub registries: RegistrySettings,
    /// Group of the local socket.
    pub group: String,
    /// What holds for containers that say nothing.
    pub containers: Containers,
    /// Log driver of containers that name none.
    pub log: LogDriver,
    /// Storage driver.
    pub storage: StorageOptions,
    /// When images go because the disk is full.
    pub image_gc: Option<ImageGc>,
    /// Backups of the cluster's state.
    pub backups: Option<Schedule>,
    /// Where a manager on this node keeps the cluster's state, if not itself.
    pub store: Option<ExternalStore>,
    log_level: LevelFilter,
}

impl Config {
    /// Checks the flags.
    ///
    /// # Errors
    /// Names the flag that is no good, and why.
    pub fn new(arguments: Arguments) -> Result<Self, Failure> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
        };
        let run_dir = absolute(&arguments.run_dir)?;
        let longest = run_dir.as_os_str().len() + LONGEST_SOCKET;
        if longest > SOCKET_PATH_LIMIT {
            return Err(Failure::new(format!(
                "--run-dir {} is too long: a container's socket below it would have {longest} bytes where {SOCKET_PATH_LIMIT} fit; \
                 use one of at most {} characters",
                run_dir.display(),
                SOCKET_PATH_LIMIT - LONGEST_SOCKET
            )));
        }
        let cgroup_parent = arguments.cgroup_parent.trim_end_matches('/').to_owned();
        if !cgroup_parent.starts_with('/') || cgroup_parent.split('/').any(|part| part == "..") {
            return Err(Failure::new(format!(
                "--cgroup-parent {:?} must be an absolute path other than / and without ..",
                arguments.cgroup_parent
            )));
        }
        let mut runtimes = default_runtimes();
        for text in &arguments.runtimes {
            let (name, path) = text
                .split_once('=')
                .filter(|(name, path)| !name.is_empty() && path.starts_with('/'))
                .ok_or_else(|| {
                    Failure::new(format!(
                        "invalid --add-runtime {text:?}: use name=/path/to/binary"
                    ))
                })?;
            runtimes.insert(name.to_owned(), PathBuf::from(path));
        }
        let storage = StorageOptions {
            driver: arguments.storage_driver,
            options: arguments.storage_opts,
            subvolumes: None,
        };
        storage
            .check()
            .map_err(|error| Failure::new(format!("--storage-driver: {error}")))?;
        Ok(Self {
            storage,
            store: arguments.store.settings()?,
            image_gc: arguments.images.settings()?,
            backups: arguments.backups.settings()?,
            data_dir: absolute(&arguments.data_dir)?,
            run_dir,
            cgroup_parent,
            default_runtime: arguments.default_runtime,
            runtimes,
            group: arguments.group,
            labels: labels(arguments.labels)?,
            generic_resources: generic::parse(&arguments.generic_resources)
                .map_err(|error| Failure::new(format!("--node-generic-resource: {error}")))?,
            networks: arguments.network.settings()?,
            registries: arguments.registries.settings()?,
            containers: Containers::new(arguments.containers)?,
            log: log_driver(arguments.log_driver, &arguments.log_opts)?,
            log_level: arguments.log_level,
        })
    }

    /// The logging level.
    pub fn log_level(&self) -> LevelFilter {
        self.log_level
    }

    /// The local gRPC socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("pontoon.sock")
    }

    /// Makes the folders, for root only; the run folder may be entered, so that the socket's own mode decides.
    ///
    /// # Errors
    /// When a folder can't be made.
    pub fn make_folders(&self) -> Result<(), Failure> {
        for (path, mode) in [(&self.data_dir, 0o700), (&self.run_dir, 0o711)] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(path)
                .map_err(|error| Failure::new(format!("create folder {}: {error}", path.display())))?;
        }
        Ok(())
    }
}

/// Checks labels; one given twice with different values is a mistake.
fn labels(given: Vec<String>) -> Result<Vec<String>, Failure> {
    let mut known: BTreeMap<&str, &str> = BTreeMap::new();
    for text in &given {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Failure::new(format!("bad attribute format: {text}: use --label key=value")))?;
        if known.insert(key, value).is_some_and(|before| before != value) {
            return Err(Failure::new(format!(
                "conflict labels for {key}: it is given twice"
            )));
        }
    }
    Ok(known
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect())
}

/// Checks the default log driver and its options, so that not every container fails later.
fn log_driver(name: String, options: &[String]) -> Result<LogDriver, Failure> {
    let mut log = LogDriver {
        name,
        ..LogDriver::default()
    };
    for text in options {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| Failure::new(format!("invalid --log-opt {text:?}: use key=value")))?;
        log.options.insert(key.to_owned(), value.to_owned());
    }
    validate_log_driver(&log)
        .map_err(|error| Failure::new(format!("failed to set log opts: {}", error.chain())))?;
    Ok(log)
}

/// runc and crun, where they are installed.
fn default_runtimes() -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for name in ["runc", "crun"] {
        let places = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
        if let Some(path) = places
            .iter()
            .map(|place| Path::new(place).join(name))
            .find(|path| path.is_file())
        {
            found.insert(name.to_owned(), path);
        }
    }
    found
}

/// Logs to stderr: the service manager keeps it. Returns what changes the level later.
pub fn start_logging(config: &Config) -> super::reload::SetLevel {
    use std::io::IsTerminal;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let (level, handle) = tracing_subscriber::reload::Layer::new(config.log_level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(level).with(lines).init();
    Box::new(move |level| {
        // It fails only when the subscriber is gone, and then nobody logs.
        let _ = handle.reload(level);
    })
}
