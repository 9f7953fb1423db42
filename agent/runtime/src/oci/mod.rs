//! The OCI runtime command line (`pontoon oci`), grammar as runc's: for other engines and for conformance
//! suites. No shim is involved: a container's init becomes the caller's own child (or its subreaper's) and
//! waits for `start` at a socket in the container's state directory.
//!
//! - `arguments`: flags; `bundle`: `config.json`; `container`: the state directory and what it tells
//! - `create`, `exec`: the two that clone; `operate`: the rest; `features`: what this runtime can do

mod arguments;
mod bundle;
mod container;
mod create;
mod exec;
mod features;
mod operate;
mod terminal;

use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::IoContext;
use crate::{Error, sys};
use arguments::{Arguments, Flag};

const GLOBAL: &[Flag] = &[
    Flag::value("root", None),
    Flag::value("log", None),
    Flag::value("log-format", None),
    Flag::switch("debug", None),
    Flag::switch("systemd-cgroup", None),
    Flag::value("rootless", None),
    Flag::switch("version", Some('v')),
    Flag::switch("help", Some('h')),
];

const USAGE: &str = "\
Usage: pontoon oci [--root DIR] [--log FILE] [--log-format text|json] [--debug] COMMAND

  create [-b BUNDLE] [--console-socket PATH] [--pid-file FILE] [--preserve-fds N] [--no-new-keyring] ID
  start ID
  state ID
  kill [--all] ID [SIGNAL]
  delete [--force] ID
  exec [-d] [-t] [-e VAR=VALUE] [-u UID[:GID]] [--cwd DIR] [-p FILE] [--pid-file FILE] ID COMMAND [ARG...]
  list [-q] [-f table|json] | ps [-f table|json] ID
  pause ID | resume ID
  update [-r FILE|-] ID
  features
";

/// What every command is given.
struct Global {
    /// Directory of all containers' state directories.
    root: PathBuf,
    log: Log,
}

/// Where messages go: a file that the caller reads, and standard error.
struct Log {
    file: Option<PathBuf>,
    json: bool,
}

impl Log {
    fn line(&self, level: &str, message: &str) -> String {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        if self.json {
            serde_json::json!({"level": level, "msg": message, "time": time.to_string()}).to_string()
        } else {
            format!("time=\"{time}\" level={level} msg={message:?}")
        }
    }

    fn write(&self, level: &str, message: &str) {
        let line = self.line(level, message);
        let Some(path) = &self.file else {
            eprintln!("{line}");
            return;
        };
        let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
        if let Err(error) = opened.and_then(|mut file| writeln!(file, "{line}")) {
            eprintln!("{}: {error}", path.display());
        }
    }

    fn warn(&self, message: &str) {
        self.write("warning", message);
    }

    /// As runc: into the log, and plainly to standard error if the log is elsewhere.
    fn error(&self, message: &str) {
        self.write("error", message);
        if self.file.is_some() {
            eprintln!("{message}");
        }
    }
}

/// Runs one command. Takes what follows `oci`; call it before any thread exists.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    let (global, command, rest) = match Arguments::parse(&arguments, GLOBAL, true)
        .map_err(Outcome::from)
        .and_then(global)
    {
        Ok(parsed) => parsed,
        Err(Outcome::Done(code)) => return code,
        Err(Outcome::Failed(error)) => {
            eprintln!("{}\n{USAGE}", error.chain());
            return ExitCode::FAILURE;
        }
    };
    if !rustix::process::geteuid().is_root() && command != "features" {
        global
            .log
            .error("rootless containers are not supported: run this as root");
        return ExitCode::FAILURE;
    }
    let result = dispatch(&global, &command, &rest);
    match result {
        Ok(code) => code,
        Err(error) if command == "exec" => {
            global.log.error(&format!("exec failed: {}", error.chain()));
            ExitCode::from(255)
        }
        Err(error) => {
            global.log.error(&error.chain());
            ExitCode::FAILURE
        }
    }
}

