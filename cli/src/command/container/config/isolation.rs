//! What separates a container from the host, from its flags: namespaces, devices, security options, and the refusal of what this engine
//! can't do. Called by the request's builder.

use pontoon_proto::v1::{Device, HostConfig};

use super::super::options::IsolationOptions;
use super::pair;
use crate::error::Failure;

/// Fills in what the flags say; what they don't say stays unset.
///
/// # Errors
/// A mode, device or option that is no good.
pub(super) fn fill(host: &mut HostConfig, options: &IsolationOptions) -> Result<(), Failure> {
    refuse(options)?;
    host.privileged = options.privileged;
    host.pid_mode = namespace("pid", "PID", &options.pid, true)?;
    host.uts_mode = namespace("uts", "UTS", &options.uts, false)?;
    host.userns_mode = namespace("userns", "USER", &options.userns, false)?;
    if !matches!(options.cgroupns.as_str(), "" | "private" | "host") {
        return Err(Failure::new("--cgroupns: invalid CGROUP mode"));
    }
    host.cgroupns_mode.clone_from(&options.cgroupns);
    host.ipc_mode.clone_from(&options.ipc);
    host.devices = options
        .device
        .iter()
        .map(|text| device(text))
        .collect::<Result<_, _>>()?;
    host.device_cgroup_rules.clone_from(&options.device_cgroup_rule);
    host.security_opt = options
        .security_opt
        .iter()
        .map(|text| security_option(text))
        .collect::<Result<_, _>>()?;
    host.runtime.clone_from(&options.runtime);
    host.storage_opt = options
        .storage_opt
        .iter()
        .map(|text| pair("storage-opt", text).map_err(|_| Failure::new("invalid storage option")))
        .collect::<Result<_, _>>()?;
    Ok(())
}

/// What is not done here, with the words that say so.
fn refuse(options: &IsolationOptions) -> Result<(), Failure> {
    if options.gpus.is_some() {
        return Err(Failure::new(
            "could not select device driver \"\" with capabilities: [[gpu]]: this version gives no GPUs to containers, \
             give their device files with --device",
        ));
    }
    if options.use_api_socket {
        return Err(Failure::new(
            "\"--use-api-socket\" is not supported: who has the socket has the host; mount it with -v if that is meant",
        ));
    }
    if !matches!(options.isolation.as_str(), "" | "default") {
        return Err(Failure::new(format!(
            "Invalid isolation: {:?} - linux only supports 'default'",
            options.isolation
        )));
    }
    Ok(())
}

/// A namespace mode: its own (empty), the host's, or, where it can be, another container's.
fn namespace(flag: &str, name: &str, mode: &str, shareable: bool) -> Result<String, Failure> {
    let fits = match mode.split_once(':') {
        Some(("container", target)) => shareable && !target.is_empty(),
        Some(_) => false,
        None => matches!(mode, "" | "host") || (shareable && mode == "private"),
    };
    if !fits {
        return Err(Failure::new(format!("--{flag}: invalid {name} mode")));
    }
    Ok(if mode == "private" {
        String::new()
    } else {
        mode.to_owned()
    })
}

/// Letters of what a device can be used for, each once.
fn is_permissions(text: &str) -> bool {
    let each_once = |letter: char| text.matches(letter).count() <= 1;
    !text.is_empty()
        && text
            .chars()
            .all(|letter| "rwm".contains(letter) && each_once(letter))
}

/// `HOST[:CONTAINER][:PERMISSIONS]`
pub(super) fn device(text: &str) -> Result<Device, Failure> {
    if text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.contains('/') && text.contains('=') {
        return Err(Failure::new(format!(
            "could not select device driver \"cdi\" with capabilities: []: this version knows no CDI devices, such as {text}"
        )));
    }
    let bad = || Failure::new(format!("bad format for path: {text}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, permissions) = match parts.as_slice() {
        [source] => (*source, *source, "rwm"),
        [source, permissions] if is_permissions(permissions) => (*source, *source, *permissions),
        [source, target] => (*source, *target, "rwm"),
        [source, target, permissions] if is_permissions(permissions) => (*source, *target, *permissions),
        [_, _, permissions] => {
            return Err(Failure::new(format!("bad mode specified: {permissions}")));
        }
        _ => return Err(bad()),
    };
    if source.is_empty() {
        return Err(bad());
    }
    if !target.starts_with('/') {
        return Err(Failure::new(format!("{target} is not an absolute path")));
    }
    Ok(Device {
        path_on_host: source.to_owned(),
        path_in_container: target.to_owned(),
        permissions: permissions.to_owned(),
    })
}

/// A seccomp profile is read here, as its path is the client's.
fn security_option(text: &str) -> Result<String, Failure> {
    let (key, value) = match text.split_once('=').or_else(|| text.split_once(':')) {
        Some((key, value)) if !value.is_empty() || key == "no-new-privileges" => (key, value),
        None if matches!(text, "no-new-privileges" | "writable-cgroups") => (text, ""),
        _ => return Err(Failure::new(format!("Invalid --security-opt: {text:?}"))),
    };
    if key != "seccomp" || matches!(value, "unconfined" | "builtin") {
        return Ok(text.to_owned());
    }
    let profile = std::fs::read_to_string(value).map_err(|error| {
        let why = super::process::go_error(&error);
        Failure::new(format!(
            "opening seccomp profile ({value}) failed: open {value}: {why}"
        ))
    })?;
    let json: serde_json::Value = serde_json::from_str(&profile).map_err(|error| {
        Failure::new(format!(
            "compacting json for seccomp profile ({value}) failed: {error}"
        ))
    })?;
    Ok(format!("seccomp={json}"))
}
