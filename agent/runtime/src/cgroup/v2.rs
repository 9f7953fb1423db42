//! Limits in version 2's files. Called by [`super::Cgroup`]. Conversions from v1 values are the OCI spec's
//! (`config-linux.md`, and runc's and crun's common formulas).

use std::fs;
use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::{bpf, devices, read_file, write_file};
use crate::Error;
use crate::error::IoContext;

/// Controllers that containers use, as far as the host has them.
const CONTROLLERS: [&str; 7] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma"];

/// Makes all directories above `path` and switches the controllers on in each of them.
pub(super) fn make_parents(root: &Path, path: &Path) -> Result<(), Error> {
    let Some(parent) = path.parent().filter(|p| p.starts_with(root)) else {
        return Ok(());
    };
    make_parents(root, parent)?;
    match fs::create_dir(parent) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(e).context(|| format!("create cgroup {}", parent.display()));
        }
        _ => {}
    }
    let available = read_file(parent, "cgroup.controllers")?;
    let enabled = read_file(parent, "cgroup.subtree_control")?;
    let has = |list: &str, name: &str| list.split_whitespace().any(|c| c == name);
    for controller in CONTROLLERS {
        if has(&available, controller) && !has(&enabled, controller) {
            // One at a time: one that the host reserved must not keep the others off.
            let _ = write_file(parent, "cgroup.subtree_control", &format!("+{controller}"));
        }
    }
    Ok(())
}

pub(super) fn apply(
    directory: &Path,
    resources: &LinuxResources,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    if let Some(memory) = resources.memory() {
        apply_memory(directory, memory, warnings)?;
    }
    if let Some(cpu) = resources.cpu() {
        apply_cpu(directory, cpu, warnings)?;
    }
    if let Some(pids) = resources.pids().as_ref().filter(|p| p.limit() != 0) {
        let limit = if pids.limit() > 0 {
            pids.limit().to_string()
        } else {
            "max".to_owned()
        };
        write_or_warn(directory, "pids.max", &limit, warnings)?;
    }
    if let Some(block) = resources.block_io() {
        apply_block_io(directory, block, warnings)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let (file, value) = (
            format!("hugetlb.{}.max", limit.page_size()),
            limit.limit().to_string(),
        );
        write_or_warn(directory, &file, &value, warnings)?;
        let reserved = format!("hugetlb.{}.rsvd.max", limit.page_size());
        if directory.join(&reserved).exists() {
            write_file(directory, &reserved, &value)?;
        }
    }
    for (device, limit) in resources.rdma().iter().flatten() {
        write_or_warn(
            directory,
            "rdma.max",
            &super::v1::rdma_line(device, limit),
            warnings,
        )?;
    }
    if let Some(network) = resources.network()
        && (network.class_id().is_some_and(|c| c != 0)
            || network.priorities().as_ref().is_some_and(|p| !p.is_empty()))
    {
        warnings.push("network classes and priorities don't exist with cgroup v2".to_owned());
    }
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') || file.starts_with("cgroup.") {
            return Err(Error::InvalidSpec(format!(
                "unified resource {file} is not a limit"
            )));
        }
        write_file(directory, file, value)?;
    }
    if let Some(rules) = resources.devices() {
        bpf::attach(directory, &devices::program_v2(rules)?)?;
    }
    Ok(())
}

/// A limit whose controller the host lacks is a warning; one that the kernel refuses is an error.
fn write_or_warn(directory: &Path, file: &str, value: &str, warnings: &mut Vec<String>) -> Result<(), Error> {
    if directory.join(file).exists() {
        return write_file(directory, file, value);
    }
    warnings.push(format!(
        "{file} = {value} has no effect: the controller is not available on this host"
    ));
    Ok(())
}

