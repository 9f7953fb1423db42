//! Death at an exact step: aims the `killer` program at a host's daemon, at the shim that it spawns, or at the container that the
//! shim makes. Used by the suites of faults, which walk through all steps of an operation.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::host::Host;
use crate::process;
use crate::programs;
use crate::wait::SHORT;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The daemon.
    Daemon,
    /// The shim that the daemon spawns next.
    Shim,
    /// The process that this shim makes into the container.
    Child,
}

/// A killer that is attached and waits for the step.
#[derive(Debug)]
pub struct Killer {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Killed right before this step.
    Killed(String),
    /// The work had fewer steps: this many.
    Survived(usize),
}

impl Killer {
    /// Attaches to the host's daemon; its victim will die right before the `step`-th change from now on, counted from 1. A daemon that
    /// was started by [`Host::start_stopped`] begins to run now.
    ///
    /// # Errors
    /// When there is no daemon or it can't be traced.
    pub fn aim(host: &Host, victim: Victim, step: usize) -> Result<Self> {
        let pid = host.daemon_pid().context("there is no daemon")?;
        let victim = match victim {
            Victim::Daemon => "daemon",
            Victim::Shim => "shim",
            Victim::Child => "child",
        };
        let mut child = Command::new(programs::killer()?)
            .args([victim, &pid.to_string(), &step.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run the killer")?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut killer = Self { child, stdin, stdout };
        let said = killer.line()?;
        ensure!(said == "ready", "the killer said {said:?}");
        Ok(killer)
    }

    /// Lets go of a victim that is still alive, and tells what happened.
    ///
    /// # Errors
    /// When the killer failed.
    pub fn outcome(mut self) -> Result<Outcome> {
        drop(self.stdin.take());
        let said = self.line()?;
        process::end(&mut self.child, SHORT)?;
        match said.split_once(' ') {
            Some(("killed", step)) => Ok(Outcome::Killed(step.to_owned())),
            Some(("survived", steps)) => Ok(Outcome::Survived(steps.parse().context("no number of steps")?)),
            _ => bail!("the killer said {said:?}"),
        }
    }

    /// Waits until the victim is dead, and tells at which step.
    ///
    /// # Errors
    /// When the killer failed.
    pub fn wait_killed(mut self) -> Result<String> {
        let said = self.line()?;
        process::end(&mut self.child, SHORT)?;
        match said.split_once(' ') {
            Some(("killed", step)) => Ok(step.to_owned()),
            _ => bail!("the killer said {said:?}"),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout
            .read_line(&mut line)
            .context("cannot read from the killer")?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if process::end(&mut self.child, SHORT).is_err() {
            eprintln!("the killer did not end");
        }
    }
}
