//! Checks of a container's limits, with Docker's texts (moby `verifyPlatformContainerResources`). What this kernel can't do is
//! [`super::kernel`]'s. Called by `create` and, for new limits, by `update`.

use std::ops::RangeInclusive;
use std::path::Path;

use pontoon_proto::v1::HostConfig;

use super::invalid;
use crate::Result;

/// Least memory limit that a container can start with.
const MINIMUM_MEMORY: i64 = 6 << 20;

/// Refuses limits that can't be, or that contradict each other.
pub(crate) fn check(host: &HostConfig) -> Result<()> {
    memory(host)?;
    cpu(host)?;
    available("cpus", "CPUs", "cpu/online", &host.cpuset_cpus)?;
    available("mems", "memory nodes", "node/online", &host.cpuset_mems)?;
    block_io(host)
}

fn memory(host: &HostConfig) -> Result<()> {
    let memory = host.resources.unwrap_or_default().memory_bytes;
    if memory != 0 && memory < MINIMUM_MEMORY {
        return Err(invalid("Minimum memory limit allowed is 6MB"));
    }
    if memory > 0 && host.memory_swap > 0 && host.memory_swap < memory {
        return Err(invalid(
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ));
    }
    if memory == 0 && host.memory_swap > 0 {
        return Err(invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ));
    }
    if let Some(swappiness) = host.memory_swappiness.filter(|value| !(0..=100).contains(value)) {
        return Err(invalid(format!(
            "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
        )));
    }
    let reservation = host.memory_reservation;
    if reservation < 0 || (reservation > 0 && reservation < MINIMUM_MEMORY) {
        return Err(invalid("Minimum memory reservation allowed is 6MB"));
    }
    if memory > 0 && reservation > memory {
        return Err(invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ));
    }
    Ok(())
}

