//! The flags that describe a service, in Docker's names: `create` has them as they are, `update` beside `-add` and `-rm` pairs.

use clap::{Args, ValueEnum};
use pontoon_proto::v1::{DisconnectPolicy, disconnect_policy::Action};

use super::refused::Refused;
use crate::error::Failure;
use crate::output::human;

/// Flags of a service's task template and modes that `create` and `update` share.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct ServiceOptions {
    #[command(flatten)]
    pub refused: Refused,
    /// Add Linux capabilities
    #[arg(long, value_name = "list")]
    pub cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "list")]
    pub cap_drop: Vec<String>,
    /// Exit immediately instead of waiting for the service to converge
    #[arg(short = 'd', long)]
    pub detach: bool,
    /// Time between leaving VIP, DNS and published ports and the stop signal (ns|us|ms|s|m|h) (default 1s)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    pub drain_period: Option<i64>,
    /// Endpoint mode (vip or dnsrr) (default "vip")
    #[arg(long, value_name = "string", value_enum)]
    pub endpoint_mode: Option<EndpointModeFlag>,
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long, value_name = "command")]
    pub entrypoint: Option<String>,
    /// Command to run to check health
    #[arg(long, value_name = "string")]
    pub health_cmd: Option<String>,
    /// Time between running the check (ms|s|m|h)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    pub health_interval: Option<i64>,
    /// Consecutive failures needed to report unhealthy
    #[arg(long, value_name = "int")]
    pub health_retries: Option<u32>,
    /// Time between running the check during the start period (ms|s|m|h)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    pub health_start_interval: Option<i64>,
    /// Start period for the container to initialize before counting retries towards unstable (ms|s|m|h)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    pub health_start_period: Option<i64>,
    /// Maximum time to allow one check to run (ms|s|m|h)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    pub health_timeout: Option<i64>,
    /// Container hostname
    #[arg(long, value_name = "string")]
    pub hostname: Option<String>,
    /// Use an init inside each service container to forward signals and reap processes
    #[arg(long, value_name = "bool", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub init: Option<bool>,
    /// Limit CPUs
    #[arg(long, value_name = "decimal", value_parser = human::parse_cpus)]
    pub limit_cpu: Option<i64>,
    /// Limit Memory
    #[arg(long, value_name = "bytes", value_parser = human::parse_size)]
    pub limit_memory: Option<i64>,
    /// Limit maximum number of processes (default 0 = unlimited)
    #[arg(long, value_name = "int")]
    pub limit_pids: Option<i64>,
    /// Logging driver for service
    #[arg(long, value_name = "string")]
    pub log_driver: Option<String>,
    /// Logging driver options
    #[arg(long, value_name = "list")]
    pub log_opt: Vec<String>,
    /// Number of job tasks to run concurrently (default equal to --replicas)
    #[arg(long, value_name = "uint")]
    pub max_concurrent: Option<u64>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long)]
    pub no_healthcheck: bool,
    /// Do not query the registry to resolve image digest and supported platforms
    #[arg(long)]
    pub no_resolve_image: bool,
    /// What becomes of tasks whose node is down ("replace", "keep", "replace:<duration>", "keep:<duration>") (default "replace")
    #[arg(long, value_name = "string", value_parser = on_disconnect)]
    pub on_disconnect: Option<DisconnectPolicy>,
    /// Suppress progress output
    #[arg(short = 'q', long)]
    pub quiet: bool,
    /// Mount the container's root filesystem as read only
    #[arg(long, value_name = "bool", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub read_only: Option<bool>,
    /// Number of tasks
    #[arg(long, value_name = "uint")]
    pub replicas: Option<u64>,
    /// Maximum number of tasks per node (default 0 = unlimited)
    #[arg(long, value_name = "uint")]
    pub replicas_max_per_node: Option<u64>,
    /// Reserve CPUs
    #[arg(long, value_name = "decimal", value_parser = human::parse_cpus)]
    pub reserve_cpu: Option<i64>,
    /// Reserve Memory
    #[arg(long, value_name = "bytes", value_parser = human::parse_size)]
    pub reserve_memory: Option<i64>,
    /// Restart when condition is met ("none", "on-failure", "any") (default "any")
    #[arg(long, value_name = "string", value_enum)]
    pub restart_condition: Option<RestartConditionFlag>,
    /// Delay between restart attempts (ns|us|ms|s|m|h) (default 5s)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    pub restart_delay: Option<i64>,
    /// Maximum number of restarts before giving up
    #[arg(long, value_name = "uint")]
    pub restart_max_attempts: Option<u64>,
    /// Longest delay between restart attempts: it doubles with each end in a row up to that (ns|us|ms|s|m|h) (default: it stays as it is)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    pub restart_max_delay: Option<i64>,
    /// Window used to evaluate the restart policy (ns|us|ms|s|m|h)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    pub restart_window: Option<i64>,
    /// Delay between task rollbacks (ns|us|ms|s|m|h) (default 0s)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    pub rollback_delay: Option<i64>,
    /// Action on rollback failure ("pause", "continue") (default "pause")
    #[arg(long, value_name = "string", value_enum)]
    pub rollback_failure_action: Option<FailureActionFlag>,
    /// Failure rate to tolerate during a rollback (default 0)
    #[arg(long, value_name = "float", value_parser = ratio)]
    pub rollback_max_failure_ratio: Option<f32>,
    /// Duration after each task rollback to monitor for failure (ns|us|ms|s|m|h) (default 5s)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    pub rollback_monitor: Option<i64>,
    /// Rollback order ("start-first", "stop-first") (default "stop-first")
    #[arg(long, value_name = "string", value_enum)]
    pub rollback_order: Option<OrderFlag>,
    /// Maximum number of tasks rolled back simultaneously (0 to roll back all at once) (default 1)
    #[arg(long, value_name = "uint")]
    pub rollback_parallelism: Option<u64>,
    /// Time to wait before force killing a container (ns|us|ms|s|m|h) (default 10s)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    pub stop_grace_period: Option<i64>,
    /// Signal to stop the container
    #[arg(long, value_name = "string")]
    pub stop_signal: Option<String>,
    /// Allocate a pseudo-TTY
    #[arg(short = 't', long, value_name = "bool", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub tty: Option<bool>,
    /// Delay between updates (ns|us|ms|s|m|h) (default 0s)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    pub update_delay: Option<i64>,
    /// Action on update failure ("pause", "continue", "rollback") (default "pause")
    #[arg(long, value_name = "string", value_enum)]
    pub update_failure_action: Option<FailureActionFlag>,
    /// Failure rate to tolerate during an update (default 0)
    #[arg(long, value_name = "float", value_parser = ratio)]
    pub update_max_failure_ratio: Option<f32>,
    /// Duration after each task update to monitor for failure (ns|us|ms|s|m|h) (default 5s)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    pub update_monitor: Option<i64>,
    /// Update order ("start-first", "stop-first") (default "stop-first")
    #[arg(long, value_name = "string", value_enum)]
    pub update_order: Option<OrderFlag>,
    /// Maximum number of tasks updated simultaneously (0 to update all at once) (default 1)
    #[arg(long, value_name = "uint")]
    pub update_parallelism: Option<u64>,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short = 'u', long, value_name = "string")]
    pub user: Option<String>,
    /// Send registry authentication details to swarm agents
    #[arg(long)]
    pub with_registry_auth: bool,
    /// Working directory inside the container
    #[arg(short = 'w', long, value_name = "string")]
    pub workdir: Option<String>,
}

