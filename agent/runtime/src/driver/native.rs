//! Our own OCI runtime: plans in the shim, one clone, the rest in the child (`container::child`).

mod plan;
mod spawn;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Process, Spec};
use rustix::fs::{Mode, OFlags};

use self::spawn::{Family, fork_into, ready, stdio_of};
use super::rdt::Rdt;
use super::{Created, Driver, Launched, Streams};
use crate::cgroup::{self, Cgroup};
use crate::container;
use crate::container::child::{self, JoinPlan};
use crate::container::namespaces::is_own;
use crate::container::plan::ProcessPlan;
use crate::container::sync::Sync;
use crate::container::userns::{Mappings, UserNamespace};
use crate::error::IoContext;
use crate::hooks::{Hooks, Moment};
use crate::seccomp::Filter;
use crate::sys::process::Forked;
use crate::{Error, ShimConfig, sys};

/// A container made by this crate.
pub(crate) struct Native {
    config: ShimConfig,
    /// Given up after create, but for what exec needs.
    spec: Option<Spec>,
    cgroup: Cgroup,
    filter: Option<Filter>,
    default_no_new_privileges: bool,
    init: Option<OwnedFd>,
    sync: Option<Sync>,
    /// Mappings of the container's user namespace.
    user: Option<Mappings>,
    /// It has a time namespace of its own.
    time: bool,
    /// Its share of cache and memory bandwidth.
    rdt: Option<Rdt>,
    /// It runs in another execution domain than ours.
    personality: Option<u32>,
    hooks: Hooks,
    extras: Extras,
}

/// What only the command line asks for.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// What hooks are told as the bundle, if not the run directory.
    pub bundle: Option<PathBuf>,
    /// Where the init waits for its start, if not at us.
    pub start: Option<OwnedFd>,
    /// Descriptors after the standard ones that the process inherits.
    pub preserved: u32,
    /// The process keeps our session keyring.
    pub keep_keyring: bool,
}

impl Native {
    pub(crate) fn with(config: &ShimConfig, spec: Spec, cgroup: Cgroup, extras: Extras) -> Self {
        Self {
            config: config.clone(),
            spec: Some(spec),
            cgroup,
            filter: None,
            default_no_new_privileges: false,
            init: None,
            sync: None,
            user: None,
            time: false,
            rdt: None,
            personality: None,
            hooks: Hooks::default(),
            extras,
        }
    }

    /// Takes over a container that another process has made, for exec.
    pub(crate) fn adopt(&mut self, init: OwnedFd, pid: u32) -> Result<(), Error> {
        if let Some(spec) = self.spec.take() {
            self.remember(&spec)?;
        }
        let open = |name: &str| {
            let path = format!("/proc/{pid}/ns/{name}");
            rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        };
        let user = open("user").context(|| "open the container's user namespace")?;
        if !is_own(LinuxNamespaceType::User, &user) {
            self.user = Some(UserNamespace::of(user)?.mappings);
        }
        self.time = open("time").is_ok_and(|time| !is_own(LinuxNamespaceType::Time, &time));
        self.init = Some(init);
        Ok(())
    }

    /// Prepares [`Driver::delete`] of a container that another process has made.
    pub(crate) fn adopt_ended(&mut self, hooks: Hooks) -> Result<(), Error> {
        self.hooks = hooks;
        if let Some(spec) = &self.spec {
            self.rdt = Rdt::of(spec, &self.config.id)?;
        }
        Ok(())
    }

    /// Waits for the end of an init that was killed.
    pub(crate) fn collect(&self) {
        if let Some(init) = &self.init {
            let (id, options) = (
                rustix::process::WaitId::PidFd(init.as_fd()),
                rustix::process::WaitIdOptions::EXITED,
            );
            let _ = rustix::process::waitid(id, options);
        }
    }

    /// What exec needs of the specification.
    fn remember(&mut self, spec: &Spec) -> Result<(), Error> {
        let linux = spec.linux().as_ref();
        self.filter = linux
            .and_then(|l| l.seccomp().as_ref())
            .map(|s| Filter::of(s, &self.config.seccomp_cache))
            .transpose()?;
        self.personality = linux
            .and_then(|l| l.personality().as_ref())
            .map(container::personality)
            .transpose()?;
        let process = spec.process().as_ref();
        self.default_no_new_privileges = process.and_then(|p| p.no_new_privileges()).unwrap_or(false);
        Ok(())
    }

    fn process_plan(&self, process: &Process) -> Result<ProcessPlan, Error> {
        let mut plan = ProcessPlan::new(process, self.filter.clone())?;
        plan.preserved = self.extras.preserved;
        plan.keep_keyring = self.extras.keep_keyring;
        plan.tuning.personality = self.personality;
        Ok(plan)
    }