fn cpu(host: &HostConfig) -> Result<()> {
    let nano_cpus = host.resources.unwrap_or_default().nano_cpus;
    if nano_cpus > 0 && host.cpu_period > 0 {
        return Err(invalid(
            "Conflicting options: Nano CPUs and CPU Period cannot both be set",
        ));
    }
    if nano_cpus > 0 && host.cpu_quota > 0 {
        return Err(invalid(
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
        ));
    }
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let most = i64::try_from(cpus)
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000_000);
    // Below a hundredth of a CPU the kernel would refuse the quota.
    if nano_cpus != 0 && !(10_000_000..=most).contains(&nano_cpus) {
        return Err(invalid(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    if host.cpu_period != 0 && !(1_000..=1_000_000).contains(&host.cpu_period) {
        return Err(invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1_000 {
        return Err(invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    if host.cpu_rt_period != 0 && host.cpu_rt_runtime > host.cpu_rt_period {
        return Err(invalid(
            "cpu real-time runtime cannot be higher than cpu real-time period",
        ));
    }
    if host.cpu_rt_period < 0 {
        return Err(invalid("cpu real-time period cannot be negative"));
    }
    Ok(())
}

fn block_io(host: &HostConfig) -> Result<()> {
    let is_weight = |weight: u64| weight == 0 || (10..=1000).contains(&weight);
    if !is_weight(host.blkio_weight.into()) {
        return Err(invalid("Range of blkio weight is from 10 to 1000"));
    }
    match host
        .blkio_weight_device
        .iter()
        .find(|device| !is_weight(device.value))
    {
        Some(device) => Err(invalid(format!(
            "invalid weight for device: {}:{}",
            device.path, device.value
        ))),
        None => Ok(()),
    }
}

/// Checks a cpuset list against what the kernel has, told by a file below `/sys/devices/system`.
fn available(kind: &str, what: &str, file: &str, wanted: &str) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let numbers = cpuset(wanted).ok_or_else(|| {
        invalid(format!(
            "Invalid value {wanted} for cpuset {kind}: use a list such as 0-2,4"
        ))
    })?;
    // A kernel without the file has no choice to check against; its own answer comes at the start.
    let Ok(online) = std::fs::read_to_string(Path::new("/sys/devices/system").join(file)) else {
        return Ok(());
    };
    let online = online.trim();
    let has = cpuset(online).unwrap_or_default();
    let within = |wanted: &RangeInclusive<u32>| {
        has.iter()
            .any(|r| r.contains(wanted.start()) && r.contains(wanted.end()))
    };
    if numbers.iter().all(within) {
        Ok(())
    } else {
        Err(invalid(format!(
            "Requested {what} are not available - requested {wanted}, available: {online}"
        )))
    }
}

/// Reads the kernel's list format, cpuset(7): `0-2,4`.
fn cpuset(text: &str) -> Option<Vec<RangeInclusive<u32>>> {
    text.split(',')
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = first.trim().parse().ok()?..=last.trim().parse().ok()?;
            (!range.is_empty()).then_some(range)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::{BlockDeviceLimit, Resources};

    use super::*;

    #[test]
    fn cpusets_are_checked() {
        assert_eq!(cpuset("0-2,4"), Some(vec![0..=2, 4..=4]));
        for bad in ["x", "1-", "3-1", "0,,1", "-1"] {
            assert_eq!(cpuset(bad), None, "{bad}");
        }
        assert!(available("cpus", "CPUs", "cpu/online", "0").is_ok());
        let error = available("cpus", "CPUs", "cpu/online", "0,70000").unwrap_err();
        assert!(
            error.to_string().contains("requested 0,70000, available: 0"),
            "{error}"
        );
    }

    #[test]
    fn limits_are_refused_with_dockers_words() {
        type Change = fn(&mut HostConfig, &mut Resources);
        let cases: &[(&str, Change)] = &[
            ("Minimum memory limit allowed is 6MB", |_, r| {
                r.memory_bytes = 4 << 20
            }),
            ("Minimum memory limit allowed is 6MB", |_, r| r.memory_bytes = -1),
            ("Minimum memory reservation allowed is 6MB", |h, _| {
                h.memory_reservation = 1 << 20;
            }),
            ("Minimum memoryswap limit should be larger", |h, r| {
                (h.memory_swap, r.memory_bytes) = (7 << 20, 8 << 20);
            }),
            ("You should always set the Memory limit", |h, _| {
                h.memory_swap = 8 << 20
            }),
            (
                "Minimum memory limit can not be less than memory reservation",
                |h, r| {
                    (h.memory_reservation, r.memory_bytes) = (9 << 20, 8 << 20);
                },
            ),
            ("Invalid value: 101, valid memory swappiness", |h, _| {
                h.memory_swappiness = Some(101);
            }),
            ("range of CPUs is from 0.01 to", |_, r| {
                r.nano_cpus = 1_000_000_000_000
            }),
            ("range of CPUs is from 0.01 to", |_, r| r.nano_cpus = -1),
            ("Conflicting options: Nano CPUs and CPU Period", |h, r| {
                (h.cpu_period, r.nano_cpus) = (10_000, 500_000_000);
            }),
            ("Conflicting options: Nano CPUs and CPU Quota", |h, r| {
                (h.cpu_quota, r.nano_cpus) = (10_000, 500_000_000);
            }),
            ("CPU cfs period can not be less", |h, _| h.cpu_period = 999),
            ("CPU cfs quota can not be less", |h, _| h.cpu_quota = 999),
            ("cpu real-time runtime cannot be higher", |h, _| {
                (h.cpu_rt_period, h.cpu_rt_runtime) = (1000, 1001);
            }),
            ("Range of blkio weight is from 10 to 1000", |h, _| {
                h.blkio_weight = 9
            }),
            ("invalid weight for device: /dev/x:9", |h, _| {
                h.blkio_weight_device = vec![BlockDeviceLimit {
                    path: "/dev/x".into(),
                    value: 9,
                }];
            }),
        ];
        for (text, change) in cases {
            let (mut host, mut resources) = (HostConfig::default(), Resources::default());
            change(&mut host, &mut resources);
            host.resources = Some(resources);
            let error = check(&host).expect_err(text).to_string();
            assert!(error.starts_with(text), "{error}");
        }
        assert!(check(&HostConfig::default()).is_ok());
    }
}
