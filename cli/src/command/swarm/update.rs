//! `swarm update`: changes the cluster's settings.

use clap::Args;
use pontoon_proto::v1::{GetClusterRequest, UpdateClusterRequest};

use super::{ca, unlock};
use crate::cli;
use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::{human, listing};

/// `swarm update [OPTIONS]`
#[derive(Args, Debug)]
pub struct UpdateArguments {
    /// Change manager autolocking setting (true|false)
    #[arg(long, value_name = "bool", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, hide_possible_values = true)]
    autolock: Option<bool>,
    /// Validity period for node certificates (ns|us|ms|s|m|h) (default 2160h0m0s)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    cert_expiry: Option<i64>,
    /// Dispatcher heartbeat period (ns|us|ms|s|m|h) (default 1s)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    dispatcher_heartbeat: Option<i64>,
    /// Specifications of one or more certificate signing endpoints
    #[arg(long, value_name = "external-ca")]
    external_ca: Vec<String>,
    /// Number of additional Raft snapshots to retain
    #[arg(long, value_name = "uint")]
    max_snapshots: Option<u64>,
    /// Number of log entries between Raft snapshots (default 10000)
    #[arg(long, value_name = "uint")]
    snapshot_interval: Option<u64>,
    /// Task history retention limit (default 5)
    #[arg(long, value_name = "int")]
    task_history_limit: Option<u32>,
}

impl UpdateArguments {
    /// Prints the help when nothing is to be changed, as Docker does.
    ///
    /// # Errors
    /// A silent one then: there is no more to do.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let given = [
            self.autolock.is_some(),
            self.cert_expiry.is_some(),
            self.dispatcher_heartbeat.is_some(),
            !self.external_ca.is_empty(),
            self.max_snapshots.is_some(),
            self.snapshot_interval.is_some(),
            self.task_history_limit.is_some(),
        ];
        if !given.contains(&true) {
            cli::parse_from(["pontoon", "swarm", "update", "--help"].map(Into::into))?;
        }
        Ok(())
    }
}

/// Runs `swarm update`.
pub(super) async fn run(client: &Client, arguments: &UpdateArguments) -> Outcome {
    if !arguments.external_ca.is_empty() {
        return Err(Failure::new(ca::NO_EXTERNAL_CA));
    }
    let cluster = client
        .control()
        .get_cluster(GetClusterRequest {})
        .await?
        .into_inner();
    let mut spec = cluster.spec.unwrap_or_default();
    let was_locked = spec.autolock_managers;
    spec.autolock_managers = arguments.autolock.unwrap_or(was_locked);
    spec.node_cert_expiry = arguments.cert_expiry.unwrap_or(spec.node_cert_expiry);
    spec.heartbeat_period = arguments.dispatcher_heartbeat.unwrap_or(spec.heartbeat_period);
    spec.old_snapshots = arguments.max_snapshots.unwrap_or(spec.old_snapshots);
    spec.snapshot_interval = arguments.snapshot_interval.unwrap_or(spec.snapshot_interval);
    spec.task_history_limit = arguments.task_history_limit.or(spec.task_history_limit);
    let is_locked = spec.autolock_managers;
    let request = UpdateClusterRequest {
        version: cluster.meta.unwrap_or_default().version,
        spec: Some(spec),
    };
    client.control().update_cluster(request).await?;
    listing::write("Swarm updated.\n");
    if is_locked && !was_locked {
        unlock::explain(&unlock::fetch(client).await?);
    }
    Ok(0)
}
