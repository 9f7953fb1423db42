//! The inside of the native driver: what happens between clone and execve. Everything here below `child` runs
//! in the container's own process; plans are made in the shim before the clone.

pub(crate) mod child;
mod copy_up;
mod credentials;
mod dev;
mod execute;
mod lookup;
mod mask;
mod mounts;
pub(crate) mod namespaces;
mod options;
pub(crate) mod plan;
mod resolve;
mod rootfs;
mod stage;
pub(crate) mod sync;
mod sysctl;
mod tuning;
pub(crate) mod userns;
mod view;

use std::path::Path;

use oci_spec::runtime::{LinuxDevice, Mount};

use crate::Error;
use crate::cgroup::Cgroup;
use dev::DevicePlan;
use mounts::CgroupView;
use options::{MountPlan, Source};
use userns::UserNamespace;

pub use options::clean as clean_path;
pub(crate) use sysctl::check as check_sysctls;
pub use sysctl::is_ipc as is_ipc_sysctl;
pub(crate) use tuning::personality;

pub(crate) use credentials::capability_name;
pub(crate) use options::WORDS as MOUNT_WORDS;
pub use rootfs::act_as;
pub(crate) use rootfs::check_propagation;
pub(crate) use stage::run as run_stage;
pub use view::{FileView, ViewSource};

/// Whether this host labels files and processes.
pub(crate) fn has_selinux() -> bool {
    std::fs::exists("/sys/fs/selinux/enforce").unwrap_or(false)
}

/// Translates the specification's mounts, for a container in the user namespace `user`, whose file systems get
/// the SELinux `label`.
pub(crate) fn plan_mounts(
    mounts: &[Mount],
    user: Option<&UserNamespace>,
    label: Option<&str>,
) -> Result<Vec<MountPlan>, Error> {
    let plan = |mount| {
        let mut plan = MountPlan::new(mount, user)?;
        if let Some(label) = label.filter(|l| !l.is_empty()) {
            plan.label(label);
        }
        Ok(plan)
    };
    mounts.iter().map(plan).collect()
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

pub(crate) use rootfs::overlay_by_options;

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
