//! The tracer: attaches to every thread, follows what is to be followed, and stops everything at the step. Called by `main`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::Victim;
use crate::steps;

/// `PTRACE_EVENT_STOP`: an attached thread has stopped, or the whole process is (ptrace(2)).
const EVENT_STOP: i32 = 128;

/// What both threads of this program know.
#[derive(Default)]
pub struct Count {
    /// Steps seen.
    pub steps: AtomicUsize,
    /// Somebody has decided how it ends: the tracer by killing, or the end of input by sparing. The first one counts.
    pub decided: AtomicBool,
}

/// The tracer of a daemon.
pub struct Tracer {
    victim: Victim,
    step: usize,
    counted: Arc<Count>,
    daemon: Pid,
    shim: Option<Pid>,
    /// Thread → its process.
    processes: HashMap<Pid, Pid>,
    /// Forked by the shim.
    children: HashSet<Pid>,
    /// The step, if it came before every thread was attached: the daemon was still at the end of earlier work.
    early: Option<String>,
}

impl Tracer {
    /// Attaches to all threads of `daemon`. A stopped one (SIGSTOP) goes on.
    pub fn attach(victim: Victim, daemon: Pid, step: usize, counted: Arc<Count>) -> Result<Self> {
        let mut options =
            Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEEXEC;
        if victim != Victim::Daemon {
            options |= Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK;
        }
        let mut tracer = Self {
            victim,
            step,
            counted,
            daemon,
            shim: None,
            processes: HashMap::new(),
            children: HashSet::new(),
            early: None,
        };
        // A thread that one of them starts before it was attached shows up in the next listing.
        loop {
            let mut new = 0;
            for thread in threads(daemon)? {
                if tracer.processes.contains_key(&thread) {
                    continue;
                }
                match ptrace::seize(thread, options) {
                    Ok(()) => {
                        ptrace::interrupt(thread).context("cannot interrupt a thread")?;
                        tracer.processes.insert(thread, daemon);
                        new += 1;
                    }
                    Err(Errno::ESRCH) => {}
                    // It was followed from the thread that has made it.
                    Err(Errno::EPERM) if !tracer.processes.is_empty() => {
                        tracer.processes.insert(thread, daemon);
                    }
                    Err(error) => return Err(error).context(format!("cannot trace {thread}")),
                }
            }
            if new == 0 {
                break;
            }
        }
        // Every thread has to stop once before its system calls can be followed.
        let mut waiting: HashSet<Pid> = tracer.processes.keys().copied().collect();
        while !waiting.is_empty() && tracer.early.is_none() {
            let status = waitpid(None, Some(WaitPidFlag::__WALL)).context("cannot wait for the threads")?;
            if let Some(pid) = status.pid() {
                waiting.remove(&pid);
            }
            tracer.early = tracer.handle(status)?;
        }
        let _ = kill(daemon, Signal::SIGCONT);
        Ok(tracer)
    }

