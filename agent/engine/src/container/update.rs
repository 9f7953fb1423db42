//! `update`: new limits and another restart policy for a container, running or not (moby `daemon/update.go`). A running
//! container's cgroup is changed first, so that a limit which the kernel refuses is not recorded.

use std::sync::Arc;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use pontoon_proto::v1::{
    ContainerRestartPolicy, ContainerState, HostConfig, Resources, RestartPolicyName, UpdateContainerRequest,
    UpdateContainerResponse,
};

use super::record::has_process;
use super::{Container, validate};
use crate::event::ContainerEventKind;
use crate::{Engine, Error, Result};

/// Period of the CPU quota that `--cpus` becomes, microseconds.
const CPU_PERIOD: u64 = 100_000;

impl Engine {
    /// Changes limits and the restart policy. What the request leaves out, or has as 0 (but for the limit on
    /// processes), stays as it is.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad value, [`Error::Conflict`] for one that does not go with what is set already, or the
    /// kernel's refusal; nothing is changed then.
    pub async fn update(
        self: &Arc<Self>,
        mut request: UpdateContainerRequest,
    ) -> Result<UpdateContainerResponse> {
        let warnings = check(&mut request)?;
        let container = self.containers.find(&request.target)?;
        let engine = self.clone();
        self.whole(async move { engine.update_now(&container, &request).await })
            .await?;
        Ok(UpdateContainerResponse { warnings })
    }

    async fn update_now(
        self: &Arc<Self>,
        container: &Arc<Container>,
        request: &UpdateContainerRequest,
    ) -> Result<()> {
        let _operation = container.operation.lock().await;
        let state = container.state();
        if matches!(state, ContainerState::Removing | ContainerState::Dead) {
            return Err(cannot(
                container,
                "container is marked for removal and cannot be \"update\"",
            ));
        }
        let before = container.read(|record| record.host());
        let after = merged(&before, request).map_err(|reason| cannot(container, reason))?;
        if has_process(state) {
            let shim = container.shim()?;
            let failed = |error| Error::runtime(format!("Cannot update container {}", container.id), error);
            if let Some(resources) = changes(request, &after)
                && let Err(error) = shim.update(&resources).await
            {
                // Some of the limits may have been written before the one that was refused.
                if let Some(old) = changes(request, &before) {
                    drop(shim.update(&old).await);
                }
                return Err(failed(error));
            }
        }
        container.update(|record| record.view_mut().host = Some(after))?;
        self.emit(&container.id, ContainerEventKind::Updated);
        Ok(())
    }
}

fn cannot(container: &Container, reason: impl std::fmt::Display) -> Error {
    Error::Conflict(format!("Cannot update container {}: {reason}", container.id))
}

/// Refuses values that can't be, whatever the container has, and takes out what this kernel can't limit; gives warnings of that.
fn check(request: &mut UpdateContainerRequest) -> Result<Vec<String>> {
    let mut host = HostConfig {
        memory_reservation: request.memory_reservation.unwrap_or_default(),
        cpu_shares: request.cpu_shares.unwrap_or_default(),
        cpu_period: request.cpu_period.unwrap_or_default(),
        cpu_quota: request.cpu_quota.unwrap_or_default(),
        cpu_rt_period: request.cpu_rt_period.unwrap_or_default(),
        cpu_rt_runtime: request.cpu_rt_runtime.unwrap_or_default(),
        cpuset_cpus: request.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: request.cpuset_mems.clone().unwrap_or_default(),
        blkio_weight: request.blkio_weight.unwrap_or_default(),
        resources: Some(Resources {
            nano_cpus: request.nano_cpus.unwrap_or_default(),
            memory_bytes: request.memory_bytes.unwrap_or_default(),
            pids: request.pids_limit.unwrap_or_default(),
        }),
        ..HostConfig::default()
    };
    // A swap limit by itself is fine here: the container has its memory limit.
    if request.memory_bytes.unwrap_or_default() != 0 {
        host.memory_swap = request.memory_swap.unwrap_or_default();
    }
    validate::resources(&host)?;
    let mut warnings = Vec::new();
    let wanted = host.clone();
    validate::discard(&mut host, &mut warnings)?;
    if host.blkio_weight != wanted.blkio_weight {
        request.blkio_weight = None;
    }
    if host.cpu_shares != wanted.cpu_shares {
        request.cpu_shares = None;
    }
    if host.memory_reservation != wanted.memory_reservation {
        request.memory_reservation = None;
    }
    if (host.cpu_rt_period, host.cpu_rt_runtime) != (wanted.cpu_rt_period, wanted.cpu_rt_runtime) {
        (request.cpu_rt_period, request.cpu_rt_runtime) = (None, None);
    }
    match request.restart_policy {
        Some(policy) => check_policy(policy).map(|()| warnings),
        None => Ok(warnings),
    }
}

