//! The process between the shim and the init of a container with a user or time namespace of its own: does
//! what needs the host's privileges, enters those namespaces, clones the init as a child of the shim, ends.

use std::os::fd::AsFd;

use rustix::process::{Gid, Uid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::child::{self, InitPlan, Outside, Stdio};
use super::sync::{Message, Sync};
use crate::Error;
use crate::error::IoContext;
use crate::sys::process::{Forked, SIBLING, exit, fork};

/// Body of the stage; the init that it clones goes on in here too.
pub(crate) fn run(plan: &InitPlan, stdio: Option<Stdio>, sync: &Sync) -> ! {
    let outside = match enter(plan, stdio.as_ref()) {
        Ok(outside) => outside,
        Err(error) => child::fail(sync, Err(error)),
    };
    match fork(plan.namespaces.clone_flags | SIBLING, None).context(|| "clone the container's init") {
        Ok(Forked::Child) => child::run_inside(plan, outside, stdio, sync),
        Ok(Forked::Parent { pid, pidfd }) => {
            // If this fails the shim is gone, and the init ends with it.
            let _ = sync.send(&Message::Cloned { pid }, Some(&pidfd));
            exit(0);
        }
        Err(error) => child::fail(sync, Err(error)),
    }
}

fn enter<'a>(plan: &'a InitPlan, stdio: Option<&Stdio>) -> Result<Outside<'a>, Error> {
    if let (Some(user), Some(stdio)) = (&plan.namespaces.user, stdio) {
        super::dev::own_outside(stdio, &user.mappings);
    }
    let outside = child::prepare_outside(plan)?;
    plan.namespaces.make_time()?;
    if let Some(pid) = &plan.namespaces.pid {
        move_into_link_name_space(pid.as_fd(), Some(LinkNameSpaceType::ProcessID))
            .context(|| "join the pid namespace")?;
    }
    if let Some(user) = &plan.namespaces.user {
        move_into_link_name_space(user.fd.as_fd(), Some(LinkNameSpaceType::User))
            .context(|| "join the user namespace")?;
        become_root()?;
    }
    Ok(outside)
}

/// Root of the user namespace that was just entered, where ids of outside mean nothing.
pub(super) fn become_root() -> Result<(), Error> {
    let all = || -> rustix::io::Result<()> {
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_gid(Gid::ROOT)?;
        rustix::thread::set_thread_uid(Uid::ROOT)
    };
    all().context(|| "become root of the user namespace (are user and group 0 mapped?)")
}