fn apply_memory(directory: &Path, memory: &LinuxMemory, warnings: &mut Vec<String>) -> Result<(), Error> {
    let text = |value: i64| {
        if value < 0 {
            "max".to_owned()
        } else {
            value.to_string()
        }
    };
    let limit = memory.limit().filter(|&l| l != 0);
    if limit.is_some() && memory.check_before_update() == Some(true) {
        let usage = read_file(directory, "memory.current").unwrap_or_default();
        super::v1::check_usage(&usage, limit, true)?;
    }
    if let Some(swap) = memory.swap().filter(|&s| s != 0) {
        // v1's figure is memory and swap together, v2's is swap alone.
        let swap = match (swap, limit) {
            (swap, _) if swap < 0 => "max".to_owned(),
            (swap, Some(limit)) if limit > 0 && swap >= limit => (swap - limit).to_string(),
            _ => {
                let text = "a swap limit needs a memory limit that is not larger".to_owned();
                return Err(Error::InvalidSpec(text));
            }
        };
        write_or_warn(directory, "memory.swap.max", &swap, warnings)?;
    }
    if let Some(limit) = limit {
        write_or_warn(directory, "memory.max", &text(limit), warnings)?;
    }
    if let Some(reservation) = memory.reservation().filter(|&r| r != 0) {
        write_or_warn(directory, "memory.low", &text(reservation), warnings)?;
    }
    if memory.disable_oom_killer() == Some(true) {
        warnings.push("the OOM killer can't be disabled with cgroup v2".to_owned());
    }
    if memory.swappiness().is_some() {
        warnings.push("swappiness can't be set with cgroup v2".to_owned());
    }
    #[allow(deprecated)]
    if memory.kernel().is_some_and(|k| k != 0) || memory.kernel_tcp().is_some_and(|k| k != 0) {
        warnings.push("kernel memory has no limit of its own with cgroup v2".to_owned());
    }
    Ok(())
}

fn apply_cpu(directory: &Path, cpu: &LinuxCpu, warnings: &mut Vec<String>) -> Result<(), Error> {
    if let Some(shares) = cpu.shares().filter(|&s| s != 0) {
        write_or_warn(
            directory,
            "cpu.weight",
            &weight_of_shares(shares).to_string(),
            warnings,
        )?;
    }
    if cpu.quota().is_some() || cpu.period().is_some() {
        let quota = cpu
            .quota()
            .filter(|&q| q > 0)
            .map_or("max".to_owned(), |q| q.to_string());
        let period = cpu.period().filter(|&p| p != 0).unwrap_or(100_000);
        write_or_warn(directory, "cpu.max", &format!("{quota} {period}"), warnings)?;
    }
    if let Some(idle) = cpu.idle() {
        write_or_warn(directory, "cpu.idle", &idle.to_string(), warnings)?;
    }
    if let Some(burst) = cpu.burst() {
        write_or_warn(directory, "cpu.max.burst", &burst.to_string(), warnings)?;
    }
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
            write_or_warn(directory, file, value, warnings)?;
        }
    }
    if cpu.realtime_runtime().is_some_and(|r| r != 0) {
        warnings.push("real-time budgets don't exist with cgroup v2".to_owned());
    }
    Ok(())
}

/// cpu.shares [2, 262144] to cpu.weight [1, 10000].
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// blkio.weight [10, 1000] to io.weight [1, 10000].
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

fn apply_block_io(directory: &Path, block: &LinuxBlockIo, warnings: &mut Vec<String>) -> Result<(), Error> {
    if let Some(weight) = block.weight().filter(|&w| w != 0) {
        if directory.join("io.bfq.weight").exists() {
            write_file(directory, "io.bfq.weight", &weight.to_string())?;
        } else {
            write_or_warn(directory, "io.weight", &io_weight(weight).to_string(), warnings)?;
        }
    }
    for device in block.weight_device().iter().flatten() {
        let Some(weight) = device.weight() else { continue };
        let number = format!("{}:{}", device.major(), device.minor());
        if directory.join("io.bfq.weight").exists() {
            write_file(directory, "io.bfq.weight", &format!("{number} {weight}"))?;
        } else {
            let value = format!("{number} {}", io_weight(weight));
            write_or_warn(directory, "io.weight", &value, warnings)?;
        }
    }
    for (key, devices) in [
        ("rbps", block.throttle_read_bps_device()),
        ("wbps", block.throttle_write_bps_device()),
        ("riops", block.throttle_read_iops_device()),
        ("wiops", block.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
            write_or_warn(directory, "io.max", &value, warnings)?;
        }
    }
    Ok(())
}
