//! The shim: one process per container, one thread, one poll loop. Holds the container's streams, writes its
//! log, answers the daemon, survives it, leaves the exit record.

mod connection;
mod log;
mod process;
mod requests;
mod server;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::config::{CONFIG_FILE, SPEC_FILE, STATE_FILE, read_json, write_json};
use crate::error::IoContext;
use crate::protocol::{ContainerState, Hello, WireError};
use crate::{Error, ShimConfig, driver, sys};
use process::{Input, Process};
use server::Server;

/// What [`crate::destroy`] needs when the shim does not answer. Pids alone may be reused; with the start time
/// they can't be mistaken.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StateFile {
    pub shim_pid: u32,
    pub shim_started: u64,
    pub init_pid: u32,
}

/// Field 22 of `/proc/<pid>/stat`: start time in clock ticks since boot.
pub(crate) fn started_at(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may contain spaces and parentheses; the last one ends it.
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Runs a shim until its container has ended.
pub(crate) fn main(dir: &Path) -> ExitCode {
    match create(dir) {
        Ok((server, state)) => {
            hello(&Hello::Created(state));
            sys::process::trim_memory();
            server.run();
            ExitCode::SUCCESS
        }
        Err(error) => {
            hello(&Hello::Failed(WireError::from_error(
                "create the container",
                &error,
            )));
            ExitCode::FAILURE
        }
    }
}

/// Runs a helper of a shim's log.
pub(crate) fn log_main(arguments: &[std::ffi::OsString]) -> ExitCode {
    log::main(arguments)
}

/// Tells the daemon and lets go of the pipe to it.
fn hello(hello: &Hello) {
    let mut line = serde_json::to_vec(hello).unwrap_or_default();
    line.push(b'\n');
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(&line).and_then(|()| stdout.flush());
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

fn create(dir: &Path) -> Result<(Server, ContainerState), Error> {
    // Whatever the daemon had open: a container must never get at it, and we hold nothing yet.
    sys::exec::close_from(3).context(|| "close inherited descriptors")?;
    // Not to keep a directory busy that somebody wants to unmount.
    rustix::process::chdir("/").context(|| "leave the daemon's directory")?;
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).context(|| "become a subreaper")?;
    // Inherited by every process that joins a container, until its execve: nobody inside may trace it and so
    // get at our descriptors (CVE-2016-9962).
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .context(|| "become untraceable")?;
    let signals = sys::signal::descriptor(&[libc::SIGCHLD]).context(|| "make a signal descriptor")?;

    let config: ShimConfig = read_json(&dir.join(CONFIG_FILE))?;
    let mut spec: Spec = read_json(&dir.join(SPEC_FILE))?;
    if let Some(process) = spec.process_mut() {
        process.set_terminal(Some(config.tty));
    }
    std::fs::create_dir_all(&config.rootfs_path)
        .context(|| format!("create {}", config.rootfs_path.display()))?;
    let log = log::Log::open(&config.log, dir)?;
    let mut driver = driver::open(&config, spec)?;
    let input = Input {
        open: config.open_stdin,
        once: config.stdin_once,
    };
    let (streams, ends) = process::streams(config.tty, input.open)?;
    let created = driver.create(streams)?;
    let init = Process::new(created.pid, None, ends, created.console, input)?;
    let shim_pid = std::process::id();
    let state = ContainerState {
        pid: created.pid,
        status: "created".to_owned(),
        warnings: created.warnings,
        execs: Vec::new(),
        shim_pid,
    };
    let finish = || -> Result<_, Error> {
        let shim_started = started_at(shim_pid).unwrap_or(0);
        let file = StateFile {
            shim_pid,
            shim_started,
            init_pid: created.pid,
        };
        write_json(&dir.join(STATE_FILE), &file)?;
        server::listen(dir)
    };
    match finish() {
        Ok(listener) => {
            let server = Server::new(
                config,
                driver,
                listener,
                signals,
                server::Start {
                    init,
                    log,
                    state: state.clone(),
                },
            );
            Ok((server, state))
        }
        Err(error) => {
            let _ = driver.kill(libc::SIGKILL, true);
            let _ = driver.delete();
            Err(error)
        }
    }
}

/// Opens a directory so that paths below it fit into a socket address.
pub(crate) fn open_directory(dir: &Path) -> Result<std::os::fd::OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, dir, flags, Mode::empty()).context(|| format!("open {}", dir.display()))
}