/// Why nothing is dispatched.
enum Outcome {
    Done(ExitCode),
    Failed(Error),
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

fn global(arguments: Arguments) -> Result<(Global, String, Vec<OsString>), Outcome> {
    if arguments.has("version") {
        println!(
            "pontoon version {}\nspec: {}",
            env!("CARGO_PKG_VERSION"),
            crate::hooks::OCI_VERSION
        );
        return Err(Outcome::Done(ExitCode::SUCCESS));
    }
    let Some((command, rest)) = arguments.rest.split_first().filter(|_| !arguments.has("help")) else {
        print!("{USAGE}");
        return Err(Outcome::Done(ExitCode::SUCCESS));
    };
    if arguments.has("systemd-cgroup") {
        return Err(
            Error::Unsupported("--systemd-cgroup: cgroups are made in the file system".to_owned()).into(),
        );
    }
    if arguments.value("rootless").is_some_and(|v| v == "true") {
        return Err(Error::Unsupported("--rootless".to_owned()).into());
    }
    let json = match arguments.value("log-format") {
        None | Some("text") => false,
        Some("json") => true,
        Some(other) => {
            return Err(Error::InvalidSpec(format!("invalid log-format: {other}")).into());
        }
    };
    let global = Global {
        root: arguments.value("root").unwrap_or("/run/pontoon-oci").into(),
        log: Log {
            file: arguments
                .value("log")
                .filter(|v| *v != "/dev/stderr")
                .map(PathBuf::from),
            json,
        },
    };
    Ok((global, command.to_string_lossy().into_owned(), rest.to_vec()))
}

fn dispatch(global: &Global, command: &str, rest: &[OsString]) -> Result<ExitCode, Error> {
    match command {
        "create" => create::run(global, rest),
        "exec" => exec::run(global, rest),
        "start" => operate::start(global, rest),
        "state" => operate::state(global, rest),
        "kill" => operate::kill(global, rest),
        "delete" => operate::delete(global, rest),
        "list" => operate::list(global, rest),
        "ps" => operate::processes(global, rest),
        "pause" => operate::freeze(global, rest, true),
        "resume" => operate::freeze(global, rest, false),
        "update" => operate::update(global, rest),
        "features" => features::print(),
        "run" | "checkpoint" | "restore" | "events" | "spec" => Err(Error::Unsupported(format!(
            "the command {command}: use create, start, state, kill and delete"
        ))),
        other => Err(Error::InvalidSpec(format!("no such command: {other}"))),
    }
}

/// Marks a run of our binary that went through [`protect`].
const PROTECTED: &str = "PONTOON_OCI_PROTECTED";

/// Runs this binary again through a read-only mount of its own that is attached nowhere, for commands whose
/// children enter a container: what gets hold of `/proc/<pid>/exe` there can't write to it (CVE-2019-5736).
fn protect() -> Result<(), Error> {
    if std::env::var_os(PROTECTED).is_some() {
        return Ok(());
    }
    let what = || "protect our own binary";
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, "/proc/self/exe", flags).context(what)?;
    sys::mount::set_attributes(&tree, false, sys::mount::attr::RDONLY, 0, libc::MS_PRIVATE).context(what)?;
    use std::os::unix::process::CommandExt as _;
    let error = std::process::Command::new(format!("/proc/self/fd/{}", tree.as_raw_fd()))
        .arg0("pontoon")
        .args(std::env::args_os().skip(1))
        .env(PROTECTED, "1")
        .exec();
    Err(error).context(what)
}

/// What a process that clones into a container must be: silent to tracers, and holding nothing of the
/// caller's but the `preserved` descriptors after the standard ones.
fn prepare(preserved: u32) -> Result<(), Error> {
    for number in 0..3 + preserved {
        let path = format!("/proc/self/fd/{number}");
        if rustix::fs::readlink(&path, Vec::new()).is_ok() {
            continue;
        }
        if number >= 3 {
            return Err(Error::InvalidSpec(format!(
                "descriptor {number} is to be preserved, but is not open"
            )));
        }
        // Never leave 0, 1 or 2 to the next file that is opened.
        rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())
            .map(std::mem::forget)
            .context(|| "open /dev/null")?;
    }
    sys::exec::close_from(3 + preserved).context(|| "close inherited descriptors")?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .context(|| "become untraceable")
}
