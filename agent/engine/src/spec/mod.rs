//! From a container's settings to the OCI runtime specification that the shim carries out. Pure apart from looking at
//! `/dev` for privileged containers. Called by `container::start` and `stdio::exec`.

pub(crate) mod capabilities;
pub(crate) mod devices;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod process;
mod profile;
pub(crate) mod remap;
mod resources;
pub(crate) mod security;
mod system_mounts;

use std::path::{Path, PathBuf};

use mounts::Mounted;
use namespaces::Joined;
use oci_spec::runtime::{Linux, Root, Spec};
use pontoon_proto::v1::{ContainerSpec, HostConfig};
use security::SecurityOptions;

use crate::config::ContainerDefaults;
use crate::{Result, spec::remap::IdMap};

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
    /// The user's and the image's mounts, ready to be used.
    pub mounts: &'a [Mounted],
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
    /// Namespaces of other containers.
    pub joined: &'a Joined,
    /// What holds for containers that say nothing.
    pub defaults: &'a ContainerDefaults,
    /// Its user namespace's mappings; `None`: the host's users.
    pub remap: Option<&'a IdMap>,
}

/// The whole specification.
pub(crate) fn build(inputs: &Inputs<'_>) -> Result<Spec> {
    let security = SecurityOptions::parse(&inputs.host.security_opt)?;
    let mut root = Root::default();
    root.set_path(inputs.rootfs.to_owned())
        .set_readonly(Some(inputs.config.read_only));
    let annotations = inputs.host.annotations.clone();
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_process(Some(process::build(inputs, &security)?))
        .set_mounts(Some(system_mounts::adjust(
            mounts::build(inputs)?,
            inputs,
            &security,
        )))
        .set_linux(Some(linux(inputs, &security)?))
        .set_annotations(Some(annotations).filter(|map| !map.is_empty()))
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
    let devices = devices::build(host)?;
    let paths = |list: &[String]| Some(list.to_vec()).filter(|list| !list.is_empty() && !host.privileged);
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces::build(inputs)?))
        .set_resources(Some(resources::build(host, devices.rules)?))
        .set_cgroups_path(Some(inputs.cgroup.clone()))
        .set_rootfs_propagation(mounts::rootfs_propagation(inputs.mounts))
        .set_seccomp(security.filter(config, host, &inputs.defaults.seccomp)?)
        .set_devices(Some(devices.nodes).filter(|nodes| !nodes.is_empty()))
        .set_masked_paths(paths(&host.masked_paths))
        .set_readonly_paths(paths(&host.readonly_paths));
    if let Some(remap) = inputs.remap {
        linux
            .set_uid_mappings(Some(remap.uids()))
            .set_gid_mappings(Some(remap.gids()));
    }
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
    Ok(linux)
}
