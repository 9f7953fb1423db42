//! Checks of a container's settings before anything is made, with Docker's texts.

use std::ops::RangeInclusive;
use std::path::Path;

use pontoon_proto::v1::{ContainerSpec, HostConfig, MountType, RestartPolicyName};

use crate::{Error, Result, signal, spec};

/// Least memory limit that a container can start with.
const MINIMUM_MEMORY: i64 = 6 << 20;

fn invalid(text: impl Into<String>) -> Error {
    Error::Invalid(text.into())
}

/// Checks the settings; gives warnings for what is accepted but probably not meant.
pub(crate) fn validate(config: &ContainerSpec, host: &HostConfig) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if !config.stop_signal.is_empty() {
        signal::parse(&config.stop_signal)?;
    }
    if config.hostname.len() > 63 {
        return Err(invalid(format!("invalid hostname: {}", config.hostname)));
    }
    if !config.dir.is_empty() && !config.dir.starts_with('/') {
        return Err(invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.dir
        )));
    }
    environment(config)?;
    mounts(config)?;
    resources(host)?;
    restart(host, &mut warnings)?;
    for mode in [&host.pid_mode, &host.uts_mode] {
        if !matches!(mode.as_str(), "" | "host" | "private") {
            return Err(invalid(format!("invalid PID or UTS mode: {mode}")));
        }
    }
    if !matches!(host.ipc_mode.as_str(), "" | "host" | "private" | "none") {
        return Err(invalid(format!("invalid IPC mode: {}", host.ipc_mode)));
    }
    if host.shm_size < 0 {
        return Err(invalid("SHM size can not be less than 0"));
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    spec::security::SecurityOptions::parse(&host.security_opt)?;
    spec::capabilities::resolve(config, host)?;
    spec::process::rlimits(&config.ulimits)?;
    Ok(warnings)
}

fn environment(config: &ContainerSpec) -> Result<()> {
    for entry in &config.env {
        if entry.is_empty() || entry.starts_with('=') || entry.contains('\0') {
            return Err(invalid(format!("invalid environment variable: {entry}")));
        }
    }
    if [&config.command, &config.args]
        .into_iter()
        .flatten()
        .any(|word| word.contains('\0'))
    {
        return Err(invalid("invalid command: it contains a NUL byte"));
    }
    Ok(())
}

fn mounts(config: &ContainerSpec) -> Result<()> {
    let mut targets = std::collections::BTreeSet::new();
    for mount in &config.mounts {
        let target = Path::new(&mount.target);
        if !target.is_absolute() || target.components().any(|c| c == std::path::Component::ParentDir) {
            return Err(invalid(format!(
                "invalid mount config: mount target '{}' must be an absolute path without '..'",
                mount.target
            )));
        }
        if target == Path::new("/") {
            return Err(invalid("invalid mount config: destination can't be '/'"));
        }
        if !targets.insert(target.components().collect::<std::path::PathBuf>()) {
            return Err(invalid(format!("Duplicate mount point: {}", mount.target)));
        }
        if mount.r#type() == MountType::Bind {
            if !mount.source.starts_with('/') {
                return Err(invalid(format!(
                    "invalid mount config for type \"bind\": invalid mount path: '{}' mount path must be absolute",
                    mount.source
                )));
            }
            if !mount.create_source && !Path::new(&mount.source).exists() {
                return Err(invalid(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    mount.source
                )));
            }
        }
        spec::mounts::propagation(&mount.propagation)?;
    }
    Ok(())
}

fn resources(host: &HostConfig) -> Result<()> {
    let resources = host.resources.unwrap_or_default();
    let memory = resources.memory_bytes;
    if memory != 0 && memory < MINIMUM_MEMORY {
        return Err(invalid("Minimum memory limit allowed is 6MB"));
    }
    if host.memory_swap > 0 && memory == 0 {
        return Err(invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ));
    }
    if host.memory_swap > 0 && host.memory_swap < memory {
        return Err(invalid(
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ));
    }
    if memory > 0 && host.memory_reservation > memory {
        return Err(invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ));
    }
    available("cpus", "CPUs", "cpu/online", &host.cpuset_cpus)?;
    available("mems", "memory nodes", "node/online", &host.cpuset_mems)?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let most = i64::try_from(cpus)
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000_000);
    if resources.nano_cpus != 0 && !(10_000_000..=most).contains(&resources.nano_cpus) {
        return Err(invalid(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    if resources.nano_cpus != 0 && (host.cpu_period != 0 || host.cpu_quota != 0) {
        return Err(invalid(
            "Conflicting options: Nano CPUs and CPU Period cannot both be set",
        ));
    }
    if host.cpu_period != 0 && !(1_000..=1_000_000).contains(&host.cpu_period) {
        return Err(invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1_000 {
        return Err(invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    Ok(())
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

fn restart(host: &HostConfig, warnings: &mut Vec<String>) -> Result<()> {
    let policy = host.restart_policy.unwrap_or_default();
    let name = policy.name();
    if host.auto_remove && name != RestartPolicyName::No {
        return Err(invalid("can't create 'AutoRemove' container with restart policy"));
    }
    if policy.maximum_retry_count > 0 && name != RestartPolicyName::OnFailure {
        return Err(invalid(
            "maximum retry count cannot be used with restart policy other than 'on-failure'",
        ));
    }
    if host.network_mode == "host" && !host.port_bindings.is_empty() {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
}
