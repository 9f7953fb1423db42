//! Checks of a container's settings before anything is made, with Docker's texts: the command line is not the only client.
//!
//! # Layout
//! - [`limits`]: values of limits; `kernel`: limits that this kernel lacks; `modes`: namespaces and what contradicts them
//! - this file: the rest. Called by `create`.

mod kernel;
mod limits;
mod modes;

use pontoon_proto::v1::{ContainerSpec, HealthConfig, HostConfig, RestartPolicyName};

use crate::spec::security::SecurityOptions;
use crate::{Error, Result, signal, spec, volumes};

pub(crate) use kernel::discard;
pub(crate) use limits::check as resources;

/// Longest host name, as the kernel has it (gethostname(2): HOST_NAME_MAX).
const MAX_HOSTNAME: usize = 64;

fn invalid(text: impl Into<String>) -> Error {
    Error::Invalid(text.into())
}

/// Checks the settings and takes out the limits that this kernel lacks; gives warnings for what is accepted but probably not meant.
pub(crate) fn validate(
    config: &mut ContainerSpec,
    host: &mut HostConfig,
    domainname: &str,
) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if !config.stop_signal.is_empty() {
        signal::parse(&config.stop_signal)?;
    }
    for (what, name) in [("hostname", config.hostname.as_str()), ("domainname", domainname)] {
        if name.len() > MAX_HOSTNAME {
            return Err(invalid(format!(
                "{what} {name:?} is too long (maximum {MAX_HOSTNAME} bytes)"
            )));
        }
        if name.contains('\0') {
            return Err(invalid(format!("{what} {name:?} contains a NUL byte")));
        }
    }
    working_dir(config)?;
    environment(config)?;
    config.healthcheck.as_ref().map_or(Ok(()), health)?;
    restart(host)?;
    volumes::check_mounts(config, host)?;
    // What the kernel can't do is not judged any more, as in Docker.
    kernel::discard(host, &mut warnings)?;
    resources(host)?;
    modes::check(config, host, domainname)?;
    other_settings(config, host)?;
    if host.network_mode == "host" && !host.port_bindings.is_empty() {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    if host.privileged {
        let lacking = spec::capabilities::lacking();
        if !lacking.is_empty() {
            warnings.push(format!(
                "The engine itself lacks {}: the privileged container does not have it either",
                lacking.join(", ")
            ));
        }
    }
    Ok(warnings)
}

fn other_settings(config: &ContainerSpec, host: &HostConfig) -> Result<()> {
    if host.shm_size < 0 {
        return Err(invalid("SHM size can not be less than 0"));
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    if host.annotations.contains_key("") {
        return Err(invalid(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        ));
    }
    if !host.storage_opt.is_empty() {
        return Err(invalid(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        ));
    }
    if host
        .cgroup_parent
        .split('/')
        .any(|part| matches!(part, ".." | "."))
    {
        return Err(invalid(format!(
            "cgroup-parent {:?} must be a path without . and ..",
            host.cgroup_parent
        )));
    }
    let groups = config.groups.iter().any(|group| group.is_empty());
    if groups {
        return Err(invalid("group names can't be empty"));
    }
    SecurityOptions::parse(&host.security_opt)?.check(config, host)?;
    spec::capabilities::resolve(config, host)?;
    spec::process::rlimits(&config.ulimits)?;
    spec::devices::check(host)
}

fn working_dir(config: &mut ContainerSpec) -> Result<()> {
    if config.dir.is_empty() {
        return Ok(());
    }
    if !config.dir.starts_with('/') {
        return Err(invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.dir
        )));
    }
    config.dir = clean(&config.dir);
    Ok(())
}

/// An absolute path without `.`, `..` and double slashes, as Go's `path.Clean`.
fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
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

fn health(check: &HealthConfig) -> Result<()> {
    for (name, value) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ] {
        if value != 0 && value < 1_000_000 {
            return Err(invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
        }
    }
    Ok(())
}

fn restart(host: &HostConfig) -> Result<()> {
    let policy = host.restart_policy.unwrap_or_default();
    let name = policy.name();
    if host.auto_remove && name != RestartPolicyName::No {
        return Err(invalid("can't create 'AutoRemove' container with restart policy"));
    }
    if policy.maximum_retry_count > 0 && name != RestartPolicyName::OnFailure {
        return Err(invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ));
    }
    Ok(())
}
