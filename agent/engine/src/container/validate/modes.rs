//! Checks of namespace modes and of what can't go together with them (moby `runconfig.validateNetMode`, `hostconfig_unix.go`). Called
//! by `create`.

use pontoon_proto::v1::{ContainerSpec, HostConfig};

use super::invalid;
use crate::Result;
use crate::spec::namespaces::{IpcMode, PidMode};

/// Refuses unknown modes and settings that contradict them.
pub(super) fn check(config: &ContainerSpec, host: &HostConfig, domainname: &str) -> Result<()> {
    IpcMode::parse(&host.ipc_mode)?;
    PidMode::parse(&host.pid_mode)?;
    if !matches!(host.uts_mode.as_str(), "" | "host") {
        return Err(invalid(format!("invalid UTS mode: {}", host.uts_mode)));
    }
    if !matches!(host.userns_mode.as_str(), "" | "host") {
        return Err(invalid(format!(
            "invalid user namespace mode: {}",
            host.userns_mode
        )));
    }
    if !matches!(host.cgroupns_mode.as_str(), "" | "host" | "private") {
        return Err(invalid(format!(
            "invalid cgroup namespace mode: {}",
            host.cgroupns_mode
        )));
    }
    if host.uts_mode == "host" && !(config.hostname.is_empty() && domainname.is_empty()) {
        return Err(invalid("conflicting options: hostname and the UTS mode"));
    }
    network(config, host)?;
    sysctls(config, host)
}

fn network(config: &ContainerSpec, host: &HostConfig) -> Result<()> {
    if host.network_mode == "host" && !host.links.is_empty() {
        return Err(invalid(
            "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
        ));
    }
    let Some(target) = host.network_mode.strip_prefix("container:") else {
        return Ok(());
    };
    let dns = config.dns.as_ref().is_some_and(|dns| !dns.nameservers.is_empty());
    let conflict = if target.is_empty() {
        "invalid container format container:<name|id>"
    } else if !config.hostname.is_empty() {
        "conflicting options: hostname and the network mode"
    } else if !host.links.is_empty() {
        "conflicting options: container type network can't be used with links. This would result in undefined behavior"
    } else if dns {
        "conflicting options: dns and the network mode"
    } else if !config.hosts.is_empty() {
        "conflicting options: custom host-to-IP mapping and the network mode"
    } else if !host.port_bindings.is_empty() || host.publish_all_ports {
        "conflicting options: port publishing and the container type network mode"
    } else {
        return Ok(());
    };
    Err(invalid(conflict))
}

/// A kernel parameter needs a namespace of the container's own; the words are runc's.
fn sysctls(config: &ContainerSpec, host: &HostConfig) -> Result<()> {
    let mut names: Vec<&String> = config.sysctls.keys().collect();
    names.sort();
    for name in names {
        let dotted = name.replace('/', ".");
        let refused = if dotted.starts_with("net.") {
            (host.network_mode == "host").then_some("not allowed in host network namespace")
        } else if pontoon_runtime::is_ipc_sysctl(&dotted) {
            (host.ipc_mode == "host").then_some("is not allowed in the hosts ipc namespace")
        } else if dotted == "kernel.domainname" {
            (host.uts_mode == "host").then_some("is not allowed in the hosts uts namespace")
        } else {
            Some("is not in a separate kernel namespace")
        };
        if let Some(why) = refused {
            return Err(invalid(format!("sysctl {name:?} {why}")));
        }
    }
    Ok(())
}
