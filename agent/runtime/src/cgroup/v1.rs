//! Limits in version 1's files, one hierarchy per controller. Called by [`Cgroup`].

use std::fs;
use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::{Cgroup, Hierarchy, devices, read_file, write_file, write_value};
use crate::Error;
use crate::error::IoContext;

/// Makes all directories above `path`; in the cpuset hierarchy each needs its processors before any below.
pub(super) fn make_parents(hierarchy: &Hierarchy, path: &Path) -> Result<(), Error> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    if parent.exists() {
        return Ok(());
    }
    make_parents(hierarchy, parent)?;
    match fs::create_dir(parent) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(e).context(|| format!("create cgroup {}", parent.display()));
        }
        _ => {}
    }
    if hierarchy.controllers.iter().any(|c| c == "cpuset") {
        inherit_cpuset(parent)?;
    }
    Ok(())
}

/// A new v1 cpuset is empty and takes no process until it has processors and memory nodes.
pub(super) fn inherit_cpuset(directory: &Path) -> Result<(), Error> {
    let Some(parent) = directory.parent() else {
        return Ok(());
    };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if read_file(directory, file)?.trim().is_empty() {
            write_file(directory, file, read_file(parent, file)?.trim())?;
        }
    }
    Ok(())
}

pub(super) fn apply(
    cgroup: &Cgroup,
    resources: &LinuxResources,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    if let Some(rules) = resources.devices() {
        let directory = cgroup.controller("devices")?;
        for rule in rules {
            let file = if rule.allow() {
                "devices.allow"
            } else {
                "devices.deny"
            };
            write_file(directory, file, &devices::rule_v1(rule)?)?;
        }
    }
    if let Some(memory) = resources.memory() {
        apply_memory(cgroup.controller("memory")?, memory, warnings)?;
    }
    if let Some(cpu) = resources.cpu() {
        apply_cpu(cgroup, cpu, warnings)?;
    }
    if let Some(pids) = resources.pids() {
        let limit = if pids.limit() > 0 {
            pids.limit().to_string()
        } else {
            "max".to_owned()
        };
        write_file(cgroup.controller("pids")?, "pids.max", &limit)?;
    }
    if let Some(block) = resources.block_io() {
        apply_block_io(cgroup.controller("blkio")?, block, warnings)?;
    }
    if let Some(limits) = resources.hugepage_limits() {
        for limit in limits {
            let file = format!("hugetlb.{}.limit_in_bytes", limit.page_size());
            match cgroup.controller("hugetlb") {
                Ok(directory) => write_file(directory, &file, &limit.limit().to_string())?,
                Err(_) => {
                    warnings.push("no limit on huge pages: this host has no hugetlb controller".to_owned())
                }
            }
        }
    }
    if resources.unified().as_ref().is_some_and(|u| !u.is_empty()) {
        return Err(Error::Unsupported(
            "unified resources need a host with cgroup v2 alone".to_owned(),
        ));
    }
    Ok(())
}

fn apply_memory(directory: &Path, memory: &LinuxMemory, warnings: &mut Vec<String>) -> Result<(), Error> {
    let swap = memory.swap().filter(|&s| s != 0);
    let limit = memory.limit().filter(|&l| l != 0);
    let swap_file = directory.join("memory.memsw.limit_in_bytes").exists();
    if swap.is_some() && !swap_file {
        warnings.push("no limit on swap: this kernel does not account it".to_owned());
    }
    let swap = swap.filter(|_| swap_file);
    // The kernel keeps limit <= memsw at every step: raise memsw first, lower it last.
    let current: i64 = if swap_file {
        read_file(directory, "memory.memsw.limit_in_bytes")?
            .trim()
            .parse()
            .unwrap_or(i64::MAX)
    } else {
        i64::MAX
    };
    let swap_first = swap.is_some_and(|s| s < 0 || s > current);
    let write_swap = || match swap {
        Some(swap) => write_file(directory, "memory.memsw.limit_in_bytes", &swap.to_string()),
        None => Ok(()),
    };
    if swap_first {
        write_swap()?;
    }
    if let Some(limit) = limit {
        write_file(directory, "memory.limit_in_bytes", &limit.to_string())?;
    }
    if !swap_first {
        write_swap()?;
    }
    if let Some(reservation) = memory.reservation().filter(|&r| r != 0) {
        write_file(directory, "memory.soft_limit_in_bytes", &reservation.to_string())?;
    }
    if let Some(swappiness) = memory.swappiness() {
        write_file(directory, "memory.swappiness", &swappiness.to_string())?;
    }
    if memory.disable_oom_killer() == Some(true) {
        write_file(directory, "memory.oom_control", "1")?;
    }
    Ok(())
}