impl ServiceOptions {
    /// Refuses flags of Docker's that are not supported.
    ///
    /// # Errors
    /// Names the flag.
    pub fn check(&self) -> Result<(), Failure> {
        self.refused.check()
    }
}

/// What becomes of tasks whose node is down: `replace` or `keep`, and after a colon how long they are waited for first.
///
/// # Errors
/// A message that quotes the text.
pub fn on_disconnect(text: &str) -> Result<DisconnectPolicy, String> {
    let (action, grace) = match text.split_once(':') {
        Some((action, grace)) => (action, Some(human::parse_duration(grace)?)),
        None => (text, None),
    };
    let action = match action {
        "replace" => Action::Replace,
        "keep" => Action::Keep,
        _ => {
            return Err(format!(
                "invalid policy {text:?}: use replace or keep, alone or with a time as in keep:10m"
            ));
        }
    };
    Ok(DisconnectPolicy {
        action: action.into(),
        grace,
    })
}

fn ratio(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err(format!("invalid ratio {text:?}: use a number from 0 to 1")),
    }
}

/// `vip` or `dnsrr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EndpointModeFlag {
    /// One virtual address.
    Vip,
    /// The tasks' addresses in turn.
    Dnsrr,
}

/// When a task is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RestartConditionFlag {
    /// Never.
    None,
    /// When it failed.
    OnFailure,
    /// Always.
    Any,
}

/// What a failed update leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailureActionFlag {
    /// Stop there.
    Pause,
    /// Go on.
    Continue,
    /// Go back.
    Rollback,
}

/// Which task of a slot goes first in an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OrderFlag {
    /// The new one starts before the old one stops.
    StartFirst,
    /// The old one stops before the new one starts.
    StopFirst,
}
