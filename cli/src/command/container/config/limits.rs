//! Limits of a container from its flags. Called by the request's builder.

use pontoon_proto::v1::{HostConfig, Resources};

use super::super::options::LimitOptions;
use crate::error::Failure;

/// Fills in what the flags say; what they don't say stays unset.
///
/// # Errors
/// A flag of other systems, or values that contradict each other.
pub(super) fn fill(host: &mut HostConfig, options: &LimitOptions) -> Result<(), Failure> {
    refuse(options)?;
    let swappiness = options.memory_swappiness.filter(|&value| value != -1);
    if let Some(value) = swappiness.filter(|value| !(0..=100).contains(value)) {
        return Err(Failure::new(format!(
            "invalid value: {value}. Valid memory swappiness range is 0-100"
        )));
    }
    host.resources = Some(Resources {
        nano_cpus: options.cpus.unwrap_or(0),
        memory_bytes: options.memory.unwrap_or(0),
        pids: options.pids_limit,
    });
    host.memory_reservation = options.memory_reservation.unwrap_or(0);
    host.memory_swap = options.memory_swap.unwrap_or(0);
    host.memory_swappiness = swappiness;
    host.cpu_shares = u64::try_from(options.cpu_shares).map_err(|_| {
        let shares = options.cpu_shares;
        Failure::new(format!(
            "invalid CPU shares ({shares}): value must be a positive integer"
        ))
    })?;
    host.cpu_period = options.cpu_period;
    host.cpu_quota = options.cpu_quota;
    host.cpu_rt_period = options.cpu_rt_period;
    host.cpu_rt_runtime = options.cpu_rt_runtime;
    host.cpuset_cpus.clone_from(&options.cpuset_cpus);
    host.cpuset_mems.clone_from(&options.cpuset_mems);
    host.blkio_weight = options.blkio_weight.into();
    host.blkio_weight_device.clone_from(&options.blkio_weight_device);
    host.device_read_bps.clone_from(&options.device_read_bps);
    host.device_write_bps.clone_from(&options.device_write_bps);
    host.device_read_iops.clone_from(&options.device_read_iops);
    host.device_write_iops.clone_from(&options.device_write_iops);
    host.oom_kill_disable = options.oom_kill_disable;
    host.oom_score_adj = i32::try_from(options.oom_score_adj).map_err(|_| {
        let score = options.oom_score_adj;
        Failure::new(format!(
            "Invalid value {score}, range for oom score adj is [-1000, 1000]"
        ))
    })?;
    host.shm_size = options.shm_size.unwrap_or(0);
    host.cgroup_parent.clone_from(&options.cgroup_parent);
    Ok(())
}

/// Flags that only other systems or older kernels have.
fn refuse(options: &LimitOptions) -> Result<(), Failure> {
    for (name, given) in [
        ("cpu-count", options.cpu_count.is_some()),
        ("cpu-percent", options.cpu_percent.is_some()),
        ("io-maxbandwidth", options.io_maxbandwidth.is_some()),
        ("io-maxiops", options.io_maxiops.is_some()),
    ] {
        if given {
            return Err(Failure::new(format!(
                "\"--{name}\" is only supported on a daemon running on windows, but the daemon is running on linux"
            )));
        }
    }
    if options.kernel_memory.is_some() {
        return Err(Failure::new(
            "\"--kernel-memory\" is not supported: kernel memory counts towards --memory",
        ));
    }
    Ok(())
}
