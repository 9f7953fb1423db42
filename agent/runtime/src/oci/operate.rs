//! The commands on containers that exist.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::process::ExitCode;

use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::json;

use super::Global;
use super::arguments::{Arguments, Flag, text};
use super::container::{Container, START_SOCKET, Status, check_id};
use crate::container::sync::{Message, Sync};
use crate::driver::{Driver as _, Extras};
use crate::error::IoContext;
use crate::hooks::{Moment, OCI_VERSION};
use crate::shim::open_directory;
use crate::signals;
use crate::{Error, sys};

fn load_only(global: &Global, words: &[OsString]) -> Result<Container, Error> {
    Container::load(global, Arguments::parse(words, &[], false)?.only_id()?)
}

/// Lets the init execute its program; returns once that is known to have succeeded.
pub(super) fn start(global: &Global, words: &[OsString]) -> Result<ExitCode, Error> {
    let container = load_only(global, words)?;
    match container.status() {
        Status::Created => {}
        Status::Stopped => {
            return Err(Error::InvalidSpec(
                "cannot start a container that has stopped".to_owned(),
            ));
        }
        Status::Running => {
            return Err(Error::InvalidSpec(
                "cannot start an already running container".to_owned(),
            ));
        }
        other => {
            let text = format!("cannot start a container in the {} state", other.word());
            return Err(Error::InvalidSpec(text));
        }
    }
    let pidfd = container.pidfd()?;
    let directory = open_directory(&container.dir)?;
    let address = format!("/proc/self/fd/{}/{START_SOCKET}", directory.as_raw_fd());
    let what = || "reach the container's init";
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .context(what)?;
    connect(&socket, &SocketAddrUnix::new(address).context(what)?).context(what)?;
    // From here on no other start can get in.
    std::fs::remove_file(container.dir.join(START_SOCKET)).context(what)?;
    let sync = Sync::from(socket);
    sync.go()?;
    if let Some((Message::Failed(error), _)) = crate::container::sync::receive(&sync.into_fd())? {
        return Err(error.into());
    }
    let hooks = container.hooks(&container.spec()?)?;
    if let Err(error) = hooks.run(Moment::Poststart, "running", container.record.pid) {
        let _ = sys::signal::send(&pidfd, libc::SIGKILL);
        let _ = container.cgroup()?.signal_all(libc::SIGKILL);
        return Err(error);
    }
    Ok(ExitCode::SUCCESS)
}

fn document(container: &Container) -> serde_json::Value {
    let status = container.status();
    let record = &container.record;
    let alive = matches!(status, Status::Created | Status::Running | Status::Paused);
    let root = container.spec().ok().and_then(|s| s.root().clone());
    let mut document = json!({
        "ociVersion": OCI_VERSION,
        "id": record.id,
        "pid": if alive { record.pid } else { 0 },
        "status": status.word(),
        "bundle": record.bundle,
        "rootfs": root.map(|r| r.path().clone()),
        "created": record.created,
        "owner": "root",
    });
    if !record.annotations.is_empty() {
        document["annotations"] = json!(record.annotations);
    }
    document
}

pub(super) fn state(global: &Global, words: &[OsString]) -> Result<ExitCode, Error> {
    let document = document(&load_only(global, words)?);
    println!("{document:#}");
    Ok(ExitCode::SUCCESS)
}

