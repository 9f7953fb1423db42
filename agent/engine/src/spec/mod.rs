//! From a container's settings to the OCI runtime specification that the shim carries out. Pure apart from looking at
//! `/dev` for privileged containers. Called by `container::start` and `stdio::exec`.

pub(crate) mod capabilities;
pub(crate) mod mounts;
pub(crate) mod process;
mod resources;
pub(crate) mod security;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, Root, Spec};
use pontoon_proto::v1::{ContainerSpec, HostConfig};
use pontoon_runtime::defaults;
use security::{Seccomp, SecurityOptions};

use crate::Result;

/// Version of the runtime specification that is written.
const OCI_VERSION: &str = "1.1.0";

/// What a specification is made from.
pub(crate) struct Inputs<'a> {
    /// Settings with the image's defaults merged in.
    pub config: &'a ContainerSpec,
    /// Host settings.
    pub host: &'a HostConfig,
    /// Who the process runs as.
    pub user: &'a pontoon_image::User,
    /// The container's folder with `hosts`, `hostname`, `resolv.conf`.
    pub dir: &'a Path,
    /// Mount point of the root file system.
    pub rootfs: &'a Path,
    /// The network namespace; `None`: the host's.
    pub netns: Option<PathBuf>,
    /// The host name.
    pub hostname: &'a str,
    /// NIS domain name.
    pub domainname: &'a str,
    /// Path of the cgroup below each hierarchy.
    pub cgroup: PathBuf,
}

/// The whole specification.
pub(crate) fn build(inputs: &Inputs<'_>) -> Result<Spec> {
    let security = SecurityOptions::parse(&inputs.host.security_opt)?;
    let mut root = Root::default();
    root.set_path(inputs.rootfs.to_owned())
        .set_readonly(Some(inputs.config.read_only));
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_process(Some(process::build(inputs, &security)?))
        .set_mounts(Some(mounts::build(inputs)?))
        .set_linux(Some(linux(inputs, &security)?))
        .set_hostname(None);
    if inputs.host.uts_mode != "host" {
        spec.set_hostname(Some(inputs.hostname.to_owned()));
        if !inputs.domainname.is_empty() {
            spec.set_domainname(Some(inputs.domainname.to_owned()));
        }
    }
    Ok(spec)
}

fn linux(inputs: &Inputs<'_>, security: &SecurityOptions) -> Result<Linux> {
    let (config, host) = (inputs.config, inputs.host);
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(inputs)))
        .set_resources(Some(resources::build(host)))
        .set_cgroups_path(Some(inputs.cgroup.clone()))
        .set_rootfs_propagation(mounts::rootfs_propagation(config))
        .set_seccomp(None)
        .set_devices(None)
        .set_masked_paths(None)
        .set_readonly_paths(None);
    // `net.*` is set by the sandbox, which owns the namespace.
    let sysctls = config
        .sysctls
        .iter()
        .filter(|(name, _)| !name.starts_with("net."));
    linux.set_sysctl(Some(
        sysctls
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    ));
    if host.privileged {
        linux.set_devices(Some(resources::host_devices()));
        return Ok(linux);
    }
    if !security.system_paths_unconfined {
        let owned = |paths: &[&str]| Some(paths.iter().map(|&p| p.to_owned()).collect());
        linux
            .set_masked_paths(owned(&defaults::MASKED_PATHS))
            .set_readonly_paths(owned(&defaults::READONLY_PATHS));
    }
    linux.set_seccomp(match &security.seccomp {
        Seccomp::Default => Some(defaults::seccomp_profile(&capabilities::resolve(config, host)?)),
        Seccomp::Custom(profile) => Some((**profile).clone()),
        Seccomp::Unconfined => None,
    });
    Ok(linux)
}

fn namespaces(inputs: &Inputs<'_>) -> Vec<LinuxNamespace> {
    let own_cgroup = crate::system::has_unified_cgroups() && !inputs.host.privileged;
    let mut namespaces = defaults::namespaces(own_cgroup);
    namespaces.retain(|namespace| match namespace.typ() {
        LinuxNamespaceType::Pid => inputs.host.pid_mode != "host",
        LinuxNamespaceType::Ipc => inputs.host.ipc_mode != "host",
        LinuxNamespaceType::Uts => inputs.host.uts_mode != "host",
        LinuxNamespaceType::Network => inputs.netns.is_some(),
        _ => true,
    });
    for namespace in &mut namespaces {
        if namespace.typ() == LinuxNamespaceType::Network {
            namespace.set_path(inputs.netns.clone());
        }
    }
    namespaces
}
