//! The kernel's word that a container lacks memory, as a descriptor to poll. The engine tells its users with it; why a container
//! ended is decided by [`Cgroup::oom_kills`] alone.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::{Cgroup, Version, write_file};
use crate::Error;
use crate::error::IoContext;

impl Cgroup {
    /// A non-blocking descriptor that becomes readable when the container lacks memory, and when the cgroup is removed.
    /// What is read from it (up to 4096 bytes) says nothing.
    ///
    /// Version 1: an eventfd that `cgroup.event_control` binds to `memory.oom_control`; version 2: an inotify watch on
    /// `memory.events`, which also changes when a limit is only hit.
    pub fn oom_descriptor(&self) -> Result<OwnedFd, Error> {
        let directory = self.controller("memory")?;
        if self.version() == Version::V2 {
            let path = directory.join("memory.events");
            let watch = || -> rustix::io::Result<OwnedFd> {
                let descriptor = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
                inotify::add_watch(&descriptor, &path, WatchFlags::MODIFY | WatchFlags::DELETE_SELF)?;
                Ok(descriptor)
            };
            return watch().context(|| format!("watch {}", path.display()));
        }
        let path = directory.join("memory.oom_control");
        let control = fs::File::open(&path).context(|| format!("open {}", path.display()))?;
        let descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context(|| "make an event descriptor")?;
        let line = format!("{} {}", descriptor.as_raw_fd(), control.as_raw_fd());
        write_file(directory, "cgroup.event_control", &line)?;
        Ok(descriptor)
    }

    /// True if the descriptor speaks before the kernel has chosen whom to kill (version 1).
    pub fn tells_before_the_kill(&self) -> bool {
        self.version() == Version::V1
    }
}
