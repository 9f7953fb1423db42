//! Clones the container's processes and follows them until they are ready; ends all of them if one fails.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::Native;
use crate::container::child::{self, InitPlan, Stdio};
use crate::container::sync::{Message, Sync};
use crate::driver::{Created, Streams};
use crate::error::IoContext;
use crate::hooks::Moment;
use crate::sys::process::{Forked, fork};
use crate::{Error, container, sys};

/// How long a child may take to get ready.
const PATIENCE: Duration = Duration::from_secs(60);

impl Native {
    pub(super) fn create_in_cgroup(
        &mut self,
        plan: &mut InitPlan,
        streams: Streams,
    ) -> Result<Created, Error> {
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
}

pub(super) fn stdio_of(streams: Streams) -> Option<Stdio> {
    match streams {
        Streams::Terminal => None,
        Streams::Pipes(stdio) => Some(stdio),
    }
}

/// Waits for a child's first message.
pub(super) fn ready(sync: &Sync, what: &str) -> Result<(Vec<String>, Option<OwnedFd>), Error> {
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
pub(super) struct Family {
    pub(super) init: Option<u32>,
    pub(super) pidfds: Vec<OwnedFd>,
}

impl Family {
    pub(super) fn kill(&self) {
        for pidfd in &self.pidfds {
            let _ = sys::signal::send(pidfd, libc::SIGKILL);
        }
    }

    /// Collects their statuses. Each is our child, or gone already.
    pub(super) fn collect(&self) {
        for pidfd in &self.pidfds {
            let _ = rustix::process::waitid(
                rustix::process::WaitId::PidFd(pidfd.as_fd()),
                rustix::process::WaitIdOptions::EXITED,
            );
        }
    }
}

/// Clones so that the child is born into the pid namespace `namespace`.
pub(super) fn fork_into(
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
