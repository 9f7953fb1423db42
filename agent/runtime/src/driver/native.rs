//! Our own OCI runtime: plans in the shim, one clone, the rest in the child (`container::child`).

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Process, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::rdt::Rdt;
use super::{Created, Driver, Launched, Streams};
use crate::cgroup::{self, Cgroup};
use crate::container::child::{self, InitPlan, JoinPlan, Stdio};
use crate::container::namespaces::{Namespaces, is_own};
use crate::container::plan::ProcessPlan;
use crate::container::sync::{Message, Sync};
use crate::container::userns::{Mappings, UserNamespace};
use crate::container::{self};
use crate::error::IoContext;
use crate::hooks::{Hooks, Moment};
use crate::seccomp::Filter;
use crate::sys::process::{Forked, fork};
use crate::{Error, ShimConfig, sys};

/// How long a child may take to get ready.
const PATIENCE: Duration = Duration::from_secs(60);

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

    fn plan(&mut self, spec: &Spec) -> Result<InitPlan, Error> {
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

    fn create_in_cgroup(&mut self, plan: &mut InitPlan, streams: Streams) -> Result<Created, Error> {
        let unified = self.cgroup.open_unified()?;
        if unified.is_none() {
            plan.cgroup_procs = self.cgroup.open_procs()?;
        }
        let (ours, theirs) = Sync::pair()?;
        let stdio = stdio_of(streams);
        let staged = plan.namespaces.needs_stage();
        let into = unified.as_ref().map(AsFd::as_fd);
        let forked = if staged {
            fork(0, into).context(|| "clone a process")?
        } else {
            fork_into(plan.namespaces.pid.as_ref(), plan.namespaces.clone_flags, into)?
        };
        let child = match forked {
            Forked::Child if staged => {
                drop(ours);
                container::run_stage(plan, stdio, &theirs);
            }
            Forked::Child => {
                drop(ours);
                child::run_init(plan, stdio, &theirs);
            }
            Forked::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop((theirs, stdio));
        let mut family = Family {
            init: (!staged).then_some(child.0),
            pidfds: vec![child.1],
        };
        let joined = |ready: (u32, Vec<String>, Option<OwnedFd>)| match &self.rdt {
            Some(rdt) => rdt.join(ready.0).map(|()| ready),
            None => Ok(ready),
        };
        match self.until_ready(&ours, &mut family).and_then(joined) {
            Ok((pid, warnings, console)) => {
                self.init = family.pidfds.pop();
                // The stage has ended.
                family.collect();
                self.sync = Some(ours);
                Ok(Created {
                    pid,
                    console,
                    warnings,
                })
            }
            Err(error) => {
                // It matters that nothing runs on.
                family.kill();
                family.collect();
                // Spec: the lifecycle goes on with the poststop hooks.
                for failure in self.hooks.run_all(Moment::Poststop, "stopped", 0) {
                    eprintln!("{failure}");
                }
                if self.cgroup.oom_kills() > 0 {
                    let text = "the memory limit is too low for the container's init".to_owned();
                    return Err(Error::Create(text));
                }
                Err(error)
            }
        }
    }

    /// Follows the container's init (and the stage before it) until it is ready; runs the hooks that are due.
    fn until_ready(
        &self,
        sync: &Sync,
        family: &mut Family,
    ) -> Result<(u32, Vec<String>, Option<OwnedFd>), Error> {
        let patience = self.hooks.patience(PATIENCE);
        let mut ready = None;
        loop {
            // The init may be ready before the stage has told of it.
            ready = match (family.init, ready) {
                (Some(pid), Some((warnings, console))) => return Ok((pid, warnings, console)),
                (_, ready) => ready,
            };
            match sync.receive(patience)? {
                Some((Message::Cloned { pid }, pidfd)) => {
                    family.init = Some(pid);
                    family.pidfds.extend(pidfd);
                }
                Some((Message::Hooks, _)) => {
                    // The stage's word may come after its child's.
                    while family.init.is_none() {
                        match sync.receive(PATIENCE)? {
                            Some((Message::Cloned { pid }, pidfd)) => {
                                family.init = Some(pid);
                                family.pidfds.extend(pidfd);
                            }
                            _ => return Err(killed("container init")),
                        }
                    }
                    let pid = family.init.unwrap_or(0);
                    self.hooks.run(Moment::Prestart, "creating", pid)?;
                    self.hooks.run(Moment::CreateRuntime, "creating", pid)?;
                    sync.go()?;
                }
                Some((Message::Ready { warnings }, console)) => ready = Some((warnings, console)),
                Some((Message::Failed(error), _)) => return Err(error.into()),
                None => return Err(killed("container init")),
            }
        }
    }

    fn init(&self) -> Result<&OwnedFd, Error> {
        self.init.as_ref().ok_or_else(|| Error::State {
            state: "stopped".to_owned(),
            operation: "this".to_owned(),
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

fn stdio_of(streams: Streams) -> Option<Stdio> {
    match streams {
        Streams::Terminal => None,
        Streams::Pipes(stdio) => Some(stdio),
    }
}

/// Waits for a child's first message.
fn ready(sync: &Sync, what: &str) -> Result<(Vec<String>, Option<OwnedFd>), Error> {
    match sync.receive(PATIENCE)? {
        Some((Message::Ready { warnings }, console)) => Ok((warnings, console)),
        Some((Message::Failed(error), _)) => Err(error.into()),
        _ => Err(killed(what)),
    }
}

fn killed(what: &str) -> Error {
    Error::Create(format!("the {what} was killed before it was ready"))
}

/// The processes of a creation: the init, and before it the stage if there is one.
struct Family {
    init: Option<u32>,
    pidfds: Vec<OwnedFd>,
}

impl Family {
    fn kill(&self) {
        for pidfd in &self.pidfds {
            let _ = sys::signal::send(pidfd, libc::SIGKILL);
        }
    }

    /// Collects their statuses. Each is our child, or gone already.
    fn collect(&self) {
        for pidfd in &self.pidfds {
            let _ = rustix::process::waitid(
                rustix::process::WaitId::PidFd(pidfd.as_fd()),
                rustix::process::WaitIdOptions::EXITED,
            );
        }
    }
}

/// Clones so that the child is born into the pid namespace `namespace`.
fn fork_into(
    namespace: Option<&OwnedFd>,
    flags: u64,
    cgroup: Option<std::os::fd::BorrowedFd<'_>>,
) -> Result<Forked, Error> {
    let clone = || fork(flags, cgroup).context(|| "clone a process");
    let Some(namespace) = namespace else {
        return clone();
    };
    let own = rustix::fs::open(
        "/proc/self/ns/pid",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context(|| "open our own pid namespace")?;
    enter_pid_namespace(namespace)?;
    let forked = clone();
    if matches!(forked, Ok(Forked::Child)) {
        return forked;
    }
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))
        .context(|| "return to our own pid namespace")?;
    forked
}

fn enter_pid_namespace(namespace: &OwnedFd) -> Result<(), Error> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ProcessID))
        .context(|| "join the pid namespace")
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