    /// Follows until the step; gives the call's name.
    pub fn run(&mut self) -> Result<String> {
        if let Some(killed) = self.early.take() {
            return Ok(killed);
        }
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                // All have ended by themselves: nothing to kill any more; whoever started us closes our input.
                Err(Errno::ECHILD) => loop {
                    std::thread::park();
                },
                Err(error) => return Err(error).context("cannot wait for tracees"),
            };
            if let Some(killed) = self.handle(status)? {
                return Ok(killed);
            }
        }
    }

    fn handle(&mut self, status: WaitStatus) -> Result<Option<String>> {
        match status {
            WaitStatus::PtraceSyscall(thread) => {
                if let Some(what) = self.entered(thread)? {
                    return Ok(Some(what));
                }
                resume(thread, None)?;
            }
            WaitStatus::PtraceEvent(thread, _, EVENT_STOP) => resume(thread, None)?,
            WaitStatus::PtraceEvent(thread, _, event) => self.event(thread, event)?,
            WaitStatus::Stopped(thread, signal) => resume(thread, Some(signal))?,
            WaitStatus::Exited(thread, _) | WaitStatus::Signaled(thread, ..) => {
                self.processes.remove(&thread);
            }
            _ => {}
        }
        Ok(None)
    }

    /// A thread, process or program came about.
    fn event(&mut self, thread: Pid, event: i32) -> Result<()> {
        let process = self.process_of(thread);
        match event {
            libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK => {
                let new = ptrace::getevent(thread).context("cannot read whom a thread has made")?;
                let new = Pid::from_raw(i32::try_from(new).context("a process id out of range")?);
                // Told apart by /proc: clone(2) makes both threads and processes.
                let owner = process_of(new).unwrap_or(new);
                if owner != process && self.shim == Some(process) {
                    self.children.insert(owner);
                }
                self.processes.insert(new, owner);
            }
            libc::PTRACE_EVENT_EXEC if process != self.daemon => {
                let line = std::fs::read(format!("/proc/{thread}/cmdline")).unwrap_or_default();
                if line.starts_with(b"pontoon-shim\0") && self.shim.is_none() {
                    self.shim = Some(process);
                } else {
                    // The container's program, or a helper like runc's: not ours.
                    self.processes.remove(&thread);
                    self.children.remove(&process);
                    return match ptrace::detach(thread, None) {
                        Ok(()) | Err(Errno::ESRCH) => Ok(()),
                        Err(error) => Err(error).context("cannot detach"),
                    };
                }
            }
            _ => {}
        }
        resume(thread, None)
    }

    /// A thread enters or leaves a system call; at the step its name is given, and the victim is dead.
    fn entered(&mut self, thread: Pid) -> Result<Option<String>> {
        let process = self.process_of(thread);
        let is_child = self.children.contains(&process);
        let counts = match self.victim {
            Victim::Daemon => process == self.daemon,
            Victim::Shim => self.shim == Some(process) || is_child,
            Victim::Child => is_child,
        };
        if !counts {
            return Ok(None);
        }
        let regs = match ptrace::getregs(thread) {
            Ok(regs) => regs,
            Err(Errno::ESRCH) => return Ok(None),
            Err(error) => return Err(error).context("cannot read registers"),
        };
        // At the entry the kernel has put this there, at the exit it is the result.
        if regs.rax != (-i64::from(libc::ENOSYS)).cast_unsigned() {
            return Ok(None);
        }
        let Some(what) = steps::step(process, thread, &regs) else {
            return Ok(None);
        };
        let is_step = self.counted.steps.fetch_add(1, Ordering::SeqCst) + 1 == self.step;
        if !is_step || self.counted.decided.swap(true, Ordering::SeqCst) {
            return Ok(None);
        }
        let victim = match self.victim {
            Victim::Daemon => self.daemon,
            Victim::Shim => self.shim.unwrap_or(process),
            Victim::Child => process,
        };
        // A thread that is stopped at the entry of a call and has SIGKILL does not make the call.
        kill(victim, Signal::SIGKILL).context("cannot kill the victim")?;
        let who = if is_child { "child: " } else { "" };
        Ok(Some(format!("{who}{what}")))
    }

    fn process_of(&mut self, thread: Pid) -> Pid {
        *self
            .processes
            .entry(thread)
            .or_insert_with(|| process_of(thread).unwrap_or(thread))
    }
}

fn resume(thread: Pid, signal: Option<Signal>) -> Result<()> {
    match ptrace::syscall(thread, signal) {
        // Killed in the meantime.
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).context(format!("cannot resume {thread}")),
    }
}

fn threads(process: Pid) -> Result<Vec<Pid>> {
    let folder = format!("/proc/{process}/task");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot list {folder}"))?;
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names
        .filter_map(|name| name.parse().ok().map(Pid::from_raw))
        .collect())
}

fn process_of(thread: Pid) -> Option<Pid> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok().map(Pid::from_raw)
}
