//! Limits of a container in the OCI's form. Called by `spec::build`.

use std::os::unix::fs::MetadataExt;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxPids, LinuxResources,
    LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder,
};
use pontoon_proto::v1::{BlockDeviceLimit, HostConfig};

use super::devices::go_error;
use crate::{Error, Result};

/// Period of the CPU quota that `--cpus` becomes, microseconds.
const CPU_PERIOD: u64 = 100_000;

/// The limits, with the rules of the device controller.
pub(super) fn build(host: &HostConfig, devices: Vec<LinuxDeviceCgroup>) -> Result<LinuxResources> {
    let mut resources = LinuxResources::default();
    let limits = host.resources.unwrap_or_default();
    resources.set_devices(Some(devices));
    if let Some(memory) = memory(host, limits.memory_bytes) {
        resources.set_memory(Some(memory));
    }
    if let Some(cpu) = cpu(host, limits.nano_cpus) {
        resources.set_cpu(Some(cpu));
    }
    if limits.pids != 0 {
        let mut pids = LinuxPids::default();
        pids.set_limit(limits.pids);
        resources.set_pids(Some(pids));
    }
    resources.set_block_io(block_io(host)?);
    Ok(resources)
}

fn memory(host: &HostConfig, limit: i64) -> Option<LinuxMemory> {
    let mut memory = LinuxMemory::default();
    if limit > 0 {
        let swap = if host.memory_swap == 0 {
            limit.saturating_mul(2)
        } else {
            host.memory_swap
        };
        memory.set_limit(Some(limit)).set_swap(Some(swap));
    }
    if host.memory_reservation > 0 {
        memory.set_reservation(Some(host.memory_reservation));
    }
    if let Some(swappiness) = host.memory_swappiness {
        memory.set_swappiness(u64::try_from(swappiness).ok());
    }
    if host.oom_kill_disable {
        memory.set_disable_oom_killer(Some(true));
    }
    (memory != LinuxMemory::default()).then_some(memory)
}

fn cpu(host: &HostConfig, nano_cpus: i64) -> Option<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    if nano_cpus > 0 {
        let quota = nano_cpus.saturating_mul(100_000) / 1_000_000_000;
        cpu.set_period(Some(CPU_PERIOD)).set_quota(Some(quota));
    }
    if host.cpu_period > 0 {
        cpu.set_period(Some(host.cpu_period.unsigned_abs()));
    }
    if host.cpu_quota != 0 {
        cpu.set_quota(Some(host.cpu_quota));
    }
    if host.cpu_shares > 0 {
        cpu.set_shares(Some(host.cpu_shares));
    }
    if host.cpu_rt_period > 0 {
        cpu.set_realtime_period(Some(host.cpu_rt_period.unsigned_abs()));
    }
    if host.cpu_rt_runtime != 0 {
        cpu.set_realtime_runtime(Some(host.cpu_rt_runtime));
    }
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    cpu.set_cpus(given(&host.cpuset_cpus))
        .set_mems(given(&host.cpuset_mems));
    (cpu != LinuxCpu::default()).then_some(cpu)
}

