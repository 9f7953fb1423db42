//! The daemon's flags about what holds for containers that say nothing: limits, namespaces, privileges. Part of
//! [`Arguments`](super::Arguments); checked here, carried out by the engine.

use std::path::PathBuf;

use clap::Args;
use pontoon_engine::ContainerDefaults;
use pontoon_proto::v1::Ulimit;

use crate::command::container::options::values;
use crate::error::Failure;
use crate::output::human;

/// Defaults for containers.
#[derive(Args, Debug)]
pub struct ContainerArguments {
    /// Default mode for containers cgroup namespace ("host" | "private")
    #[arg(
        long,
        value_name = "string",
        env = "PONTOON_DEFAULT_CGROUPNS_MODE",
        default_value = "",
        hide_env = true,
        hide_default_value = true
    )]
    default_cgroupns_mode: String,
    /// Default mode for containers ipc ("shareable" | "private")
    #[arg(
        long,
        value_name = "string",
        env = "PONTOON_DEFAULT_IPC_MODE",
        default_value = "private",
        hide_env = true
    )]
    default_ipc_mode: String,
    /// Default shm size for containers
    #[arg(long, value_name = "bytes", env = "PONTOON_DEFAULT_SHM_SIZE", hide_env = true, value_parser = human::parse_size)]
    default_shm_size: Option<i64>,
    /// Default ulimits for containers
    #[arg(long, value_name = "ulimit", env = "PONTOON_DEFAULT_ULIMIT", hide_env = true, value_delimiter = ',', value_parser = values::ulimit)]
    default_ulimit: Vec<Ulimit>,
    /// Run an init in the container to forward signals and reap processes
    #[arg(long, env = "PONTOON_INIT", hide_env = true, value_name = "bool", default_value_t = false, num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, hide_default_value = true)]
    init: bool,
    /// Set no-new-privileges by default for new containers
    #[arg(long, env = "PONTOON_NO_NEW_PRIVILEGES", hide_env = true, value_name = "bool", default_value_t = false, num_args = 0..=1)]
    #[arg(require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, hide_default_value = true)]
    no_new_privileges: bool,
    /// Path to seccomp profile. Set to "unconfined" to disable the default seccomp profile
    #[arg(
        long,
        value_name = "string",
        env = "PONTOON_SECCOMP_PROFILE",
        default_value = "builtin",
        hide_env = true
    )]
    seccomp_profile: String,
    /// User/Group setting for user namespaces ("default", or user[:group])
    #[arg(
        long,
        value_name = "string",
        env = "PONTOON_USERNS_REMAP",
        default_value = "",
        hide_env = true,
        hide_default_value = true
    )]
    userns_remap: String,
}

/// What holds for containers that say nothing, and whose ids they get.
#[derive(Clone, Debug)]
pub struct Containers {
    /// The engine's defaults.
    pub defaults: ContainerDefaults,
    /// `default` or `USER[:GROUP]`; empty: the host's users.
    pub userns_remap: String,
}

impl Containers {
    /// Checks the flags, and reads the profile.
    ///
    /// # Errors
    /// Names the flag that is no good, and why.
    pub fn new(arguments: ContainerArguments) -> Result<Self, Failure> {
        let cgroupns = arguments.default_cgroupns_mode;
        if !matches!(cgroupns.as_str(), "" | "host" | "private") {
            return Err(Failure::new(format!(
                "default cgroup namespace mode ({cgroupns}) is invalid, use \"host\" or \"private\""
            )));
        }
        let ipc = arguments.default_ipc_mode;
        if !matches!(ipc.as_str(), "private" | "shareable") {
            return Err(Failure::new(format!(
                "IPC \"{ipc}\" is not a valid default, use \"private\" or \"shareable\""
            )));
        }
        let mut defaults = ContainerDefaults::default();
        defaults.ulimits = arguments.default_ulimit;
        defaults.ipc_mode = ipc;
        defaults.cgroupns_mode = cgroupns;
        defaults.init = arguments.init;
        defaults.no_new_privileges = arguments.no_new_privileges;
        if let Some(size) = arguments.default_shm_size.filter(|&size| size > 0) {
            defaults.shm_size = size;
        }
        let profile = match arguments.seccomp_profile.as_str() {
            word @ ("" | "builtin" | "unconfined") => word.to_owned(),
            path => std::fs::read_to_string(PathBuf::from(path))
                .map_err(|error| Failure::new(format!("opening seccomp profile ({path}) failed: {error}")))?,
        };
        defaults.set_seccomp(&profile).map_err(|error| {
            Failure::new(format!(
                "--seccomp-profile {}: {error}",
                arguments.seccomp_profile
            ))
        })?;
        Ok(Self {
            defaults,
            userns_remap: arguments.userns_remap,
        })
    }
}
