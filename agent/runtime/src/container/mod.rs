//! The inside of the native driver: what happens between clone and execve. Everything here below `child` runs
//! in the container's own process; plans are made in the shim before the clone.

pub(crate) mod child;
mod credentials;
mod dev;
mod lookup;
mod mask;
mod mounts;
pub(crate) mod namespaces;
mod options;
pub(crate) mod plan;
mod resolve;
mod rootfs;
pub(crate) mod sync;
mod sysctl;

use std::path::Path;

use oci_spec::runtime::{LinuxDevice, Mount};

use crate::Error;
use crate::cgroup::Cgroup;
use dev::DevicePlan;
use mounts::CgroupView;
use options::{MountPlan, Source};

pub(crate) use sysctl::check as check_sysctls;

/// Translates the specification's mounts.
pub(crate) fn plan_mounts(mounts: &[Mount]) -> Result<Vec<MountPlan>, Error> {
    mounts.iter().map(MountPlan::new).collect()
}

/// The devices to make; none if the container's `/dev` is a directory of the host.
pub(crate) fn plan_devices(devices: &[LinuxDevice], mounts: &[MountPlan]) -> Result<Vec<DevicePlan>, Error> {
    let bound = mounts
        .iter()
        .any(|m| m.destination == Path::new("/dev") && matches!(m.source, Source::Bind { .. }));
    if bound {
        Ok(Vec::new())
    } else {
        dev::plans(devices)
    }
}

/// What a container sees of its cgroup.
pub(crate) fn cgroup_view(cgroup: &Cgroup) -> CgroupView {
    CgroupView {
        version: cgroup.version(),
        directories: cgroup.mount_sources(),
    }
}

/// Attaches a detached mount to an open directory.
pub(crate) fn attach_mount(
    tree: &std::os::fd::OwnedFd,
    target: &std::os::fd::OwnedFd,
) -> rustix::io::Result<()> {
    mounts::attach(tree, target)
}

/// The first descriptor that a peer sends.
pub(crate) fn receive_descriptor(
    socket: &std::os::fd::OwnedFd,
) -> Result<Option<std::os::fd::OwnedFd>, Error> {
    sync::receive_raw(socket).map(|(_, descriptor)| descriptor)
}
