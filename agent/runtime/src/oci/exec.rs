//! `exec`: a further process in a running container.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use oci_spec::runtime::{Capability, Process};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::arguments::{Arguments, Flag, text};
use super::container::{Container, Status, write_pid};
use super::{Global, create, prepare, protect, terminal};
use crate::config::read_json;
use crate::container::sync::{Message, receive};
use crate::driver::{Driver as _, Extras};
use crate::error::IoContext;
use crate::init::exit_code;
use crate::{Error, sys};

const FLAGS: &[Flag] = &[
    Flag::value("console-socket", None),
    Flag::value("cwd", None),
    Flag::value("env", Some('e')),
    Flag::switch("tty", Some('t')),
    Flag::value("user", Some('u')),
    Flag::value("additional-gids", Some('g')),
    Flag::value("process", Some('p')),
    Flag::switch("detach", Some('d')),
    Flag::value("pid-file", None),
    Flag::value("process-label", None),
    Flag::value("apparmor", None),
    Flag::switch("no-new-privs", None),
    Flag::value("cap", Some('c')),
    Flag::value("preserve-fds", None),
    Flag::value("cgroup", None),
    Flag::switch("ignore-paused", None),
];

pub(super) fn run(global: &Global, words: &[OsString]) -> Result<ExitCode, Error> {
    let arguments = Arguments::parse(words, FLAGS, true)?;
    if arguments.value("cgroup").is_some() {
        return Err(Error::Unsupported("exec --cgroup".to_owned()));
    }
    let container = Container::load(global, arguments.id()?.0)?;
    protect()?;
    let preserved = create::preserved(&arguments)?;
    prepare(preserved)?;
    match container.status() {
        Status::Running | Status::Created => {}
        Status::Paused if arguments.has("ignore-paused") => {}
        Status::Paused => {
            return Err(Error::InvalidSpec(
                "cannot exec in a paused container (use --ignore-paused to override)".to_owned(),
            ));
        }
        _ => {
            return Err(Error::InvalidSpec(
                "cannot exec in a stopped container".to_owned(),
            ));
        }
    }
    let spec = container.spec()?;
    let process = process(&arguments, spec.process().as_ref())?;
    let detached = arguments.has("detach");
    let wants_terminal = process.terminal().unwrap_or(false);
    if wants_terminal && !detached {
        return Err(Error::Unsupported(
            "a terminal in the foreground: use --detach with --console-socket".to_owned(),
        ));
    }
    let console = create::console(&arguments, wants_terminal)?;
    let streams = create::streams(wants_terminal)?;
    let extras = Extras {
        preserved,
        ..Extras::default()
    };
    let mut driver = container.driver(global, spec, extras)?;
    driver.adopt(container.pidfd()?, container.record.pid)?;
    // Before anything runs: a signal for us is meant for it.
    let signals = if detached { None } else { Some(watch()?) };
    let launched = driver.exec("exec", &process, streams)?;
    if let (Some(socket), Some(master)) = (&console, &launched.console) {
        terminal::deliver(socket, master)?;
    }
    if let Some(path) = arguments.value("pid-file") {
        write_pid(Path::new(path), launched.pid)?;
    }
    if let Some(outcome) = launched.outcome
        && let Some((Message::Failed(error), _)) = receive(&outcome)?
    {
        // It ends by itself; a zombie would keep the container's pid namespace.
        let pid = i32::try_from(launched.pid).ok().and_then(Pid::from_raw);
        let _ = waitpid(pid, WaitOptions::empty());
        return Err(error.into());
    }
    match signals {
        None => Ok(ExitCode::SUCCESS),
        Some(signals) => wait(launched.pid, &signals),
    }
}

