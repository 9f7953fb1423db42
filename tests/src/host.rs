//! One host of a fleet: a daemon with its own network and UTS namespace, folders and control group. Tests talk to it by the command
//! line ([`crate::commands`]), as a user does, and do to it what happens to machines.

use std::fs::{self, OpenOptions};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::footprint::Footprint;
use crate::process::{self};
use crate::wait::{LONG, SHORT, wait_until};
use crate::wire::{self, Wire};
use crate::{cgroups, programs};

/// Puts itself into the host's control group, takes the host's name, becomes the daemon.
const BOOT: &str =
    "echo $$ >\"$1/cgroup.procs\" && echo \"$2\" >/proc/sys/kernel/hostname && shift 2 && exec \"$@\"";

/// The same, but it waits before the last step until somebody continues it.
const BOOT_STOPPED: &str = "echo $$ >\"$1/cgroup.procs\" && echo \"$2\" >/proc/sys/kernel/hostname && shift 2 && kill -STOP $$ && exec \"$@\"";

/// The daemon's settings file in the host's folder: the machine's own must not be read.
const SETTINGS: &str = "pontoon.toml";

/// A host.
#[derive(Debug)]
pub struct Host {
    number: usize,
    folder: PathBuf,
    group: String,
    wire: Wire,
    pub(crate) program: PathBuf,
    daemon: Mutex<Option<Child>>,
}

impl Host {
    /// Makes the host's folders and plugs it into the switch; its daemon is not started.
    ///
    /// # Errors
    /// When the folders or the namespace can't be made.
    pub fn new(number: usize, fleet_folder: &Path, fleet_group: &str, wire: &Wire) -> Result<Self> {
        let folder = fleet_folder.join(format!("h{number}"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        wire.add_host(number)?;
        fs::write(folder.join(SETTINGS), "").context("cannot write the daemon's settings")?;
        Ok(Self {
            number,
            folder,
            group: format!("{fleet_group}/h{number}"),
            wire: wire.clone(),
            program: programs::pontoon()?,
            daemon: Mutex::new(None),
        })
    }

    /// The host's number in its fleet, from 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// `host1`, `host2`, …
    pub fn name(&self) -> String {
        format!("host{}", self.number)
    }

    /// Its address on the switch.
    pub fn address(&self) -> String {
        wire::address(self.number)
    }

    /// The daemon's data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The daemon's run folder.
    pub fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// A folder of the host for a test's own files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The control group that holds everything the host runs.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Writes the daemon's settings file, read at its next start.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn configure(&self, settings: &str) -> Result<()> {
        fs::write(self.folder.join(SETTINGS), settings).context("cannot write the daemon's settings")
    }

    /// The file of its network namespace.
    pub fn netns(&self) -> PathBuf {
        wire::path(&self.wire.host(self.number))
    }

    /// `unix://…` of the daemon.
    pub fn socket(&self) -> String {
        format!("unix://{}", self.run_dir().join("pontoon.sock").display())
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// When it ends or does not answer, with its log.
    pub fn start(&self) -> Result<()> {
        self.start_flagged(&[])
    }

    /// Starts the daemon with more flags and waits until it answers.
    ///
    /// # Errors
    /// When it ends or does not answer, with its log.
    pub fn start_flagged(&self, flags: &[&str]) -> Result<()> {
        self.spawn(BOOT, flags)?;
        self.wait_listening()
    }

    /// Starts the daemon in a mount namespace of its own, in which `setup` (shell) was run first, and waits until it answers. What it
    /// mounts is not seen by later daemons: for tests of what it can't do there.
    ///
    /// # Errors
    /// When it ends or does not answer, with its log.
    pub fn start_with(&self, setup: &str) -> Result<()> {
        self.spawn(
            &format!("exec unshare --mount -- sh -c 'set -e; {setup}; {BOOT}' sh \"$@\""),
            &[],
        )?;
        self.wait_listening()
    }

    /// Starts the daemon's process and stops it before its first step: [`crate::killer::Killer::aim`] lets it go on.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn start_stopped(&self) -> Result<()> {
        self.spawn(BOOT_STOPPED, &[])?;
        let pid = self.daemon_pid().context("no daemon")?;
        wait_until("the new daemon stops", SHORT, || {
            let status = fs::read_to_string(format!("/proc/{pid}/stat")).context("the daemon ended")?;
            let state = status.rsplit(") ").next().unwrap_or_default();
            ensure!(state.trim_start().starts_with('T'), "its state is {state:?}");
            Ok(())
        })
    }

    /// Waits until the daemon listens; for one that was started stopped.
    ///
    /// # Errors
    /// When it ends or does not answer, with its log.
    pub fn wait_listening(&self) -> Result<()> {
        let socket = self.run_dir().join("pontoon.sock");
        wait_until(
            &format!("{}'s daemon listens", self.name()),
            SHORT,
            || match self.exit_code() {
                Some(code) => Ok(Err(anyhow::anyhow!("the daemon ended with {code}"))),
                None => Ok(Ok(UnixStream::connect(&socket).map(drop)?)),
            },
        )
        .and_then(|result| result)
        .with_context(|| self.log_tail(60))
    }

    /// Whether the daemon's process has come to an end that nobody has looked at yet.
    pub fn has_ended(&self) -> bool {
        let pid = self.daemon_pid().unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = status.rsplit(") ").next().unwrap_or_default();
        state.is_empty() || state.starts_with('Z')
    }

    /// Waits for the end of a daemon that somebody else has killed.
    ///
    /// # Errors
    /// When it goes on.
    pub fn wait_killed(&self) -> Result<()> {
        let mut child = self
            .daemon()
            .take()
            .with_context(|| format!("{} has no daemon", self.name()))?;
        process::end(&mut child, SHORT).map(drop)
    }

    fn spawn(&self, boot: &str, flags: &[&str]) -> Result<()> {
        let mut daemon = self.daemon();
        ensure!(daemon.is_none(), "{} has a daemon already", self.name());
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .with_context(|| format!("cannot open {}", self.log().display()))?;
        let mut command = wire::enter(&self.netns());
        command
            .args(["unshare", "--uts", "--", "sh", "-c", boot, "sh"])
            .arg(cgroups::home(&format!("{}/host", self.group))?)
            .arg(self.name())
            .arg(&self.program)
            .arg("daemon")
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--run-dir")
            .arg(self.run_dir())
            .args(["--cgroup-parent", &self.group])
            .args(flags)
            .env("RUST_BACKTRACE", "1")
            .env("PONTOON_CONFIG", self.folder.join(SETTINGS))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log);
        *daemon = Some(command.spawn().context("cannot start a daemon")?);
        Ok(())
    }

