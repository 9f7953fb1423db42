//! The steps of a container's process from clone to execve, once for the init and once for those that join.
//! Runs in the child; reports to the shim over [`Sync`]; never returns.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxNamespaceType;
use rustix::fs::{Mode, OFlags};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};

use super::dev::{DevicePlan, Terminal};
use super::execute::execute;
use super::mounts::CgroupView;
use super::namespaces::Namespaces;
use super::options::MountPlan;
use super::plan::ProcessPlan;
use super::resolve::{Kind, Root};
use super::sync::{Message, Sync};
use super::userns::Mappings;
use super::{credentials, dev, mask, mounts, namespaces, rootfs, sync, sysctl};
use crate::config::RootfsMount;
use crate::error::IoContext;
use crate::hooks::{Hooks, Moment};
use crate::protocol::WireError;
use crate::{Error, sys};

/// The three standard streams of a process without a terminal.
#[derive(Debug)]
pub(crate) struct Stdio {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Everything that a container's init needs to know.
#[derive(Debug)]
pub(crate) struct InitPlan {
    pub process: ProcessPlan,
    pub namespaces: Namespaces,
    /// Open `cgroup.procs` files to join by; empty when the clone went into the cgroup.
    pub cgroup_procs: Vec<OwnedFd>,
    pub cgroups: CgroupView,
    pub rootfs: RootfsMount,
    /// An empty directory of the host, for what must be mounted for a moment.
    pub rootfs_path: PathBuf,
    /// Where the root is attached while it is made.
    pub root_at: PathBuf,
    pub root_read_only: bool,
    pub root_propagation: Option<String>,
    pub mounts: Vec<MountPlan>,
    pub devices: Vec<DevicePlan>,
    pub masked: Vec<String>,
    pub read_only: Vec<String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub sysctls: HashMap<String, String>,
    /// Our own binary, to be run as the container's init (`--init`).
    pub own_binary: Option<OwnedFd>,
    /// Where to wait for the start, if not at the shim that makes the container.
    pub start: Option<OwnedFd>,
    pub hooks: Hooks,
}

impl InitPlan {
    /// Hooks of the runtime and then of the container's namespaces, where the root is made and not yet entered.
    fn hooks_before_pivot(&self, sync: &Sync) -> Result<(), Error> {
        if self.hooks.has_outer() {
            sync.send(&Message::Hooks, None)?;
            if !sync.wait_go() {
                sys::process::exit(1);
            }
        }
        self.hooks.run(Moment::CreateContainer, "creating", own_pid())
    }

    fn start_hooks(&self) -> Option<&Hooks> {
        Some(&self.hooks)
    }
}

pub(super) fn own_pid() -> u32 {
    std::process::id()
}

/// Everything that a process joining a container needs to know.
#[derive(Debug)]
pub(crate) struct JoinPlan {
    pub process: ProcessPlan,
    pub cgroup_procs: Vec<OwnedFd>,
    /// The container's init.
    pub target: OwnedFd,
    /// Mappings of the container's user namespace, if it has one of its own.
    pub user: Option<Mappings>,
    /// It has a time namespace of its own.
    pub time: bool,
}

/// What was made with the host's privileges.
#[derive(Debug)]
pub(super) struct Outside<'a> {
    warnings: Vec<String>,
    sources: Vec<mounts::OpenMount<'a>>,
    root: OwnedFd,
    /// Device nodes of a container that may not make them itself.
    nodes: Option<Vec<OwnedFd>>,
}

/// Body of a container's init.
pub(crate) fn run_init(plan: &InitPlan, stdio: Option<Stdio>, sync: &Sync) -> ! {
    match prepare_outside(plan) {
        Ok(outside) => run_inside(plan, outside, stdio, sync),
        Err(error) => fail(sync, Err(error)),
    }
}