/// What to run: from a file, or the container's own process with changes.
fn process(arguments: &Arguments, base: Option<&Process>) -> Result<Process, Error> {
    if let Some(path) = arguments.value("process") {
        let mut process: Process = read_json(Path::new(path))?;
        if arguments.has("tty") {
            process.set_terminal(Some(true));
        }
        return Ok(process);
    }
    let (_, words) = arguments.id()?;
    let command: Vec<String> = words
        .iter()
        .map(|w| text(w).map(str::to_owned))
        .collect::<Result<_, _>>()?;
    if command.is_empty() {
        return Err(Error::InvalidSpec("process args cannot be empty".to_owned()));
    }
    let mut process = base.cloned().unwrap_or_default();
    process.set_args(Some(command));
    process.set_terminal(Some(arguments.has("tty")));
    if let Some(cwd) = arguments.value("cwd") {
        process.set_cwd(cwd.into());
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(arguments.values("env").map(str::to_owned));
    process.set_env(Some(env));
    if arguments.has("no-new-privs") {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(label) = arguments.value("process-label") {
        process.set_selinux_label(Some(label.to_owned()));
    }
    if let Some(profile) = arguments.value("apparmor") {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    change_user(arguments, &mut process)?;
    add_capabilities(arguments, &mut process)?;
    Ok(process)
}

fn change_user(arguments: &Arguments, process: &mut Process) -> Result<(), Error> {
    let number = |text: &str| {
        text.parse::<u32>()
            .map_err(|_| Error::InvalidSpec(format!("{text} is not a user or group id")))
    };
    let mut user = process.user().clone();
    if let Some(value) = arguments.value("user") {
        let (uid, gid) = value.split_once(':').map_or((value, None), |(u, g)| (u, Some(g)));
        user.set_uid(number(uid)?);
        if let Some(gid) = gid {
            user.set_gid(number(gid)?);
        }
    }
    let added: Vec<u32> = arguments
        .values("additional-gids")
        .map(number)
        .collect::<Result<_, _>>()?;
    if !added.is_empty() {
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(added);
        user.set_additional_gids(Some(groups));
    }
    process.set_user(user);
    Ok(())
}

fn add_capabilities(arguments: &Arguments, process: &mut Process) -> Result<(), Error> {
    let added: Vec<Capability> = arguments
        .values("cap")
        .map(|name| {
            serde_json::from_value(serde_json::Value::String(name.to_owned()))
                .map_err(|_| Error::InvalidSpec(format!("no such capability: {name}")))
        })
        .collect::<Result<_, _>>()?;
    if added.is_empty() {
        return Ok(());
    }
    let mut sets = process.capabilities().clone().unwrap_or_default();
    let with = |set: &Option<std::collections::HashSet<Capability>>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(added.iter().copied());
        Some(set)
    };
    sets.set_bounding(with(sets.bounding()));
    sets.set_effective(with(sets.effective()));
    sets.set_permitted(with(sets.permitted()));
    process.set_capabilities(Some(sets));
    Ok(())
}

/// Signals that are passed on to a process in the foreground, and the end of it.
const WATCHED: [i32; 8] = [
    libc::SIGCHLD,
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
];

fn watch() -> Result<std::os::fd::OwnedFd, Error> {
    sys::signal::descriptor(&WATCHED).context(|| "make a signal descriptor")
}

fn wait(pid: u32, signals: &std::os::fd::OwnedFd) -> Result<ExitCode, Error> {
    let child = i32::try_from(pid).ok().and_then(Pid::from_raw);
    loop {
        if let Some((_, status)) = waitpid(child, WaitOptions::NOHANG).context(|| "wait for the process")? {
            return Ok(ExitCode::from(u8::try_from(exit_code(status)).unwrap_or(255)));
        }
        let mut fds = [rustix::event::PollFd::new(signals, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context(|| "wait for the process"),
        }
        // struct signalfd_siginfo: 128 bytes, the signal's number first.
        let mut info = [0_u8; 128];
        while rustix::io::read(signals, &mut info).is_ok() {
            let signal = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            if signal != libc::SIGCHLD {
                let _ = sys::signal::kill(pid, signal);
            }
        }
    }
}
