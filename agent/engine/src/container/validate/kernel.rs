//! What this host's kernel can limit, and which of a container's limits it can't: those are taken out with a warning in Docker's words
//! (moby `pkg/sysinfo` and `verifyPlatformContainerResources`). Called by `create`.

use std::path::{Path, PathBuf};

use pontoon_proto::v1::HostConfig;
use pontoon_runtime::cgroup::{Hierarchies, Version};

use super::invalid;
use crate::Result;

/// Looks up the files of one cgroup controller.
struct Kernel {
    version: Version,
    hierarchies: Hierarchies,
}

impl Kernel {
    fn detect() -> Option<Self> {
        let hierarchies = Hierarchies::detect().ok()?;
        Some(Self {
            version: hierarchies.version,
            hierarchies,
        })
    }

    fn directory(&self, controller: &str) -> Option<&Path> {
        self.hierarchies
            .mounts
            .iter()
            .find(|mount| match self.version {
                Version::V1 => mount.controllers.iter().any(|name| name == controller),
                Version::V2 => mount.unified,
            })
            .map(|mount| mount.mount.as_path())
    }

    /// Whether containers can have one of these files. The root has less than the groups below it: in version 1 one of them is
    /// asked too, in version 2 the controller's presence decides.
    fn has(&self, controller: &str, version_1: &[&str], in_version_2: bool) -> bool {
        let Some(root) = self.directory(controller) else {
            return false;
        };
        match self.version {
            Version::V1 => {
                let below = first_below(root);
                let places = [Some(root.to_owned()), below];
                places
                    .iter()
                    .flatten()
                    .any(|place| version_1.iter().any(|file| place.join(file).exists()))
            }
            Version::V2 => {
                let controllers =
                    std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
                in_version_2 && controllers.split_whitespace().any(|name| name == controller)
            }
        }
    }
}

fn first_below(root: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(root).ok()?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.is_dir())
}

/// Takes out what the kernel can't do; each with a warning.
pub(crate) fn discard(host: &mut HostConfig, warnings: &mut Vec<String>) -> Result<()> {
    let Some(kernel) = Kernel::detect() else {
        return Ok(());
    };
    memory(&kernel, host, warnings);
    cpu(&kernel, host, warnings)?;
    block_io(&kernel, host, warnings);
    let limits = host.resources.get_or_insert_default();
    if limits.pids > 0 && !kernel.has("pids", &["cgroup.procs"], true) {
        warnings.push(
            "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded."
                .to_owned(),
        );
        limits.pids = 0;
    }
    Ok(())
}

fn memory(kernel: &Kernel, host: &mut HostConfig, warnings: &mut Vec<String>) {
    let mut warn = |text: &str| warnings.push(text.to_owned());
    let limits = host.resources.get_or_insert_default();
    if limits.memory_bytes > 0 && !kernel.has("memory", &["memory.limit_in_bytes"], true) {
        warn(
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
        );
        limits.memory_bytes = 0;
        host.memory_swap = -1;
    }
    let swap = kernel.has("memory", &["memory.memsw.limit_in_bytes"], true);
    if limits.memory_bytes > 0 && host.memory_swap != -1 && !swap {
        warn(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
        );
        host.memory_swap = -1;
    }
    if host.memory_swappiness.is_some() && !kernel.has("memory", &["memory.swappiness"], false) {
        warn(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.",
        );
        host.memory_swappiness = None;
    }
    if host.memory_reservation > 0 && !kernel.has("memory", &["memory.soft_limit_in_bytes"], true) {
        warn(
            "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.",
        );
        host.memory_reservation = 0;
    }
    if host.oom_kill_disable && !kernel.has("memory", &["memory.oom_control"], false) {
        warn("Your kernel does not support OomKillDisable. OomKillDisable discarded.");
        host.oom_kill_disable = false;
    }
    if host.oom_kill_disable && limits.memory_bytes == 0 {
        warn(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.",
        );
    }
}

fn cpu(kernel: &Kernel, host: &mut HostConfig, warnings: &mut Vec<String>) -> Result<()> {
    let mut warn = |text: &str| warnings.push(text.to_owned());
    let quotas = kernel.has("cpu", &["cpu.cfs_quota_us"], true);
    if host.resources.get_or_insert_default().nano_cpus > 0 && !quotas {
        return Err(invalid(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        ));
    }
    if host.cpu_shares > 0 && !kernel.has("cpu", &["cpu.shares"], true) {
        warn("Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.");
        host.cpu_shares = 0;
    }
    if (host.cpu_period != 0 || host.cpu_quota != 0) && !quotas {
        warn("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.");
        (host.cpu_period, host.cpu_quota) = (0, 0);
    }
    let real_time = host.cpu_rt_period != 0 || host.cpu_rt_runtime != 0;
    if real_time && !kernel.has("cpu", &["cpu.rt_runtime_us"], false) {
        return Err(invalid("kernel does not support CPU real-time scheduler"));
    }
    let cpusets = !host.cpuset_cpus.is_empty() || !host.cpuset_mems.is_empty();
    if cpusets && !kernel.has("cpuset", &["cpuset.cpus"], true) {
        warn("Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.");
        host.cpuset_cpus.clear();
        host.cpuset_mems.clear();
    }
    Ok(())
}

fn block_io(kernel: &Kernel, host: &mut HostConfig, warnings: &mut Vec<String>) {
    let mut warn = |text: &str| warnings.push(text.to_owned());
    if host.blkio_weight > 0 && !kernel.has("blkio", &["blkio.weight"], false) && !io(kernel) {
        warn("Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.");
        host.blkio_weight = 0;
    }
    // BFQ's file is always there and works only for devices that it schedules: like Docker, don't count on it.
    let devices = ["blkio.weight_device"];
    if !host.blkio_weight_device.is_empty() && !kernel.has("blkio", &devices, false) {
        warn(
            "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.",
        );
        host.blkio_weight_device.clear();
    }
    for (list, file, kind, what) in [
        (
            &mut host.device_read_bps,
            "read_bps",
            "BPS Block I/O read",
            "BPS read",
        ),
        (
            &mut host.device_write_bps,
            "write_bps",
            "BPS Block I/O write",
            "BPS write",
        ),
        (
            &mut host.device_read_iops,
            "read_iops",
            "IOPS Block read",
            "IOPS read",
        ),
        (
            &mut host.device_write_iops,
            "write_iops",
            "IOPS Block write",
            "IOPS write",
        ),
    ] {
        let file = format!("blkio.throttle.{file}_device");
        if !list.is_empty() && !kernel.has("blkio", &[file.as_str()], false) && !io(kernel) {
            warnings.push(format!(
                "Your kernel does not support {kind} limit or the cgroup is not mounted. Block I/O {what} limit discarded."
            ));
            list.clear();
        }
    }
}

/// Version 2 has the controller under another name.
fn io(kernel: &Kernel) -> bool {
    kernel.has("io", &[], true)
}
