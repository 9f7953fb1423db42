//! `create`: a container from a bundle, its init waiting to be started. On failure nothing is left.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use super::arguments::{Arguments, Flag};
use super::container::{Container, Record, START_SOCKET, check_id, write_pid};
use super::{Global, bundle, prepare, protect, terminal};
use crate::Error;
use crate::container::child::Stdio;
use crate::driver::{Created, Driver as _, Extras, Streams};
use crate::error::IoContext;
use crate::shim::{open_directory, started_at};

const FLAGS: &[Flag] = &[
    Flag::value("bundle", Some('b')),
    Flag::value("console-socket", None),
    Flag::value("pid-file", None),
    Flag::value("preserve-fds", None),
    Flag::switch("no-new-keyring", None),
    Flag::switch("no-pivot", None),
];

pub(super) fn run(global: &Global, words: &[OsString]) -> Result<ExitCode, Error> {
    let arguments = Arguments::parse(words, FLAGS, false)?;
    let id = arguments.only_id()?;
    check_id(id)?;
    if arguments.has("no-pivot") {
        return Err(Error::Unsupported(
            "--no-pivot: a container is always confined by pivot_root".to_owned(),
        ));
    }
    protect()?;
    let preserved = preserved(&arguments)?;
    prepare(preserved)?;
    let bundle = arguments.value("bundle").unwrap_or(".");
    let bundle = std::fs::canonicalize(bundle).context(|| format!("bundle {bundle}"))?;
    let spec = bundle::read(&bundle)?;
    let record = Record {
        id: id.to_owned(),
        bundle,
        pid: 0,
        started: 0,
        created: jiff::Timestamp::now().to_string(),
        cgroup: bundle::cgroup_path(&spec, id),
        annotations: spec.annotations().clone().unwrap_or_default(),
    };
    let wants_terminal = spec
        .process()
        .as_ref()
        .and_then(|p| p.terminal())
        .unwrap_or(false);
    let console = console(&arguments, wants_terminal)?;
    let mut container = Container::reserve(global, record, &spec)?;
    let extras = Extras {
        preserved,
        keep_keyring: arguments.has("no-new-keyring"),
        ..Extras::default()
    };
    let pid_file = arguments.value("pid-file").map(Path::new);
    let result = create(global, &mut container, spec, (extras, console, pid_file));
    if result.is_err() {
        container.forget();
        if let Some(path) = pid_file {
            let _ = std::fs::remove_file(path);
        }
    }
    result.map(|()| ExitCode::SUCCESS)
}

/// Descriptors after the standard ones that the container's process inherits.
pub(super) fn preserved(arguments: &Arguments) -> Result<u32, Error> {
    let sockets = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|n| n.parse::<u32>().ok());
    Ok(arguments.number("preserve-fds")?.unwrap_or(0) + sockets.unwrap_or(0))
}

/// The connection to the console socket; there must be one exactly if there is a terminal.
pub(super) fn console(arguments: &Arguments, wants_terminal: bool) -> Result<Option<OwnedFd>, Error> {
    match (
        arguments.value("console-socket").map(PathBuf::from),
        wants_terminal,
    ) {
        (Some(path), true) => terminal::open(&path).map(Some),
        (None, true) => Err(Error::InvalidSpec(
            "cannot allocate tty if the container is detached without setting console socket".to_owned(),
        )),
        (Some(_), false) => Err(Error::InvalidSpec(
            "cannot use console socket if the container will not detach or allocate tty".to_owned(),
        )),
        (None, false) => Ok(None),
    }
}

/// Our own standard streams, for the container's process.
pub(super) fn streams(wants_terminal: bool) -> Result<Streams, Error> {
    if wants_terminal {
        return Ok(Streams::Terminal);
    }
    let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().context(|| "duplicate a stream");
    Ok(Streams::Pipes(Stdio {
        stdin: copy(std::io::stdin().as_fd())?,
        stdout: copy(std::io::stdout().as_fd())?,
        stderr: copy(std::io::stderr().as_fd())?,
    }))
}

type Rest<'a> = (Extras, Option<OwnedFd>, Option<&'a Path>);

fn create(
    global: &Global,
    container: &mut Container,
    mut spec: oci_spec::runtime::Spec,
    (extras, console, pid_file): Rest<'_>,
) -> Result<(), Error> {
    let scratch = container.dir.join("scratch");
    std::fs::create_dir(&scratch).context(|| format!("create {}", scratch.display()))?;
    if let Some(process) = spec.process_mut() {
        process.set_terminal(Some(console.is_some()));
    }
    let extras = Extras {
        start: Some(listen_for_start(container)?),
        ..extras
    };
    let streams = streams(console.is_some())?;
    let mut driver = container.driver(global, spec, extras)?;
    let created = driver.create(streams)?;
    let result = settle(global, container, &created, (console.as_ref(), pid_file));
    if result.is_err() {
        let _ = driver.kill(libc::SIGKILL, true);
        driver.collect();
        let _ = driver.delete();
    }
    result
}

fn settle(
    global: &Global,
    container: &mut Container,
    created: &Created,
    (console, pid_file): (Option<&OwnedFd>, Option<&Path>),
) -> Result<(), Error> {
    for warning in &created.warnings {
        global.log.warn(warning);
    }
    if let (Some(socket), Some(master)) = (console, &created.console) {
        terminal::deliver(socket, master)?;
    }
    container.record.pid = created.pid;
    container.record.started = started_at(created.pid)
        .ok_or_else(|| Error::Create("the container's init was killed before it was ready".to_owned()))?;
    if let Some(path) = pid_file {
        write_pid(path, created.pid)?;
    }
    container.save()
}

/// The socket at which the init waits, reached through its directory: a path may be longer than an address.
fn listen_for_start(container: &Container) -> Result<OwnedFd, Error> {
    let what = || "make the socket for the start";
    let directory = open_directory(&container.dir)?;
    let path = format!("/proc/self/fd/{}/{START_SOCKET}", directory.as_raw_fd());
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .context(what)?;
    bind(&socket, &SocketAddrUnix::new(path).context(what)?).context(what)?;
    listen(&socket, 16).context(what)?;
    Ok(socket)
}
