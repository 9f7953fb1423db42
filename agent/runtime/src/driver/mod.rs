//! How a container is made and driven: the trait, and its two implementations. Called by the shim alone.

mod external;
mod native;
mod rdt;

pub(crate) use native::{Extras, Native};

use std::os::fd::OwnedFd;

use oci_spec::runtime::{LinuxResources, Process, Spec};

use crate::cgroup::{Cgroup, Hierarchies};
use crate::container::child::Stdio;
use crate::{Error, RuntimeKind, ShimConfig};

/// A container's init that waits to be started.
#[derive(Debug)]
pub(crate) struct Created {
    pub pid: u32,
    /// Master of its terminal.
    pub console: Option<OwnedFd>,
    pub warnings: Vec<String>,
}

/// A process that is about to execute its program.
#[derive(Debug)]
pub(crate) struct Launched {
    pub pid: u32,
    pub console: Option<OwnedFd>,
    /// Readable when the outcome of execve is known (see `container::sync`); `None` if it is a success already.
    pub outcome: Option<OwnedFd>,
}

/// What a process is connected to.
#[derive(Debug)]
pub(crate) enum Streams {
    Terminal,
    Pipes(Stdio),
}

/// One container.
pub(crate) trait Driver {
    /// Makes the container; its init waits. On failure nothing is left.
    fn create(&mut self, streams: Streams) -> Result<Created, Error>;
    /// Lets the init execute its program. The outcome as in [`Launched::outcome`].
    fn start(&mut self) -> Result<Option<OwnedFd>, Error>;
    /// After execve has succeeded; on failure the container must be stopped.
    fn started(&mut self, _pid: u32) -> Result<(), Error> {
        Ok(())
    }
    /// Starts a further process.
    fn exec(&mut self, id: &str, process: &Process, streams: Streams) -> Result<Launched, Error>;
    /// Signals the init, or every process.
    fn kill(&mut self, signal: i32, all: bool) -> Result<(), Error>;
    /// Freezes or thaws.
    fn freeze(&mut self, freeze: bool) -> Result<(), Error>;
    /// Changes limits.
    fn update(&mut self, resources: &LinuxResources) -> Result<(), Error>;
    /// Removes what is left of a container whose init has ended.
    fn delete(&mut self) -> Result<(), Error>;
    /// The container's cgroup.
    fn cgroup(&self) -> &Cgroup;
}

/// The driver that a configuration asks for.
pub(crate) fn open(config: &ShimConfig, spec: Spec) -> Result<Box<dyn Driver>, Error> {
    let path = spec.linux().as_ref().and_then(|l| l.cgroups_path().clone());
    let path = path.ok_or_else(|| Error::InvalidSpec("linux.cgroupsPath is missing".to_owned()))?;
    let cgroup = Cgroup::find(&Hierarchies::detect()?, &path)?;
    Ok(match &config.runtime {
        RuntimeKind::Native => Box::new(Native::with(config, spec, cgroup, Extras::default())),
        RuntimeKind::External(program) => Box::new(external::External::new(config, program, spec, cgroup)),
    })
}