/// The rest of it, in all its namespaces.
pub(super) fn run_inside(plan: &InitPlan, outside: Outside<'_>, stdio: Option<Stdio>, sync: &Sync) -> ! {
    let result = build(plan, outside, stdio, sync).and_then(|(warnings, terminal)| {
        sync.send(&Message::Ready { warnings }, terminal.as_ref())?;
        drop(terminal);
        Ok(())
    });
    if let Err(error) = result {
        fail(sync, Err(error));
    }
    match &plan.start {
        None => {
            if !sync.wait_go() {
                // The shim is gone: nobody would ever see this container.
                sys::process::exit(1);
            }
            let result = execute(&plan.process, plan.own_binary.as_ref(), plan.start_hooks());
            fail(sync, result)
        }
        Some(listener) => {
            let Ok(starter) = sync::accept_start(listener) else {
                sys::process::exit(1);
            };
            let result = execute(&plan.process, plan.own_binary.as_ref(), plan.start_hooks());
            fail(&starter, result)
        }
    }
}

/// Body of a process that joins a running container.
pub(crate) fn run_join(plan: &JoinPlan, stdio: Option<Stdio>, sync: &Sync) -> ! {
    let result = join(plan, stdio).and_then(|(warnings, terminal)| {
        sync.send(&Message::Ready { warnings }, terminal.as_ref())?;
        drop(terminal);
        Ok(())
    });
    let result = result.and_then(|()| execute(&plan.process, None, None));
    fail(sync, result)
}

/// Tells the shim what went wrong, and ends.
pub(super) fn fail(sync: &Sync, result: Result<(), Error>) -> ! {
    let error = result
        .err()
        .unwrap_or_else(|| Error::Create("execve returned".to_owned()));
    let code = if let Error::Exec { code, .. } = error {
        code
    } else {
        1
    };
    let wire = match &error {
        Error::Io { .. } => WireError::Create(error.chain()),
        other => WireError::from_error("create the container", other),
    };
    // If even this fails the shim sees the end of the stream and the exit code.
    let _ = sync.send(&Message::Failed(wire), None);
    sys::process::exit(code)
}

type Prepared = (Vec<String>, Option<OwnedFd>);

/// Joins cgroups and given namespaces, writes to the host's `/proc`, opens everything that lies on the host.
pub(super) fn prepare_outside(plan: &InitPlan) -> Result<Outside<'_>, Error> {
    let mut warnings = Vec::new();
    let namespaces = &plan.namespaces;
    join_cgroups(&plan.cgroup_procs)?;
    credentials::before_pivot(&plan.process, &mut warnings)?;
    if namespaces.user.is_none() {
        credentials::tell_missing(&plan.process, &mut warnings)?;
    }
    rustix::process::umask(Mode::empty());
    namespaces.join_given()?;
    let map = namespaces.user.as_ref();
    // With a user namespace, what is bound to a namespace that it does not own is the host's to make and set.
    let foreign = |typ: LinuxNamespaceType| map.is_some() && !namespaces.is_new(typ);
    sysctl::write(&plan.sysctls, |key| foreign(sysctl::namespace_of(key)))?;
    let sources = mounts::open_sources(&plan.mounts, &plan.cgroups, |typ| match typ {
        "sysfs" => foreign(LinuxNamespaceType::Network),
        "mqueue" => foreign(LinuxNamespaceType::Ipc),
        _ => false,
    })?;
    if namespaces.needs_stage() || namespaces.joins_mount() {
        namespaces::unshare(UnshareFlags::NEWNS).context(|| "make a mount namespace")?;
    }
    rootfs::detach_from_host()?;
    let root = rootfs::open_root(&plan.rootfs, &plan.rootfs_path, map)?;
    let nodes = match map {
        Some(user) if !plan.devices.is_empty() => {
            let scratch = rootfs::Scratch::new(&plan.rootfs_path)?;
            Some(dev::outside(&scratch, &plan.devices, &user.mappings)?)
        }
        _ => None,
    };
    if namespaces.joins_mount() {
        namespaces.join_mount()?;
        rootfs::detach_from_host()?;
    }
    Ok(Outside {
        warnings,
        sources,
        root,
        nodes,
    })
}

