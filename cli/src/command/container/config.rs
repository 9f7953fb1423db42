//! The flags of `run` and `create` turned once into the request that the engine gets.
//!
//! # Layout
//! - [`process`]: environment, labels, health, restarts; [`limits`]: what it may use; [`isolation`]: what separates it from the host
//! - [`networks`], [`ports`], [`mounts`]: a group of flags each

use pontoon_proto::v1::{ContainerSpec, CreateContainerRequest, HostConfig, LogDriver, Ulimit};

use super::options::{ContainerOptions, values};
use crate::error::Failure;

mod isolation;
mod limits;
mod mounts;
mod networks;
mod ports;
mod process;

use mounts::mounts;
#[cfg(test)]
pub(crate) use mounts::volume;
pub(crate) use mounts::{Flags, mount, tmpfs};
pub(crate) use ports::publish;
pub use process::{environment, restart_policy};

/// Builds the request for an image and its command line.
///
/// # Errors
/// The first flag whose value is no good, with the value.
pub fn request(
    options: &ContainerOptions,
    image: &str,
    args: &[String],
) -> Result<CreateContainerRequest, Failure> {
    refuse(options)?;
    let config = ContainerSpec {
        image: image.to_owned(),
        labels: process::labels(options)?,
        command: options.entrypoint.iter().cloned().collect(),
        args: args.to_vec(),
        hostname: options.hostname.clone(),
        env: process::variables(options)?,
        dir: process::workdir(&options.workdir)?,
        user: options.user.clone(),
        groups: options.isolation.group_add.clone(),
        tty: options.tty,
        open_stdin: options.interactive,
        read_only: options.read_only,
        stop_signal: options.stop_signal.clone(),
        stop_grace_period: stop_timeout(options.stop_timeout),
        healthcheck: process::health(options)?,
        mounts: mounts(options)?,
        init: options.init,
        cap_add: options.isolation.cap_add.clone(),
        cap_drop: options.isolation.cap_drop.clone(),
        ulimits: options.limits.ulimit.clone(),
        sysctls: options
            .isolation
            .sysctl
            .iter()
            .map(|text| pair("sysctl", text))
            .collect::<Result<_, _>>()?,
        dns: networks::dns(options),
        hosts: options
            .add_host
            .iter()
            .map(|text| networks::extra_host(text))
            .collect::<Result<_, _>>()?,
    };
    let attaches = |stream| options.attach.is_empty() || attaches(options, stream);
    let attach_stdin = options.interactive && attaches("stdin");
    Ok(CreateContainerRequest {
        name: options.name.clone(),
        config: Some(config),
        host: Some(host_config(options)?),
        networks: networks::networks(options)?,
        exposed_ports: ports::exposed(options)?,
        attach_stdin,
        attach_stdout: attaches("stdout"),
        attach_stderr: attaches("stderr"),
        stdin_once: attach_stdin,
        domainname: options.domainname.clone(),
        platform: options.platform.clone(),
    })
}

/// `--stop-timeout` in nanoseconds. Zero is the engine's default on the wire, so that "at once" is a nanosecond.
fn stop_timeout(seconds: Option<i64>) -> i64 {
    match seconds {
        None => 0,
        Some(0) => 1,
        Some(seconds) if seconds < 0 => -1,
        Some(seconds) => seconds.saturating_mul(1_000_000_000),
    }
}

/// Whether `-a NAME` was given.
pub fn attaches(options: &ContainerOptions, stream: &str) -> bool {
    options
        .attach
        .iter()
        .any(|name| name.eq_ignore_ascii_case(stream))
}

fn host_config(options: &ContainerOptions) -> Result<HostConfig, Failure> {
    if options.rm && !matches!(options.restart.as_str(), "" | "no") {
        return Err(Failure::new(
            "conflicting options: cannot specify both --restart and --rm",
        ));
    }
    let mut host = HostConfig {
        network_mode: networks::mode(options),
        links: networks::links(options)?,
        port_bindings: ports::published(options)?,
        publish_all_ports: options.publish_all,
        restart_policy: Some(process::restart_policy(&options.restart)?),
        auto_remove: options.rm,
        log: Some(log(options)?),
        volumes_from: options.volumes_from.clone(),
        volume_driver: options.volume_driver.clone(),
        annotations: options.annotation.iter().map(|text| label(text)).collect(),
        ..HostConfig::default()
    };
    limits::fill(&mut host, &options.limits)?;
    isolation::fill(&mut host, &options.isolation)?;
    Ok(host)
}

fn log(options: &ContainerOptions) -> Result<LogDriver, Failure> {
    if options.log_driver == "none" && !options.log_opt.is_empty() {
        return Err(Failure::new("invalid logging opts for driver none"));
    }
    Ok(LogDriver {
        name: options.log_driver.clone(),
        options: options
            .log_opt
            .iter()
            .map(|text| pair("log-opt", text))
            .collect::<Result<_, _>>()?,
    })
}

/// Flags that are declared but not carried out yet: said by name instead of being ignored.
fn refuse(options: &ContainerOptions) -> Result<(), Failure> {
    if !options.disable_content_trust {
        return Err(Failure::new(
            "\"--disable-content-trust=false\" is not supported: this version verifies no signatures of images",
        ));
    }
    Ok(())
}

/// `KEY=VALUE`, for flags that are maps.
///
/// # Errors
/// When there is no `=`.
pub fn pair(flag: &str, text: &str) -> Result<(String, String), Failure> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| Failure::new(format!("invalid argument {text:?} for --{flag}: use KEY=VALUE")))
}

/// Labels of flags: `key` alone has an empty value.
pub fn label(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}

/// `NAME=SOFT[:HARD]`, for service commands.
///
/// # Errors
/// As [`values::ulimit`].
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, Failure> {
    values::ulimit(text).map_err(Failure::new)
}

#[cfg(test)]
mod flags;
#[cfg(test)]
mod tests;