    fn init(&self) -> Result<&OwnedFd, Error> {
        self.init.as_ref().ok_or_else(|| Error::State {
            state: "stopped".to_owned(),
            operation: "this".to_owned(),
        })
    }
}

impl Driver for Native {
    fn create(&mut self, streams: Streams) -> Result<Created, Error> {
        let spec = self
            .spec
            .take()
            .ok_or_else(|| Error::Create("created twice".to_owned()))?;
        let mut plan = self.plan(&spec)?;
        let mut warnings = Vec::new();
        self.rdt = Rdt::of(&spec, &self.config.id)?;
        self.cgroup.create()?;
        let result = self
            .apply_resources(&spec, &mut warnings)
            .and_then(|()| self.rdt.as_ref().map_or(Ok(()), Rdt::create))
            .and_then(|()| self.create_in_cgroup(&mut plan, streams));
        match result {
            Ok(mut created) => {
                created.warnings.splice(0..0, warnings);
                Ok(created)
            }
            Err(error) => {
                if let Some(Err(also)) = self.rdt.as_ref().map(Rdt::remove) {
                    eprintln!("after a failed create: {}", also.chain());
                }
                if let Err(also) = self.cgroup.remove() {
                    eprintln!("after a failed create: {}", also.chain());
                }
                Err(error)
            }
        }
    }

    fn start(&mut self) -> Result<Option<OwnedFd>, Error> {
        let sync = self.sync.take().ok_or_else(|| Error::State {
            state: "running".to_owned(),
            operation: "start".to_owned(),
        })?;
        sync.go()?;
        Ok(Some(sync.into_fd()))
    }

    fn exec(&mut self, _id: &str, process: &Process, streams: Streams) -> Result<Launched, Error> {
        let mut process = process.clone();
        process.set_terminal(Some(matches!(streams, Streams::Terminal)));
        let mut plan = self.process_plan(&process)?;
        plan.no_new_privileges |= self.default_no_new_privileges;
        let unified = self.cgroup.open_unified()?;
        let cgroup_procs = if unified.is_none() {
            self.cgroup.open_procs()?
        } else {
            Vec::new()
        };
        let target = self.init()?.try_clone().context(|| "duplicate a pidfd")?;
        let plan = JoinPlan {
            process: plan,
            cgroup_procs,
            target,
            user: self.user.clone(),
            time: self.time,
        };
        let (ours, theirs) = Sync::pair()?;
        let stdio = stdio_of(streams);
        let forked = fork_into(Some(&plan.target), 0, unified.as_ref().map(AsFd::as_fd))?;
        let (pid, pidfd) = match forked {
            Forked::Child => {
                drop(ours);
                child::run_join(&plan, stdio, &theirs);
            }
            Forked::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop((theirs, stdio));
        match ready(&ours, "process") {
            Ok((_, console)) => Ok(Launched {
                pid,
                console,
                outcome: Some(ours.into_fd()),
            }),
            Err(error) => {
                let failed = Family {
                    init: None,
                    pidfds: vec![pidfd],
                };
                failed.kill();
                failed.collect();
                Err(error)
            }
        }
    }

    fn kill(&mut self, signal: i32, all: bool) -> Result<(), Error> {
        if all {
            return self.cgroup.signal_all(signal);
        }
        sys::signal::send(self.init()?, signal).context(|| format!("send signal {signal}"))
    }

    fn freeze(&mut self, freeze: bool) -> Result<(), Error> {
        self.cgroup.freeze(freeze)
    }

    fn update(&mut self, resources: &LinuxResources) -> Result<(), Error> {
        let mut warnings = Vec::new();
        self.cgroup.apply(resources, &mut warnings)?;
        match warnings.first() {
            None => Ok(()),
            // The user has asked for exactly this limit: a warning would be lost here.
            Some(text) => Err(Error::Unsupported(text.clone())),
        }
    }

    fn started(&mut self, pid: u32) -> Result<(), Error> {
        self.hooks.run(Moment::Poststart, "running", pid)
    }

    fn delete(&mut self) -> Result<(), Error> {
        let mut removed = self.cgroup.remove();
        if let Some(rdt) = &self.rdt {
            removed = removed.and(rdt.remove());
        }
        for failure in self.hooks.run_all(Moment::Poststop, "stopped", 0) {
            eprintln!("{failure}");
        }
        removed
    }

    fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }
}

impl Native {
    fn apply_resources(&self, spec: &Spec, warnings: &mut Vec<String>) -> Result<(), Error> {
        let resources = spec.linux().as_ref().and_then(|l| l.resources().clone());
        let Some(mut resources) = resources else {
            return Ok(());
        };
        if let Some(rules) = resources.devices() {
            let mut rules = rules.clone();
            rules.extend(cgroup::always_allowed_devices());
            resources.set_devices(Some(rules));
        }
        self.cgroup.apply(&resources, warnings)
    }
}
