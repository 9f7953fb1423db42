//! From the specification to a plan: what our own runtime is to make, checked before anything exists.

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};

use super::Native;
use crate::container::child::InitPlan;
use crate::container::namespaces::Namespaces;
use crate::error::IoContext;
use crate::hooks::Hooks;
use crate::{Error, container};

impl Native {
    pub(super) fn plan(&mut self, spec: &Spec) -> Result<InitPlan, Error> {
        refuse_unsupported(spec)?;
        let linux = spec
            .linux()
            .as_ref()
            .ok_or_else(|| Error::InvalidSpec("linux is missing".to_owned()))?;
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| Error::InvalidSpec("process is missing".to_owned()))?;
        self.remember(spec)?;
        container::check_propagation(linux.rootfs_propagation().as_deref())?;
        let process_plan = self.process_plan(process)?;
        let hooks = Hooks::new(
            spec,
            &self.config.id,
            self.extras.bundle.as_deref().unwrap_or(&self.config.dir),
        )?;
        let namespaces = Namespaces::new(linux)?;
        let sysctls = linux.sysctl().clone().unwrap_or_default();
        container::check_sysctls(&sysctls, &namespaces)?;
        let uts = namespaces.is_private(LinuxNamespaceType::Uts);
        if spec.hostname().as_ref().is_some_and(|h| !h.is_empty()) && !uts {
            return Err(Error::InvalidSpec(
                "a hostname needs a private uts namespace".to_owned(),
            ));
        }
        let user = namespaces.user.as_ref();
        self.user = user.map(|u| u.mappings.clone());
        self.time = namespaces.is_private(LinuxNamespaceType::Time);
        self.hooks = hooks.clone();
        let mounts = container::plan_mounts(
            spec.mounts().as_deref().unwrap_or_default(),
            user,
            linux.mount_label().as_deref(),
        )?;
        let devices = container::plan_devices(linux.devices().as_deref().unwrap_or_default(), &mounts)?;
        let own_binary = if self.config.init {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let binary = rustix::fs::open("/proc/self/exe", flags, Mode::empty());
            Some(binary.context(|| "open our own binary")?)
        } else {
            None
        };
        Ok(InitPlan {
            process: process_plan,
            namespaces,
            cgroup_procs: Vec::new(),
            cgroups: container::cgroup_view(&self.cgroup),
            rootfs: self.config.rootfs.clone(),
            rootfs_path: self.config.rootfs_path.clone(),
            root_at: spec
                .root()
                .as_ref()
                .map_or_else(|| self.config.rootfs_path.clone(), |r| r.path().clone()),
            root_read_only: spec.root().as_ref().and_then(|r| r.readonly()).unwrap_or(false),
            root_propagation: linux.rootfs_propagation().clone(),
            mounts,
            devices,
            masked: absolute(linux.masked_paths().as_ref(), "maskedPaths")?,
            read_only: absolute(linux.readonly_paths().as_ref(), "readonlyPaths")?,
            hostname: spec.hostname().clone().filter(|h| !h.is_empty()),
            domainname: spec.domainname().clone().filter(|d| !d.is_empty()),
            sysctls,
            own_binary,
            start: self.extras.start.take(),
            hooks,
        })
    }
}

fn absolute(paths: Option<&Vec<String>>, what: &str) -> Result<Vec<String>, Error> {
    let paths = paths.cloned().unwrap_or_default();
    match paths.iter().find(|p| !p.starts_with('/')) {
        Some(path) => Err(Error::InvalidSpec(format!(
            "{what}: {path} must be an absolute path"
        ))),
        None => Ok(paths),
    }
}

fn refuse_unsupported(spec: &Spec) -> Result<(), Error> {
    let refuse = |what: &str| Err(Error::Unsupported(what.to_owned()));
    if let Some(linux) = spec.linux() {
        if linux.memory_policy().is_some() {
            return refuse("linux.memoryPolicy");
        }
        if linux.net_devices().as_ref().is_some_and(|n| !n.is_empty()) {
            return refuse("linux.netDevices");
        }
        let label = linux.mount_label().as_ref().filter(|l| !l.is_empty());
        if let (Some(label), false) = (label, container::has_selinux()) {
            return refuse(&format!("SELinux label {label}: not available on this host"));
        }
    }
    Ok(())
}
