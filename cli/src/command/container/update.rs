//! `update`: other limits and another restart policy for containers that exist.

use std::cell::RefCell;

use clap::Args;
use pontoon_proto::v1::UpdateContainerRequest;

use super::config;
use super::options::values;
use crate::client::Client;
use crate::error::{Failure, Outcome, for_each_target};
use crate::output::human;

/// `update [OPTIONS] CONTAINER [CONTAINER...]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)
    #[arg(long, value_name = "uint16", value_parser = values::unsigned16)]
    blkio_weight: Option<u16>,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "int", value_parser = values::integer)]
    cpu_period: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "int", value_parser = values::integer)]
    cpu_quota: Option<i64>,
    /// Limit the CPU real-time period in microseconds
    #[arg(long, value_name = "int", value_parser = values::integer)]
    cpu_rt_period: Option<i64>,
    /// Limit the CPU real-time runtime in microseconds
    #[arg(long, value_name = "int", value_parser = values::integer)]
    cpu_rt_runtime: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(short = 'c', long, value_name = "int", value_parser = values::integer)]
    cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long, value_name = "decimal", value_parser = values::cpus)]
    cpus: Option<i64>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    cpuset_mems: Option<String>,
    /// Kernel memory limit: refused, with what to do instead
    #[arg(long, hide = true, value_name = "bytes")]
    kernel_memory: Option<String>,
    /// Memory limit
    #[arg(short = 'm', long, value_name = "bytes", value_parser = human::parse_size)]
    memory: Option<i64>,
    /// Memory soft limit
    #[arg(long, value_name = "bytes", value_parser = human::parse_size)]
    memory_reservation: Option<i64>,
    /// Swap limit equal to memory plus swap: -1 to enable unlimited swap
    #[arg(long, value_name = "bytes", value_parser = swap)]
    memory_swap: Option<i64>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, value_name = "int", value_parser = values::integer)]
    pids_limit: Option<i64>,
    /// Restart policy to apply when a container exits
    #[arg(long, value_name = "string")]
    restart: Option<String>,
    /// Containers, by name or id
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// A size, or -1: no limit.
fn swap(text: &str) -> Result<i64, String> {
    if text == "-1" {
        Ok(-1)
    } else {
        human::parse_size(text)
    }
}

/// Runs `update`.
///
/// # Errors
/// No flag at all, a bad value, or the daemon's, one line a container.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let request = request(&arguments)?;
    let client = Client::connect(host).await?;
    let warnings = RefCell::new(Vec::new());
    let outcome = for_each_target(&arguments.containers, |target| {
        let (client, mut request) = (client.clone(), request.clone());
        let told = &warnings;
        async move {
            request.target.clone_from(&target);
            let answer = client.engine().update_container(request).await?.into_inner();
            told.borrow_mut().extend(answer.warnings);
            Ok(target)
        }
    })
    .await;
    for warning in warnings.into_inner() {
        eprintln!("{warning}");
    }
    outcome
}

fn request(arguments: &Arguments) -> Result<UpdateContainerRequest, Failure> {
    if arguments.kernel_memory.is_some() {
        return Err(Failure::new(
            "--kernel-memory is not supported: kernels have no such limit any more, --memory counts the kernel's memory too",
        ));
    }
    let cpu_shares = arguments.cpu_shares.map(|shares| {
        u64::try_from(shares).map_err(|_| {
            Failure::new(format!(
                "invalid CPU shares ({shares}): value must be a positive integer"
            ))
        })
    });
    let request = UpdateContainerRequest {
        target: String::new(),
        nano_cpus: arguments.cpus,
        memory_bytes: arguments.memory,
        memory_reservation: arguments.memory_reservation,
        memory_swap: arguments.memory_swap,
        pids_limit: arguments.pids_limit,
        cpu_shares: cpu_shares.transpose()?,
        cpu_period: arguments.cpu_period,
        cpu_quota: arguments.cpu_quota,
        cpu_rt_period: arguments.cpu_rt_period,
        cpu_rt_runtime: arguments.cpu_rt_runtime,
        cpuset_cpus: arguments.cpuset_cpus.clone(),
        cpuset_mems: arguments.cpuset_mems.clone(),
        blkio_weight: arguments.blkio_weight.map(u32::from),
        restart_policy: arguments
            .restart
            .as_deref()
            .filter(|text| !text.is_empty())
            .map(config::restart_policy)
            .transpose()?,
    };
    if request == UpdateContainerRequest::default() && arguments.restart.is_none() {
        return Err(Failure::new(
            "you must provide one or more flags when using this command",
        ));
    }
    Ok(request)
}
