//! The settings after an update, or Docker's words for why they don't go together. Pure.

use pontoon_proto::v1::{HostConfig, Resources, RestartPolicyName, UpdateContainerRequest};

use crate::Result;

/// The settings after the update, or why they don't go together.
pub(super) fn merged(before: &HostConfig, request: &UpdateContainerRequest) -> Result<HostConfig, String> {
    let mut after = before.clone();
    let mut limits = after.resources.unwrap_or_default();
    let set = |value: Option<i64>| value.filter(|&value| value != 0);
    let conflict = |what: &str, other: &str| {
        Err(format!(
            "Conflicting options: {what} cannot be updated as {other} has already been set"
        ))
    };
    if let Some(cpus) = set(request.nano_cpus) {
        if after.cpu_period > 0 {
            return conflict("Nano CPUs", "CPU Period");
        }
        if after.cpu_quota > 0 {
            return conflict("Nano CPUs", "CPU Quota");
        }
        limits.nano_cpus = cpus;
    }
    if let Some(period) = set(request.cpu_period) {
        if limits.nano_cpus > 0 {
            return conflict("CPU Period", "NanoCPUs");
        }
        after.cpu_period = period;
    }
    if let Some(quota) = set(request.cpu_quota) {
        if limits.nano_cpus > 0 {
            return conflict("CPU Quota", "NanoCPUs");
        }
        after.cpu_quota = quota;
    }
    memory(&mut after, &mut limits, request)?;
    if let Some(pids) = request.pids_limit {
        limits.pids = pids.max(0);
    }
    if let Some(shares) = request.cpu_shares.filter(|&shares| shares != 0) {
        after.cpu_shares = shares;
    }
    after.cpu_rt_period = set(request.cpu_rt_period).unwrap_or(after.cpu_rt_period);
    after.cpu_rt_runtime = set(request.cpu_rt_runtime).unwrap_or(after.cpu_rt_runtime);
    if let Some(weight) = request.blkio_weight.filter(|&weight| weight != 0) {
        after.blkio_weight = weight;
    }
    for (own, wanted) in [
        (&mut after.cpuset_cpus, &request.cpuset_cpus),
        (&mut after.cpuset_mems, &request.cpuset_mems),
    ] {
        if let Some(wanted) = wanted.as_ref().filter(|text| !text.is_empty()) {
            own.clone_from(wanted);
        }
    }
    if let Some(policy) = request.restart_policy {
        if after.auto_remove && policy.name() != RestartPolicyName::No {
            return Err(
                "Restart policy cannot be updated because AutoRemove is enabled for the container".to_owned(),
            );
        }
        after.restart_policy = Some(policy);
    }
    after.resources = Some(limits);
    Ok(after)
}

fn memory(
    after: &mut HostConfig,
    limits: &mut Resources,
    request: &UpdateContainerRequest,
) -> Result<(), String> {
    let set = |value: Option<i64>| value.filter(|&value| value != 0);
    let wanted_swap = set(request.memory_swap);
    if let Some(memory) = set(request.memory_bytes) {
        // What a container has that was made with a memory limit alone.
        let swap = match after.memory_swap {
            0 => limits.memory_bytes.saturating_mul(2),
            swap => swap,
        };
        if memory > swap && wanted_swap.is_none() {
            return Err(
                "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same \
                 time"
                    .to_owned(),
            );
        }
        // From now on the swap limit is a number of its own.
        after.memory_swap = swap;
        limits.memory_bytes = memory;
    }
    if let Some(swap) = wanted_swap {
        if limits.memory_bytes == 0 {
            return Err(
                "You should always set the Memory limit when using Memoryswap limit, see usage".to_owned(),
            );
        }
        if swap > 0 && swap < limits.memory_bytes {
            return Err("Minimum memoryswap limit should be larger than memory limit, see usage".to_owned());
        }
        after.memory_swap = swap;
    }
    if let Some(reservation) = set(request.memory_reservation) {
        if limits.memory_bytes > 0 && reservation > limits.memory_bytes {
            return Err(
                "Minimum memory limit can not be less than memory reservation limit, see usage".to_owned(),
            );
        }
        after.memory_reservation = reservation;
    }
    Ok(())
}