fn check_policy(policy: ContainerRestartPolicy) -> Result<()> {
    let name = match policy.name() {
        RestartPolicyName::OnFailure => return Ok(()),
        RestartPolicyName::No => "no",
        RestartPolicyName::Always => "always",
        RestartPolicyName::UnlessStopped => "unless-stopped",
    };
    if policy.maximum_retry_count == 0 {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "maximum retry count cannot be used with restart policy '{name}'"
    )))
}

/// The settings after the update, or why they don't go together.
fn merged(before: &HostConfig, request: &UpdateContainerRequest) -> Result<HostConfig, String> {
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

/// What is written into the cgroup: the limits that the request names, with the values of `host`. Memory and swap go
/// together, because the kernel checks each against the other and version 2 counts swap alone.
fn changes(request: &UpdateContainerRequest, host: &HostConfig) -> Option<LinuxResources> {
    let limits = host.resources.unwrap_or_default();
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    let mut any = false;
    if request.memory_bytes.is_some() || request.memory_swap.is_some() || request.memory_reservation.is_some()
    {
        let mut memory = LinuxMemory::default();
        if limits.memory_bytes > 0 {
            let swap = match host.memory_swap {
                0 => limits.memory_bytes.saturating_mul(2),
                swap => swap,
            };
            memory.set_limit(Some(limits.memory_bytes)).set_swap(Some(swap));
        } else {
            memory.set_limit(Some(-1)).set_swap(Some(-1));
        }
        if request.memory_reservation.is_some() && host.memory_reservation > 0 {
            memory.set_reservation(Some(host.memory_reservation));
        }
        resources.set_memory(Some(memory));
        any = true;
    }
    if let Some(cpu) = cpu(request, host, limits.nano_cpus) {
        resources.set_cpu(Some(cpu));
        any = true;
    }
    if request.pids_limit.is_some() {
        let mut pids = LinuxPids::default();
        pids.set_limit(if limits.pids > 0 { limits.pids } else { -1 });
        resources.set_pids(Some(pids));
        any = true;
    }
    if let Ok(weight) = u16::try_from(host.blkio_weight)
        && request.blkio_weight.is_some()
        && weight != 0
    {
        let mut block = LinuxBlockIo::default();
        block.set_weight(Some(weight));
        resources.set_block_io(Some(block));
        any = true;
    }
    any.then_some(resources)
}

fn cpu(request: &UpdateContainerRequest, host: &HostConfig, nano_cpus: i64) -> Option<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    let mut any = false;
    if request.nano_cpus.is_some() || request.cpu_period.is_some() || request.cpu_quota.is_some() {
        if nano_cpus > 0 {
            let quota = nano_cpus.saturating_mul(100_000) / 1_000_000_000;
            cpu.set_period(Some(CPU_PERIOD)).set_quota(Some(quota));
        } else {
            // Version 2 has both in one file, so both are said.
            let period = u64::try_from(host.cpu_period).unwrap_or_default();
            cpu.set_period(Some(if period == 0 { CPU_PERIOD } else { period }));
            cpu.set_quota(Some(if host.cpu_quota == 0 { -1 } else { host.cpu_quota }));
        }
        any = true;
    }
    if request.cpu_shares.is_some() && host.cpu_shares > 0 {
        cpu.set_shares(Some(host.cpu_shares));
        any = true;
    }
    if request.cpu_rt_period.is_some() && host.cpu_rt_period > 0 {
        cpu.set_realtime_period(Some(host.cpu_rt_period.unsigned_abs()));
        any = true;
    }
    if request.cpu_rt_runtime.is_some() && host.cpu_rt_runtime != 0 {
        cpu.set_realtime_runtime(Some(host.cpu_rt_runtime));
        any = true;
    }
    if request.cpuset_cpus.is_some() && !host.cpuset_cpus.is_empty() {
        cpu.set_cpus(Some(host.cpuset_cpus.clone()));
        any = true;
    }
    if request.cpuset_mems.is_some() && !host.cpuset_mems.is_empty() {
        cpu.set_mems(Some(host.cpuset_mems.clone()));
        any = true;
    }
    any.then_some(cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(memory: i64, swap: i64) -> HostConfig {
        HostConfig {
            memory_swap: swap,
            resources: Some(Resources {
                memory_bytes: memory,
                ..Resources::default()
            }),
            ..HostConfig::default()
        }
    }

    #[test]
    fn memory_and_swap_go_together() {
        let to = |memory| UpdateContainerRequest {
            memory_bytes: Some(memory),
            ..UpdateContainerRequest::default()
        };
        // Made with 64 MiB alone: 128 MiB with swap, which stays.
        let after = merged(&host(64 << 20, 0), &to(32 << 20)).unwrap();
        assert_eq!(
            (after.resources.unwrap().memory_bytes, after.memory_swap),
            (32 << 20, 128 << 20)
        );
        assert!(merged(&host(64 << 20, 0), &to(129 << 20)).is_err());
        assert!(
            merged(&host(0, 0), &to(64 << 20))
                .unwrap_err()
                .contains("memoryswap")
        );
        let both = UpdateContainerRequest {
            memory_swap: Some(-1),
            ..to(256 << 20)
        };
        let after = merged(&host(64 << 20, 0), &both).unwrap();
        assert_eq!(after.memory_swap, -1);
        let written = changes(&both, &after).unwrap();
        let memory = written.memory().as_ref().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(256 << 20), Some(-1)));
    }

    #[test]
    fn ways_to_limit_the_processor_exclude_each_other() {
        let with_cpus = HostConfig {
            resources: Some(Resources {
                nano_cpus: 500_000_000,
                ..Resources::default()
            }),
            ..HostConfig::default()
        };
        let quota = UpdateContainerRequest {
            cpu_quota: Some(20_000),
            ..UpdateContainerRequest::default()
        };
        assert_eq!(
            merged(&with_cpus, &quota).unwrap_err(),
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set"
        );
        let with_period = HostConfig {
            cpu_period: 50_000,
            ..HostConfig::default()
        };
        let after = merged(&with_period, &quota).unwrap();
        let written = changes(&quota, &after).unwrap();
        let cpu = written.cpu().as_ref().unwrap();
        assert_eq!((cpu.period(), cpu.quota()), (Some(50_000), Some(20_000)));
    }

    #[test]
    fn nothing_is_written_for_a_restart_policy() {
        let request = UpdateContainerRequest {
            restart_policy: Some(ContainerRestartPolicy {
                name: RestartPolicyName::Always.into(),
                maximum_retry_count: 0,
            }),
            ..UpdateContainerRequest::default()
        };
        assert!(changes(&request, &HostConfig::default()).is_none());
        let removed = HostConfig {
            auto_remove: true,
            ..HostConfig::default()
        };
        assert!(merged(&removed, &request).unwrap_err().contains("AutoRemove"));
    }
}
