//! What an update writes into a running container's cgroup. Pure.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use pontoon_proto::v1::{HostConfig, UpdateContainerRequest};

/// Period of the CPU quota that `--cpus` becomes, microseconds.
const CPU_PERIOD: u64 = 100_000;

/// What is written into the cgroup: the limits that the request names, with the values of `host`. Memory and swap go
/// together, because the kernel checks each against the other and version 2 counts swap alone.
pub(super) fn changes(request: &UpdateContainerRequest, host: &HostConfig) -> Option<LinuxResources> {
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
