//! Limits of a container in the OCI's form, and the host devices of a privileged one.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{
    LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxPids, LinuxResources,
};
use pontoon_proto::v1::HostConfig;
use pontoon_runtime::defaults;

/// Period of the CPU quota that `--cpus` becomes, microseconds.
const CPU_PERIOD: u64 = 100_000;

/// The limits.
pub(super) fn build(host: &HostConfig) -> LinuxResources {
    let mut resources = LinuxResources::default();
    let limits = host.resources.unwrap_or_default();
    resources.set_devices(Some(if host.privileged {
        all_devices()
    } else {
        defaults::device_rules()
    }));
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
    resources
}

fn all_devices() -> Vec<LinuxDeviceCgroup> {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true)
        .set_typ(Some(LinuxDeviceType::A))
        .set_access(Some("rwm".to_owned()));
    vec![rule]
}

fn memory(host: &HostConfig, limit: i64) -> Option<LinuxMemory> {
    let mut memory = LinuxMemory::default();
    let mut any = false;
    if limit > 0 {
        let swap = if host.memory_swap == 0 {
            limit.saturating_mul(2)
        } else {
            host.memory_swap
        };
        memory.set_limit(Some(limit)).set_swap(Some(swap));
        any = true;
    }
    if host.memory_reservation > 0 {
        memory.set_reservation(Some(host.memory_reservation));
        any = true;
    }
    any.then_some(memory)
}

fn cpu(host: &HostConfig, nano_cpus: i64) -> Option<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    let mut any = false;
    if nano_cpus > 0 {
        let quota = nano_cpus.saturating_mul(100_000) / 1_000_000_000;
        cpu.set_period(Some(CPU_PERIOD)).set_quota(Some(quota));
        any = true;
    }
    if host.cpu_period > 0 {
        cpu.set_period(Some(host.cpu_period.unsigned_abs()));
        any = true;
    }
    if host.cpu_quota != 0 {
        cpu.set_quota(Some(host.cpu_quota));
        any = true;
    }
    if host.cpu_shares > 0 {
        cpu.set_shares(Some(host.cpu_shares));
        any = true;
    }
    for (text, set) in [
        (
            &host.cpuset_cpus,
            LinuxCpu::set_cpus as fn(&mut LinuxCpu, Option<String>) -> &mut LinuxCpu,
        ),
        (&host.cpuset_mems, LinuxCpu::set_mems),
    ] {
        if !text.is_empty() {
            set(&mut cpu, Some(text.clone()));
            any = true;
        }
    }
    any.then_some(cpu)
}

/// Every device node below `/dev`, for `--privileged`.
pub(super) fn host_devices() -> Vec<LinuxDevice> {
    let mut devices = Vec::new();
    collect(Path::new("/dev"), &mut devices);
    devices
}

fn collect(dir: &Path, devices: &mut Vec<LinuxDevice>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(metadata) = path.symlink_metadata() else {
            continue;
        };
        let kind = metadata.file_type();
        if kind.is_dir() {
            let skipped = matches!(
                entry.file_name().to_str(),
                None | Some("pts" | "shm" | "fd" | "mqueue" | ".lxc" | ".lxd-mounts" | ".udev")
            );
            if !skipped {
                collect(&path, devices);
            }
            continue;
        }
        let typ = if kind.is_char_device() {
            LinuxDeviceType::C
        } else if kind.is_block_device() {
            LinuxDeviceType::B
        } else {
            continue;
        };
        // The container has its own console and multiplexer.
        if matches!(path.to_str(), None | Some("/dev/console" | "/dev/ptmx")) {
            continue;
        }
        let number = metadata.rdev();
        let mut device = LinuxDevice::default();
        device
            .set_path(path)
            .set_typ(typ)
            .set_major(i64::from(rustix::fs::major(number)))
            .set_minor(i64::from(rustix::fs::minor(number)))
            .set_file_mode(Some(metadata.mode() & 0o7777))
            .set_uid(Some(metadata.uid()))
            .set_gid(Some(metadata.gid()));
        devices.push(device);
    }
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
        let built = build(&host);
        let cpu = built.cpu().as_ref().unwrap();
        assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
        let memory = built.memory().as_ref().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), Some(128 << 20)));
        assert_eq!(built.pids().as_ref().unwrap().limit(), 7);
    }
}
