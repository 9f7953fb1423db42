//! Limits in version 1's files, one hierarchy per controller. Called by [`Cgroup`].

use std::fs;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxRdma, LinuxResources};

use super::{Cgroup, Hierarchy, devices, read_file, write_file, write_value};
use crate::Error;
use crate::error::IoContext;

/// Makes all directories above `path`.
pub(super) fn make_parents(path: &Path) -> Result<(), Error> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    fs::create_dir_all(parent).context(|| format!("create cgroup {}", parent.display()))
}

/// A new v1 cpuset is empty and takes no process (ENOSPC) until it has processors and memory nodes. Fills the directory's
/// from the one above, and that one's first if need be: whoever made it may have been killed before this step, or be
/// about to take it in this moment.
pub(super) fn inherit_cpuset(hierarchy: &Hierarchy, directory: &Path) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        inherit(&hierarchy.mount, directory, file)?;
    }
    Ok(())
}

/// The directory's value of a cpuset file, inherited if it was empty.
fn inherit(root: &Path, directory: &Path, file: &str) -> Result<String, Error> {
    let own = read_file(directory, file)?;
    let parent = directory.parent().filter(|p| p.starts_with(root));
    match (own.trim(), parent) {
        ("", Some(parent)) => {
            let value = inherit(root, parent, file)?;
            write_file(directory, file, &value)?;
            Ok(value)
        }
        (own, _) => Ok(own.to_owned()),
    }
}

pub(super) fn apply(
    cgroup: &Cgroup,
    resources: &LinuxResources,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    if resources.unified().as_ref().is_some_and(|u| !u.is_empty()) {
        return Err(Error::Unsupported(
            "unified resources need a host with cgroup v2 alone".to_owned(),
        ));
    }
    if let Some(rules) = resources.devices().as_ref().filter(|r| !r.is_empty()) {
        // Never without: a container that may open every device is none.
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
    let mut directory = |name: &str, warnings: &mut Vec<String>| {
        let found = cgroup.controller(name).ok();
        if found.is_none() {
            warnings.push(format!(
                "the {name} limit has no effect: this host has no {name} controller"
            ));
        }
        found
    };
    if let Some(memory) = resources.memory()
        && let Some(directory) = directory("memory", warnings)
    {
        apply_memory(directory, memory, warnings)?;
    }
    if let Some(cpu) = resources.cpu() {
        if has_bandwidth(cpu)
            && let Some(directory) = directory("cpu", warnings)
        {
            apply_cpu(directory, cpu, warnings)?;
        }
        for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(value) = value.as_ref().filter(|v| !v.is_empty())
                && let Some(directory) = directory("cpuset", warnings)
            {
                write_file(directory, file, value)?;
            }
        }
    }
    if let Some(pids) = resources.pids().as_ref().filter(|p| p.limit() != 0)
        && let Some(directory) = directory("pids", warnings)
    {
        let limit = if pids.limit() > 0 {
            pids.limit().to_string()
        } else {
            "max".to_owned()
        };
        write_file(directory, "pids.max", &limit)?;
    }
    if let Some(block) = resources.block_io()
        && let Some(directory) = directory("blkio", warnings)
    {
        apply_block_io(directory, block, warnings)?;
    }
    apply_others(resources, &mut directory, warnings)
}

/// Huge pages, network classes and priorities, RDMA.
fn apply_others<'a>(
    resources: &LinuxResources,
    directory: &mut impl FnMut(&str, &mut Vec<String>) -> Option<&'a Path>,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    for limit in resources.hugepage_limits().iter().flatten() {
        let Some(directory) = directory("hugetlb", warnings) else {
            continue;
        };
        let value = limit.limit().to_string();
        write_file(
            directory,
            &format!("hugetlb.{}.limit_in_bytes", limit.page_size()),
            &value,
        )?;
        let reserved = format!("hugetlb.{}.rsvd.limit_in_bytes", limit.page_size());
        if directory.join(&reserved).exists() {
            write_file(directory, &reserved, &value)?;
        }
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id().filter(|&c| c != 0)
            && let Some(directory) = directory("net_cls", warnings)
        {
            write_file(directory, "net_cls.classid", &class.to_string())?;
        }
        for interface in network.priorities().iter().flatten() {
            let value = format!("{} {}", interface.name(), interface.priority());
            if let Some(directory) = directory("net_prio", warnings) {
                write_file(directory, "net_prio.ifpriomap", &value)?;
            }
        }
    }
    for (device, limit) in resources.rdma().iter().flatten() {
        if let Some(directory) = directory("rdma", warnings) {
            write_file(directory, "rdma.max", &rdma_line(device, limit))?;
        }
    }
    Ok(())
}