/// Weights and rates of block devices; the devices are looked up by their paths.
fn block_io(host: &HostConfig) -> Result<Option<LinuxBlockIo>> {
    let mut block = LinuxBlockIo::default();
    if host.blkio_weight > 0 {
        block.set_weight(u16::try_from(host.blkio_weight).ok());
    }
    let weights = host
        .blkio_weight_device
        .iter()
        .map(|device| {
            let (major, minor) = numbers(device)?;
            let weight = u16::try_from(device.value).unwrap_or(u16::MAX);
            LinuxWeightDeviceBuilder::default()
                .major(major)
                .minor(minor)
                .weight(weight)
                .build()
                .map_err(|error| Error::Invalid(error.to_string()))
        })
        .collect::<Result<Vec<_>>>()?;
    if !weights.is_empty() {
        block.set_weight_device(Some(weights));
    }
    let rates = |limits: &[BlockDeviceLimit]| {
        let rates = limits
            .iter()
            .map(|device| {
                let (major, minor) = numbers(device)?;
                LinuxThrottleDeviceBuilder::default()
                    .major(major)
                    .minor(minor)
                    .rate(device.value)
                    .build()
                    .map_err(|error| Error::Invalid(error.to_string()))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok::<_, Error>((!rates.is_empty()).then_some(rates))
    };
    block
        .set_throttle_read_bps_device(rates(&host.device_read_bps)?)
        .set_throttle_write_bps_device(rates(&host.device_write_bps)?)
        .set_throttle_read_iops_device(rates(&host.device_read_iops)?)
        .set_throttle_write_iops_device(rates(&host.device_write_iops)?);
    Ok((block != LinuxBlockIo::default()).then_some(block))
}

fn numbers(device: &BlockDeviceLimit) -> Result<(i64, i64)> {
    let number = std::fs::metadata(&device.path)
        .map_err(|error| Error::Invalid(format!("stat {}: {}", device.path, go_error(&error))))?
        .rdev();
    Ok((
        i64::from(rustix::fs::major(number)),
        i64::from(rustix::fs::minor(number)),
    ))
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::Resources;

    use super::*;

    #[test]
    fn cpus_become_a_quota_and_memory_twice_its_swap() {
        let host = HostConfig {
            resources: Some(Resources {
                nano_cpus: 1_500_000_000,
                memory_bytes: 64 << 20,
                pids: 7,
            }),
            ..HostConfig::default()
        };
        let built = build(&host, Vec::new()).unwrap();
        let cpu = built.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
        let memory = built.memory().as_ref().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), Some(128 << 20)));
        assert_eq!(built.pids().as_ref().unwrap().limit(), 7);
        assert!(built.block_io().is_none());
    }

    #[test]
    fn every_other_limit_is_carried_over() {
        let rate = |value| {
            vec![BlockDeviceLimit {
                path: "/dev/null".to_owned(),
                value,
            }]
        };
        let host = HostConfig {
            memory_swappiness: Some(0),
            oom_kill_disable: true,
            cpu_rt_period: 1000,
            cpu_rt_runtime: 500,
            blkio_weight: 300,
            blkio_weight_device: rate(400),
            device_read_bps: rate(1),
            device_write_bps: rate(2),
            device_read_iops: rate(3),
            device_write_iops: rate(4),
            ..HostConfig::default()
        };
        let built = build(&host, Vec::new()).unwrap();
        let memory = built.memory().as_ref().unwrap();
        assert_eq!(
            (memory.swappiness(), memory.disable_oom_killer()),
            (Some(0), Some(true))
        );
        let cpu = built.cpu().as_ref().unwrap();
        assert_eq!(
            (cpu.realtime_period(), cpu.realtime_runtime()),
            (Some(1000), Some(500))
        );
        let block = built.block_io().as_ref().unwrap();
        assert_eq!(block.weight(), Some(300));
        let weight = &block.weight_device().as_ref().unwrap()[0];
        assert_eq!(
            (weight.major(), weight.minor(), weight.weight()),
            (1, 3, Some(400))
        );
        let rates: Vec<u64> = [
            block.throttle_read_bps_device(),
            block.throttle_write_bps_device(),
            block.throttle_read_iops_device(),
            block.throttle_write_iops_device(),
        ]
        .into_iter()
        .flatten()
        .flatten()
        .map(|device| device.rate())
        .collect();
        assert_eq!(rates, [1, 2, 3, 4]);
        let missing = HostConfig {
            device_read_bps: vec![BlockDeviceLimit {
                path: "/dev/surely-not".to_owned(),
                value: 1,
            }],
            ..HostConfig::default()
        };
        let error = build(&missing, Vec::new()).unwrap_err().to_string();
        assert_eq!(error, "stat /dev/surely-not: no such file or directory");
    }
}