pub(super) fn list(global: &Global, words: &[OsString]) -> Result<ExitCode, Error> {
    const FLAGS: &[Flag] = &[Flag::switch("quiet", Some('q')), Flag::value("format", Some('f'))];
    let arguments = Arguments::parse(words, FLAGS, false)?;
    let documents: Vec<_> = Container::all(global)?.iter().map(document).collect();
    let field = |d: &serde_json::Value, name: &str| match &d[name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match arguments.value("format").unwrap_or("table") {
        _ if arguments.has("quiet") => {
            for document in &documents {
                println!("{}", field(document, "id"));
            }
        }
        "json" => println!("{}", json!(documents)),
        "table" => {
            const NAMES: [&str; 6] = ["id", "pid", "status", "bundle", "created", "owner"];
            let rows: Vec<Vec<String>> = std::iter::once(NAMES.map(str::to_uppercase).to_vec())
                .chain(documents.iter().map(|d| NAMES.map(|n| field(d, n)).to_vec()))
                .collect();
            let width = |i: usize| rows.iter().map(|r| r[i].len()).max().unwrap_or(0).max(9) + 3;
            for row in &rows {
                let cells: Vec<String> = row
                    .iter()
                    .enumerate()
                    .map(|(i, cell)| format!("{cell:<width$}", width = width(i)))
                    .collect();
                println!("{}", cells.concat().trim_end());
            }
        }
        other => return Err(Error::InvalidSpec(format!("invalid format option: {other}"))),
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn processes(global: &Global, words: &[OsString]) -> Result<ExitCode, Error> {
    let arguments = Arguments::parse(words, &[Flag::value("format", Some('f'))], false)?;
    let container = Container::load(global, arguments.only_id()?)?;
    let pids = container.cgroup()?.processes()?;
    match arguments.value("format").unwrap_or("table") {
        "json" => println!("{}", json!(pids)),
        "table" => {
            println!("{:<10} CMD", "PID");
            for pid in pids {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                println!("{pid:<10} {}", line.trim_end());
            }
        }
        other => return Err(Error::InvalidSpec(format!("invalid format option: {other}"))),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the container's processes die with its init.
fn has_pid_namespace(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().clone());
    namespaces.iter().flatten().any(|n| {
        n.typ() == LinuxNamespaceType::Pid && n.path().as_ref().is_none_or(|p| p.as_os_str().is_empty())
    })
}

pub(super) fn kill(global: &Global, words: &[OsString]) -> Result<ExitCode, Error> {
    let arguments = Arguments::parse(words, &[Flag::switch("all", Some('a'))], false)?;
    let (id, rest) = arguments.id()?;
    let signal = match rest {
        [] => libc::SIGTERM,
        [word] => signals::parse(text(word)?)?,
        _ => {
            return Err(Error::InvalidSpec(
                "kill takes a container id and a signal".to_owned(),
            ));
        }
    };
    let container = Container::load(global, id)?;
    let all = arguments.has("all");
    let cgroup = container.cgroup()?;
    if all && container.status() == Status::Stopped && !cgroup.processes().unwrap_or_default().is_empty() {
        // Without a pid namespace of its own the init's end is not that of the others.
        cgroup.signal_all(signal)?;
        return Ok(ExitCode::SUCCESS);
    }
    let pidfd = container.pidfd()?;
    let spec = container.spec()?;
    if all || (signal == libc::SIGKILL && !has_pid_namespace(&spec)) {
        cgroup.signal_all(signal)?;
    }
    match sys::signal::send(&pidfd, signal) {
        // Ended by the signal to all.
        Err(e) if all && e.raw_os_error() == Some(libc::ESRCH) => {}
        Ok(()) if all && signal != libc::SIGKILL => {}
        result => result.context(|| format!("send signal {signal}"))?,
    }
    if signal == libc::SIGKILL && cgroup.is_frozen() {
        // A frozen process does not die before it is thawed (v1).
        cgroup.freeze(false)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn delete(global: &Global, words: &[OsString]) -> Result<ExitCode, Error> {
    let arguments = Arguments::parse(words, &[Flag::switch("force", Some('f'))], false)?;
    let force = arguments.has("force");
    let id = arguments.only_id()?;
    let container = match Container::load(global, id) {
        Ok(container) => container,
        Err(_) if force && check_id(id).is_ok() => {
            // Half of one, or none: force is content with either.
            let _ = std::fs::remove_dir_all(global.root.join(id));
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(error),
    };
    let status = container.status();
    if status != Status::Stopped && !force {
        return Err(Error::InvalidSpec(format!(
            "cannot delete container {id} that is not stopped: {}",
            status.word()
        )));
    }
    let spec = container.spec()?;
    if let Ok(pidfd) = container.pidfd() {
        let _ = sys::signal::send(&pidfd, libc::SIGKILL);
        container.cgroup()?.signal_all(libc::SIGKILL)?;
        wait_for_end(&pidfd)?;
    }
    let mut driver = container.driver(global, spec.clone(), Extras::default())?;
    driver.adopt_ended(container.hooks(&spec)?)?;
    driver.delete()?;
    container.forget();
    Ok(ExitCode::SUCCESS)
}

/// Until a process has ended; it may be nobody's zombie then.
fn wait_for_end(pidfd: &std::os::fd::OwnedFd) -> Result<(), Error> {
    let limit = rustix::event::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    let mut fds = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    match rustix::event::poll(&mut fds, Some(&limit)).context(|| "wait for the container's end")? {
        0 => Err(Error::Shim {
            operation: "delete the container".to_owned(),
            message: "its init was killed and does not end".to_owned(),
        }),
        _ => Ok(()),
    }
}

pub(super) fn freeze(global: &Global, words: &[OsString], freeze: bool) -> Result<ExitCode, Error> {
    let container = load_only(global, words)?;
    let (wanted, what): (&[Status], _) = if freeze {
        (&[Status::Running, Status::Created], "pause")
    } else {
        (&[Status::Paused], "resume")
    };
    let status = container.status();
    if !wanted.contains(&status) {
        return Err(Error::State {
            state: status.word().to_owned(),
            operation: what.to_owned(),
        });
    }
    container.cgroup()?.freeze(freeze)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn update(global: &Global, words: &[OsString]) -> Result<ExitCode, Error> {
    let arguments = Arguments::parse(words, &[Flag::value("resources", Some('r'))], false)?;
    let container = Container::load(global, arguments.only_id()?)?;
    if container.status() == Status::Stopped {
        return Err(Error::InvalidSpec("container not running".to_owned()));
    }
    let resources: LinuxResources = match arguments.value("resources") {
        Some("-") => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .read_to_end(&mut bytes)
                .context(|| "read standard input")?;
            serde_json::from_slice(&bytes).map_err(|source| Error::Json {
                what: "parse the resources".to_owned(),
                source,
            })?
        }
        Some(path) => crate::config::read_json(std::path::Path::new(path))?,
        None => {
            return Err(Error::Unsupported("update without --resources FILE".to_owned()));
        }
    };
    let mut warnings = Vec::new();
    container.cgroup()?.apply(&resources, &mut warnings)?;
    match warnings.first() {
        None => Ok(ExitCode::SUCCESS),
        Some(text) => Err(Error::Unsupported(text.clone())),
    }
}