/// One line of `rdma.max`; what is not limited is `max`.
pub(super) fn rdma_line(device: &str, limit: &LinuxRdma) -> String {
    let number = |n: Option<u32>| n.map_or("max".to_owned(), |n| n.to_string());
    format!(
        "{device} hca_handle={} hca_object={}",
        number(limit.hca_handles()),
        number(limit.hca_objects())
    )
}

fn has_bandwidth(cpu: &LinuxCpu) -> bool {
    cpu.shares().is_some()
        || cpu.quota().is_some()
        || cpu.period().is_some()
        || cpu.burst().is_some()
        || cpu.idle().is_some()
        || cpu.realtime_period().is_some()
        || cpu.realtime_runtime().is_some()
}

/// `checkBeforeUpdate`: a limit below what is in use would end processes; say so instead.
pub(super) fn check_usage(usage: &str, limit: Option<i64>, asked: bool) -> Result<(), Error> {
    let usage: i64 = usage.trim().parse().unwrap_or(0);
    match limit.filter(|&l| l > 0 && asked) {
        Some(limit) if limit < usage => Err(Error::InvalidSpec(format!(
            "the memory limit {limit} is below the current use {usage}"
        ))),
        _ => Ok(()),
    }
}

fn apply_memory(directory: &Path, memory: &LinuxMemory, warnings: &mut Vec<String>) -> Result<(), Error> {
    let swap = memory.swap().filter(|&s| s != 0);
    let limit = memory.limit().filter(|&l| l != 0);
    if limit.is_some() && memory.check_before_update() == Some(true) {
        let usage = read_file(directory, "memory.usage_in_bytes")?;
        check_usage(&usage, limit, true)?;
    }
    // The kernel took this away in 5.11: every hierarchy is one.
    if memory.use_hierarchy() == Some(true) && directory.join("memory.use_hierarchy").exists() {
        let _ = write_file(directory, "memory.use_hierarchy", "1");
    }
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
    if let Some(disable) = memory.disable_oom_killer() {
        write_file(directory, "memory.oom_control", if disable { "1" } else { "0" })?;
    }
    #[allow(deprecated)]
    let kernel = memory.kernel();
    if kernel.is_some_and(|k| k != 0) {
        warnings.push("no limit on kernel memory: Linux has none since 5.11".to_owned());
    }
    if let Some(limit) = memory.kernel_tcp().filter(|&l| l != 0) {
        write_file(directory, "memory.kmem.tcp.limit_in_bytes", &limit.to_string())?;
    }
    Ok(())
}

fn apply_cpu(directory: &Path, cpu: &LinuxCpu, warnings: &mut Vec<String>) -> Result<(), Error> {
    if let Some(idle) = cpu.idle() {
        if directory.join("cpu.idle").exists() {
            write_file(directory, "cpu.idle", &idle.to_string())?;
        } else {
            warnings.push("cpu.idle has no effect: this kernel does not know it".to_owned());
        }
    }
    if let Some(shares) = cpu.shares().filter(|&s| s != 0) {
        write_file(directory, "cpu.shares", &shares.to_string())?;
    }
    apply_bandwidth(directory, cpu)?;
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
    Ok(())
}

/// Period, quota and burst, each of which the kernel checks against the others' present values.
fn apply_bandwidth(directory: &Path, cpu: &LinuxCpu) -> Result<(), Error> {
    let period = cpu.period().filter(|&p| p != 0);
    let quota = cpu.quota().filter(|&q| q != 0);
    let burst = cpu.burst();
    if burst.is_some() || quota.is_some_and(|q| q < 0) {
        // A burst that is larger than the new quota would be in its way.
        let _ = write_value(&directory.join("cpu.cfs_burst_us"), "0");
    }
    let write_period = || match period {
        Some(period) => write_file(directory, "cpu.cfs_period_us", &period.to_string()),
        None => Ok(()),
    };
    // A container whose parent is limited may not have the larger share even for a moment.
    let early = write_period();
    if let Some(quota) = quota {
        write_file(directory, "cpu.cfs_quota_us", &quota.to_string())?;
    }
    if early.is_err() {
        write_period()?;
    }
    match burst {
        Some(burst) => write_file(directory, "cpu.cfs_burst_us", &burst.to_string()),
        None => Ok(()),
    }
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
    if block.leaf_weight().is_some_and(|w| w != 0) {
        warnings.push("no leaf weight: Linux has none since 5.0".to_owned());
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
