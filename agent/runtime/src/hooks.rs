//! Lifecycle hooks of the OCI runtime specification (config.md, "POSIX-platform Hooks"): what runs when, with
//! the container's state on standard input. Called by the drivers (outside), and by a container's init for the
//! two moments that belong to its namespaces.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Spec};
use serde_json::json;

use crate::Error;
use crate::error::IoContext;

/// Version of the specification that this runtime follows.
pub(crate) const OCI_VERSION: &str = "1.2.0";
/// Of a hook's output, for its error message.
const MAX_OUTPUT: u64 = 4096;

/// When hooks run, in the order of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Moment {
    fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// A container's hooks with what they are told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hooks {
    hooks: oci_spec::runtime::Hooks,
    id: String,
    bundle: PathBuf,
    annotations: HashMap<String, String>,
}

impl Hooks {
    /// Checks and takes them from a specification.
    pub(crate) fn new(spec: &Spec, id: &str, bundle: &Path) -> Result<Self, Error> {
        let result = Self {
            hooks: spec.hooks().clone().unwrap_or_default(),
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            annotations: spec.annotations().clone().unwrap_or_default(),
        };
        for moment in [
            Moment::Prestart,
            Moment::CreateRuntime,
            Moment::CreateContainer,
            Moment::StartContainer,
            Moment::Poststart,
            Moment::Poststop,
        ] {
            for hook in result.of(moment) {
                if !hook.path().is_absolute() {
                    return Err(Error::InvalidSpec(format!(
                        "{} hook {} must be an absolute path",
                        moment.name(),
                        hook.path().display()
                    )));
                }
                if hook.timeout().is_some_and(|t| t <= 0) {
                    return Err(Error::InvalidSpec(format!(
                        "{} hook {}: the timeout must be greater than zero",
                        moment.name(),
                        hook.path().display()
                    )));
                }
            }
        }
        Ok(result)
    }

    fn of(&self, moment: Moment) -> &[Hook] {
        #[allow(deprecated)]
        let list = match moment {
            Moment::Prestart => self.hooks.prestart(),
            Moment::CreateRuntime => self.hooks.create_runtime(),
            Moment::CreateContainer => self.hooks.create_container(),
            Moment::StartContainer => self.hooks.start_container(),
            Moment::Poststart => self.hooks.poststart(),
            Moment::Poststop => self.hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }

    /// Whether some run in the runtime's namespaces while the container is created.
    pub(crate) fn has_outer(&self) -> bool {
        !self.of(Moment::Prestart).is_empty() || !self.of(Moment::CreateRuntime).is_empty()
    }

    /// How long a child that runs hooks of its own may take, if one without may take `plain`.
    pub(crate) fn patience(&self, plain: Duration) -> Duration {
        self.of(Moment::CreateContainer).iter().fold(plain, |sum, hook| {
            let seconds = hook.timeout().and_then(|t| u64::try_from(t).ok());
            sum.saturating_add(seconds.map_or(Duration::MAX, Duration::from_secs))
        })
    }

    /// The state document (runtime.md, "State"); `pid` 0 when there is no process.
    pub(crate) fn state(&self, status: &str, pid: u32) -> serde_json::Value {
        let mut state = json!({
            "ociVersion": OCI_VERSION,
            "id": self.id,
            "status": status,
            "bundle": self.bundle,
        });
        if pid != 0 {
            state["pid"] = json!(pid);
        }
        if !self.annotations.is_empty() {
            state["annotations"] = json!(self.annotations);
        }
        state
    }

    /// Runs the hooks of a moment in their order, until one fails.
    pub(crate) fn run(&self, moment: Moment, status: &str, pid: u32) -> Result<(), Error> {
        for (index, hook) in self.of(moment).iter().enumerate() {
            self.run_one(hook, status, pid).map_err(|reason| {
                Error::Create(format!("error running {} hook #{index}: {reason}", moment.name()))
            })?;
        }
        Ok(())
    }

    /// Runs all hooks of a moment, whatever becomes of them; returns what went wrong.
    pub(crate) fn run_all(&self, moment: Moment, status: &str, pid: u32) -> Vec<String> {
        let mut failures = Vec::new();
        for (index, hook) in self.of(moment).iter().enumerate() {
            if let Err(reason) = self.run_one(hook, status, pid) {
                failures.push(format!("{} hook #{index}: {reason}", moment.name()));
            }
        }
        failures
    }

    fn run_one(&self, hook: &Hook, status: &str, pid: u32) -> Result<(), String> {
        let output = output_file().map_err(|e| e.chain())?;
        let mut child = spawn(hook, &output).map_err(|e| e.chain())?;
        if let Some(mut stdin) = child.stdin.take() {
            // A hook that does not read its state is none of our business; the document fits into the pipe.
            let _ = stdin.write_all(self.state(status, pid).to_string().as_bytes());
        }
        let timeout = hook.timeout().and_then(|t| u64::try_from(t).ok());
        let ended = wait(&mut child, timeout.map(Duration::from_secs)).map_err(|e| e.to_string())?;
        let Some(ended) = ended else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!(
                "{} ran past its timeout of {}.0s",
                hook.path().display(),
                timeout.unwrap_or_default()
            ));
        };
        if ended.success() {
            return Ok(());
        }
        Err(format!(
            "{} ended with {ended}, output: {}",
            hook.path().display(),
            said(output)
        ))
    }
}

/// Where a hook's output goes: memory, so that a child of its that lives on holds nothing up.
fn output_file() -> Result<std::fs::File, Error> {
    rustix::fs::memfd_create("hook", rustix::fs::MemfdFlags::CLOEXEC)
        .context(|| "make a memory file for a hook's output")
        .map(std::fs::File::from)
}

fn said(mut output: std::fs::File) -> String {
    use std::io::Seek as _;
    let mut bytes = Vec::new();
    let _ = output.rewind();
    let _ = output.take(MAX_OUTPUT).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn spawn(hook: &Hook, output: &std::fs::File) -> Result<Child, Error> {
    let mut command = Command::new(hook.path());
    let args = hook.args().as_deref().unwrap_or_default();
    if let Some(name) = args.first() {
        command.arg0(name);
    }
    command.args(args.iter().skip(1)).env_clear();
    for variable in hook.env().iter().flatten() {
        if let Some((key, value)) = variable.split_once('=') {
            command.env(key, value);
        }
    }
    let copy = || output.try_clone().context(|| "duplicate a hook's output");
    command.stdin(Stdio::piped()).stdout(copy()?).stderr(copy()?);
    command
        .spawn()
        .context(|| format!("run {}", hook.path().display()))
}

/// `None` when the time is over.
fn wait(child: &mut Child, timeout: Option<Duration>) -> std::io::Result<Option<std::process::ExitStatus>> {
    let Some(timeout) = timeout else {
        return child.wait().map(Some);
    };
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .ok_or_else(|| std::io::Error::from_raw_os_error(libc::ESRCH))?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = rustix::event::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut fds = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&limit)) {
            Ok(0) => return Ok(None),
            Ok(_) => return child.wait().map(Some),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