fn build(
    plan: &InitPlan,
    outside: Outside<'_>,
    stdio: Option<Stdio>,
    sync: &Sync,
) -> Result<Prepared, Error> {
    plan.namespaces.settle()?;
    rustix::process::setsid().context(|| "setsid")?;
    new_keyring(&plan.process)?;

    let null = mask::open_null()?;
    let propagation = plan.root_propagation.as_deref();
    let root = rootfs::attach_root(outside.root, &plan.root_at, propagation)?;
    mounts::mount_all(&root, outside.sources, plan.cgroups.version)?;
    match outside.nodes {
        Some(nodes) => dev::attach_nodes(&root, &plan.devices, &nodes)?,
        None if plan.devices.is_empty() => {}
        None => dev::populate(&root, &plan.devices)?,
    }
    let terminal = if plan.process.terminal {
        let terminal = Terminal::open(&root, plan.process.console_size)?;
        terminal.mount_console(&root)?;
        Some(terminal)
    } else {
        None
    };
    plan.hooks_before_pivot(sync)?;
    mask::make_read_only(&root, &plan.read_only)?;
    mask::mask(&root, &plan.masked, &null)?;
    if plan.process.cwd != Path::new("/") {
        root.ensure(&super::options::inside(&plan.process.cwd)?, Kind::Directory)?;
    }
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes()).context(|| format!("set hostname {name}"))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes()).context(|| format!("set domainname {name}"))?;
    }
    let mapped = plan.namespaces.user.is_some();
    sysctl::write(&plan.sysctls, |key| {
        !mapped || plan.namespaces.is_new(sysctl::namespace_of(key))
    })?;
    rootfs::finish(&root, plan.root_read_only)?;
    rootfs::enter(&root)?;
    rootfs::propagate(&root, propagation)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let master = streams(stdio, terminal, plan.process.uid)?;
    Ok((outside.warnings, master))
}

fn join(plan: &JoinPlan, stdio: Option<Stdio>) -> Result<Prepared, Error> {
    let mut warnings = Vec::new();
    plan.process.tuning.settle_before_cgroup()?;
    join_cgroups(&plan.cgroup_procs)?;
    plan.process.tuning.settle_in_cgroup()?;
    credentials::before_pivot(&plan.process, &mut warnings)?;
    // All at once, as they are those of the container's init: new, joined by path or the host's.
    let mut all = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    if plan.time {
        all |= ThreadNameSpaceType::TIME;
    }
    if let Some(mappings) = &plan.user {
        all |= ThreadNameSpaceType::USER;
        if let Some(stdio) = &stdio {
            dev::own_outside(stdio, mappings);
        }
    }
    move_into_thread_name_spaces(plan.target.as_fd(), all).context(|| "join the container's namespaces")?;
    if plan.user.is_some() {
        super::stage::become_root()?;
    }
    rustix::process::setsid().context(|| "setsid")?;
    new_keyring(&plan.process)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let terminal = if plan.process.terminal {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, Mode::empty()).context(|| "open the container's root")?;
        Some(Terminal::open(&Root(root), plan.process.console_size)?)
    } else {
        None
    };
    let master = streams(stdio, terminal, plan.process.uid)?;
    Ok((warnings, master))
}

fn join_cgroups(procs: &[OwnedFd]) -> Result<(), Error> {
    for file in procs {
        rustix::io::write(file, b"0").context(|| "join the container's cgroup")?;
    }
    Ok(())
}

fn new_keyring(plan: &ProcessPlan) -> Result<(), Error> {
    if plan.keep_keyring {
        return Ok(());
    }
    match sys::process::new_session_keyring() {
        // A kernel without keyrings has none to leak.
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        result => result.context(|| "join a new session keyring"),
    }
}

/// Puts the streams at 0, 1 and 2; returns the master of a terminal.
fn streams(stdio: Option<Stdio>, terminal: Option<Terminal>, uid: u32) -> Result<Option<OwnedFd>, Error> {
    let place = || -> rustix::io::Result<Option<OwnedFd>> {
        match (terminal, stdio) {
            (Some(Terminal { master, slave }), _) => {
                rustix::process::ioctl_tiocsctty(&slave)?;
                rustix::stdio::dup2_stdin(&slave)?;
                rustix::stdio::dup2_stdout(&slave)?;
                rustix::stdio::dup2_stderr(&slave)?;
                Ok(Some(master))
            }
            (None, Some(stdio)) => {
                rustix::stdio::dup2_stdin(&stdio.stdin)?;
                rustix::stdio::dup2_stdout(&stdio.stdout)?;
                rustix::stdio::dup2_stderr(&stdio.stderr)?;
                Ok(None)
            }
            (None, None) => Ok(None),
        }
    };
    let master = place().context(|| "connect standard streams")?;
    if uid != 0 {
        dev::own_stdio(uid);
    }
    Ok(master)
}
