//! Which namespaces a container has: its own, the host's, or another container's; and its user namespace. Called by `spec::build`; the
//! modes also by the checks at creation and by `container::joined`, which finds the other containers.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use pontoon_runtime::defaults;

use super::Inputs;
use crate::{Error, Result};

/// Where a container's processes are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PidMode<'a> {
    /// In a namespace of its own.
    Own,
    /// With the host's.
    Host,
    /// With another container's.
    Container(&'a str),
}

impl<'a> PidMode<'a> {
    /// Reads `""`, `private`, `host`, `container:NAME|ID`.
    pub(crate) fn parse(text: &'a str) -> Result<Self> {
        match text.split_once(':') {
            Some(("container", target)) if !target.is_empty() => Ok(Self::Container(target)),
            None if matches!(text, "" | "private") => Ok(Self::Own),
            None if text == "host" => Ok(Self::Host),
            _ => Err(Error::Invalid(format!("invalid PID mode: {text}"))),
        }
    }
}

/// What System V IPC, message queues and `/dev/shm` a container has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IpcMode<'a> {
    /// Its own, for nobody else.
    Private,
    /// Its own without `/dev/shm`.
    None,
    /// Its own, which others may join.
    Shareable,
    /// The host's.
    Host,
    /// Another container's.
    Container(&'a str),
}

impl<'a> IpcMode<'a> {
    /// Reads `""`, `private`, `none`, `shareable`, `host`, `container:NAME|ID`.
    pub(crate) fn parse(text: &'a str) -> Result<Self> {
        match text.split_once(':') {
            Some(("container", target)) if !target.is_empty() => Ok(Self::Container(target)),
            Some(_) => Err(Error::Invalid(format!("invalid IPC mode: {text}"))),
            None => Ok(match text {
                "" | "private" => Self::Private,
                "none" => Self::None,
                "shareable" => Self::Shareable,
                "host" => Self::Host,
                _ => return Err(Error::Invalid(format!("invalid IPC mode: {text}"))),
            }),
        }
    }
}

/// Namespaces of other containers that this one joins, as paths below `/proc`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Joined {
    /// Process ids.
    pub pid: Option<PathBuf>,
    /// System V IPC and message queues.
    pub ipc: Option<PathBuf>,
    /// Users: who shares one of the others with a remapped container has to share its user namespace.
    pub user: Option<PathBuf>,
    /// What is bound over `/dev/shm`, instead of a tmpfs of its own.
    pub shm: Option<PathBuf>,
}

/// The sandbox's `net.*` parameters: the container's own, and Docker's defaults, by which programs without privileges may listen on any
/// port and send pings.
pub(crate) fn net_sysctls(own: &HashMap<String, String>, host_network: bool) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::new();
    if !host_network {
        for (name, value) in [
            ("net.ipv4.ip_unprivileged_port_start", "0"),
            ("net.ipv4.ping_group_range", "0 2147483647"),
        ] {
            let path = Path::new("/proc/sys").join(name.replace('.', "/"));
            if path.exists() {
                sysctls.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    let own = own.iter().filter(|(name, _)| name.starts_with("net."));
    sysctls.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    sysctls
}

/// The container's namespaces, and the paths of those that it joins.
pub(super) fn build(inputs: &Inputs<'_>) -> Result<Vec<LinuxNamespace>> {
    let host = inputs.host;
    let mut namespaces = defaults::namespaces(host.cgroupns_mode == "private");
    let pid = PidMode::parse(&host.pid_mode)?;
    let ipc = IpcMode::parse(&host.ipc_mode)?;
    namespaces.retain(|namespace| match namespace.typ() {
        LinuxNamespaceType::Pid => pid != PidMode::Host,
        LinuxNamespaceType::Ipc => ipc != IpcMode::Host,
        LinuxNamespaceType::Uts => host.uts_mode != "host",
        LinuxNamespaceType::Network => inputs.netns.is_some(),
        _ => true,
    });
    if inputs.remap.is_some() {
        let mut user = LinuxNamespace::default();
        user.set_typ(LinuxNamespaceType::User);
        namespaces.push(user);
    }
    for namespace in &mut namespaces {
        let path = match namespace.typ() {
            LinuxNamespaceType::Network => &inputs.netns,
            LinuxNamespaceType::Pid => &inputs.joined.pid,
            LinuxNamespaceType::Ipc => &inputs.joined.ipc,
            LinuxNamespaceType::User => &inputs.joined.user,
            _ => &None,
        };
        namespace.set_path(path.clone());
    }
    Ok(namespaces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_in_dockers_forms() {
        assert_eq!(PidMode::parse("container:a").unwrap(), PidMode::Container("a"));
        assert_eq!(PidMode::parse("private").unwrap(), PidMode::Own);
        assert_eq!(IpcMode::parse("shareable").unwrap(), IpcMode::Shareable);
        assert_eq!(IpcMode::parse("container:b").unwrap(), IpcMode::Container("b"));
        for bad in ["container:", "x", "host:1", "shareable"] {
            assert!(PidMode::parse(bad).is_err(), "{bad}");
        }
        for bad in ["container:", "x", "host:1"] {
            assert!(IpcMode::parse(bad).is_err(), "{bad}");
        }
    }
}
