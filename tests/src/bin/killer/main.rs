//! `killer VICTIM PID STEP`: kills a daemon, or what it starts, at an exact step of its work. Used by the suites of faults through
//! [`pontoon_tests::killer`]; a process of its own, because a tracer takes away the exit statuses of its tracees.
//!
//! It traces the daemon (ptrace(2)) and counts the system calls that change something outside the process: files, mounts, namespaces,
//! netlink requests, messages to shims and netd, processes, signals. Right before the STEP-th of them the victim gets SIGKILL, so
//! that this call does not happen any more. Says `ready` when it has attached, then `killed STEP CALL`; or `survived STEPS` when its
//! standard input is closed before.
//!
//! Victims: `daemon`; `shim` (the shim that the daemon spawns; the steps of it and of what it forks are counted); `child` (the process
//! that the shim forks to become the container, and that makes the step).

// Registers and numbers of system calls are x86-64's.
#[cfg(target_arch = "x86_64")]
mod steps;
#[cfg(target_arch = "x86_64")]
mod trace;

use anyhow::Result;

/// Who is to be killed.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The daemon itself.
    Daemon,
    /// The shim that it spawns.
    Shim,
    /// What the shim forks, when it makes the step.
    Child,
}

#[cfg(not(target_arch = "x86_64"))]
fn main() -> Result<()> {
    anyhow::bail!("this program knows the registers of x86-64 only")
}

#[cfg(target_arch = "x86_64")]
fn main() -> Result<()> {
    use std::io::Read;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use anyhow::{Context, bail};
    use nix::unistd::Pid;

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [victim, pid, step] = arguments.as_slice() else {
        bail!("usage: killer daemon|shim|child PID STEP");
    };
    let victim = match victim.as_str() {
        "daemon" => Victim::Daemon,
        "shim" => Victim::Shim,
        "child" => Victim::Child,
        other => bail!("no victim is called {other:?}"),
    };
    let pid = Pid::from_raw(pid.parse().context("PID is not a number")?);
    let step = step.parse().context("STEP is not a number")?;
    let counted = Arc::new(trace::Count::default());
    let mut tracer = trace::Tracer::attach(victim, pid, step, counted.clone())?;
    say("ready")?;
    std::thread::spawn(move || {
        let mut nothing = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut nothing);
        if counted.decided.swap(true, Ordering::SeqCst) {
            // It has been killed at this very moment; the other thread says so and ends the process.
            return;
        }
        // The kernel lets go of all tracees when this process ends.
        let _ = say(&format!("survived {}", counted.steps.load(Ordering::SeqCst)));
        std::process::exit(0);
    });
    let killed = tracer.run()?;
    say(&format!("killed {step} {killed}"))
}

#[cfg(target_arch = "x86_64")]
fn say(line: &str) -> Result<()> {
    use std::io::Write;

    use anyhow::Context;

    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("nobody listens")
}