fn apply_cpu(cgroup: &Cgroup, cpu: &LinuxCpu, warnings: &mut Vec<String>) -> Result<(), Error> {
    let directory = cgroup.controller("cpu")?;
    if let Some(shares) = cpu.shares().filter(|&s| s != 0) {
        write_file(directory, "cpu.shares", &shares.to_string())?;
    }
    if let Some(period) = cpu.period().filter(|&p| p != 0) {
        write_file(directory, "cpu.cfs_period_us", &period.to_string())?;
    }
    if let Some(quota) = cpu.quota().filter(|&q| q != 0) {
        write_file(directory, "cpu.cfs_quota_us", &quota.to_string())?;
    }
    if let Some(burst) = cpu.burst() {
        write_file(directory, "cpu.cfs_burst_us", &burst.to_string())?;
    }
    for (file, value) in [
        (
            "cpu.rt_period_us",
            cpu.realtime_period().filter(|&p| p != 0).map(|v| v.to_string()),
        ),
        (
            "cpu.rt_runtime_us",
            cpu.realtime_runtime().filter(|&r| r != 0).map(|v| v.to_string()),
        ),
    ] {
        let Some(value) = value else { continue };
        if write_value(&directory.join(file), &value).is_err() {
            warnings.push(format!(
                "{file} = {value} was refused: give the parent cgroup a real-time budget"
            ));
        }
    }
    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
            write_file(cgroup.controller("cpuset")?, file, value)?;
        }
    }
    Ok(())
}

fn apply_block_io(directory: &Path, block: &LinuxBlockIo, warnings: &mut Vec<String>) -> Result<(), Error> {
    if let Some(weight) = block.weight().filter(|&w| w != 0) {
        let file = ["blkio.weight", "blkio.bfq.weight"]
            .into_iter()
            .find(|f| directory.join(f).exists());
        match file {
            Some(file) => write_file(directory, file, &weight.to_string())?,
            None => {
                warnings.push("no block I/O weight: no I/O scheduler of this host supports it".to_owned())
            }
        }
    }
    for device in block.weight_device().iter().flatten() {
        let Some(weight) = device.weight() else { continue };
        let value = format!("{}:{} {weight}", device.major(), device.minor());
        let file = ["blkio.weight_device", "blkio.bfq.weight_device"];
        match file.into_iter().find(|f| directory.join(f).exists()) {
            Some(file) => write_file(directory, file, &value)?,
            None => warnings.push(format!(
                "no block I/O weight for {value}: not supported by this host"
            )),
        }
    }
    for (file, devices) in [
        ("blkio.throttle.read_bps_device", block.throttle_read_bps_device()),
        (
            "blkio.throttle.write_bps_device",
            block.throttle_write_bps_device(),
        ),
        (
            "blkio.throttle.read_iops_device",
            block.throttle_read_iops_device(),
        ),
        (
            "blkio.throttle.write_iops_device",
            block.throttle_write_iops_device(),
        ),
    ] {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            write_file(directory, file, &value)?;
        }
    }
    Ok(())
}