    /// Ends the daemon by SIGTERM, as `systemctl stop` does; containers go on. Returns its exit status.
    ///
    /// # Errors
    /// When it was not running or does not end in time.
    pub fn stop(&self) -> Result<i32> {
        self.end(Signal::TERM)
    }

    /// Kills the daemon with SIGKILL; containers go on.
    ///
    /// # Errors
    /// When it was not running.
    pub fn kill(&self) -> Result<()> {
        self.end(Signal::KILL).map(drop)
    }

    /// Sends the daemon a signal that does not end it.
    ///
    /// # Errors
    /// When it is not running.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let daemon = self.daemon();
        let child = daemon
            .as_ref()
            .with_context(|| format!("{} has no daemon", self.name()))?;
        kill_process(pid_of(child)?, signal).context("cannot signal the daemon")
    }

    fn end(&self, signal: Signal) -> Result<i32> {
        let mut child = self
            .daemon()
            .take()
            .with_context(|| format!("{} has no daemon", self.name()))?;
        kill_process(pid_of(&child)?, signal).context("cannot signal the daemon")?;
        process::end(&mut child, SHORT).with_context(|| self.log_tail(40))
    }

    /// Ends everything that runs on the host at once: what the others see when a machine crashes.
    ///
    /// # Errors
    /// When something stays alive.
    pub fn power_off(&self) -> Result<()> {
        cgroups::kill_all(&self.group)?;
        if let Some(mut child) = self.daemon().take() {
            process::end(&mut child, SHORT)?;
        }
        Ok(())
    }

    /// Pulls the network cable: silence, no connection is reset.
    ///
    /// # Errors
    /// When the link can't be changed.
    pub fn unplug(&self) -> Result<()> {
        self.wire.plug(self.number, false)
    }

    /// Plugs the cable in again.
    ///
    /// # Errors
    /// When the link can't be changed.
    pub fn plug(&self) -> Result<()> {
        self.wire.plug(self.number, true)
    }

    /// Lets only so much out of it (`tc`'s words, as `40mbit`), so that a transfer lasts.
    ///
    /// # Errors
    /// When `tc` fails.
    pub fn throttle(&self, rate: &str) -> Result<()> {
        let netns = format!("--net={}", self.netns().display());
        let mut args = vec![&netns, "--", "tc", "qdisc", "replace", "dev", "eth0", "root"];
        args.extend(["tbf", "rate", rate, "burst", "256kb", "latency", "200ms"]);
        process::tool("nsenter", &args).map(drop)
    }

    /// The daemon's process, while it runs.
    pub fn daemon_pid(&self) -> Option<u32> {
        self.daemon().as_ref().map(Child::id)
    }

    /// What the host has on the machine now.
    ///
    /// # Errors
    /// When a part can't be listed.
    pub fn footprint(&self) -> Result<Footprint> {
        Footprint::of(self)
    }

    /// Waits until the host has nothing on the machine that it had not before.
    ///
    /// # Errors
    /// With what is left.
    pub fn wait_as_before(&self, before: &Footprint) -> Result<()> {
        wait_until("the host is as before", LONG, || {
            self.footprint()?.ensure_nothing_since(before)
        })
    }

    /// The daemon's log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("daemon.log")
    }

    /// The log's last lines, with a heading.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        let tail = all[all.len().saturating_sub(lines)..].join("\n");
        format!("log of {}'s daemon:\n{tail}", self.name())
    }

    /// The daemon's exit status, when it has ended by itself.
    fn exit_code(&self) -> Option<i32> {
        let mut daemon = self.daemon();
        let status = daemon.as_mut()?.try_wait().ok().flatten()?;
        *daemon = None;
        Some(status.code().unwrap_or(-1))
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Child>> {
        self.daemon
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn pid_of(child: &Child) -> Result<Pid> {
    let raw = i32::try_from(child.id()).context("a process id out of range")?;
    match Pid::from_raw(raw) {
        Some(pid) => Ok(pid),
        None => bail!("a process id of 0"),
    }
}
