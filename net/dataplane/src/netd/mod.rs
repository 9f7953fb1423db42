//! The netd process: `<exe> netd <run dir>`.
//!
//! - here: the life of the process: lock, socket, sweep, end;
//! - `server`: what it serves, and the operations on that;
//! - `control`: control connections;
//! - `sandbox`: one sandbox's sockets and tasks;
//! - `tunnel`: the tunnel of encrypted networks.
//!
//! One thread and, with a tunnel, its workers; one process for each run directory. It keeps its tables and sockets while no daemon is there.

mod control;
mod sandbox;
mod server;
mod tunnel;

use std::{
    cell::RefCell,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, Mode, flock},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tokio::{net::UnixListener, sync::Notify, task::JoinSet};

use crate::{netns::identity, protocol};
use server::Server;

/// How often netd looks whether its run directory and the sandboxes' namespaces are still there.
const SWEEP: Duration = Duration::from_secs(2);

/// Why netd could not start or had to end.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error("the run directory {0} is not usable")]
    RunDir(PathBuf, #[source] io::Error),
    #[error("another netd serves {0}")]
    Locked(PathBuf),
    #[error("could not listen on {0}")]
    Listen(PathBuf, #[source] io::Error),
    #[error("could not start the runtime")]
    Runtime(#[source] io::Error),
}

/// Runs netd for a run directory until it is told to end or the directory is gone. Called by the binary before any
/// thread or runtime exists; standard error is its log.
#[must_use]
pub fn netd_main(run_dir: &OsStr) -> ExitCode {
    let format = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false);
    // A subscriber that is set already belongs to a test.
    let _ = format.try_init();
    match run(Path::new(run_dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(source, "{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(run_dir: &Path) -> Result<(), Fatal> {
    let unusable = |error| Fatal::RunDir(run_dir.to_owned(), error);
    let run_dir = fs::canonicalize(run_dir).map_err(unusable)?;
    let _lock = lock(&run_dir)?;
    // Its own session, so that no terminal's signal meant for the daemon ends it. Fails only for a leader, which
    // has one already.
    let _ = rustix::process::setsid();
    // The socket must never be open to others, not even between bind and chmod.
    rustix::process::umask(Mode::from_bits_truncate(0o077));
    // Not to keep a directory busy that somebody wants to unmount.
    let _ = std::env::set_current_dir("/");
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Fatal::Runtime)?;
    let tasks = tokio::task::LocalSet::new();
    let result = tasks.block_on(&runtime, serve(&run_dir));
    let _ = fs::remove_file(protocol::socket_path(&run_dir));
    result
}

/// Takes the lock that makes this the only netd here. The kernel gives it back when the process ends in any way.
fn lock(run_dir: &Path) -> Result<File, Fatal> {
    let path = protocol::lock_path(run_dir);
    let unusable = |error| Fatal::RunDir(run_dir.to_owned(), error);
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(unusable)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| Fatal::Locked(run_dir.to_owned()))?;
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(unusable)?;
    Ok(file)
}

/// Each sandbox holds three descriptors, so the usual soft limit of 1024 is soon met.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
}

/// Binds the control socket in place of one that a killed netd left behind.
fn listen(run_dir: &Path) -> Result<UnixListener, Fatal> {
    let path = protocol::socket_path(run_dir);
    let failed = |error| Fatal::Listen(path.clone(), error);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    UnixListener::bind(&path).map_err(failed)
}

async fn serve(run_dir: &Path) -> Result<(), Fatal> {
    let home = identity(run_dir).map_err(|error| Fatal::RunDir(run_dir.to_owned(), error))?;
    let server = Rc::new(RefCell::new(Server::default()));
    let end = Rc::new(Notify::new());
    let mut listener = listen(run_dir)?;
    let mut connections = JoinSet::new();
    let mut sweep = tokio::time::interval(SWEEP);
    tracing::info!(run_dir = %run_dir.display(), pid = std::process::id(), "netd serves");
    loop {
        tokio::select! {
            () = end.notified() => {
                tracing::info!("netd ends as it was told to");
                return Ok(());
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn_local(control::serve(Rc::clone(&server), Rc::clone(&end), stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a control connection failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            _ = sweep.tick() => {
                if identity(run_dir).ok() != Some(home) {
                    tracing::info!("netd ends: its run directory is gone");
                    return Ok(());
                }
                if !protocol::socket_path(run_dir).exists() {
                    tracing::warn!("the control socket was removed by somebody and is made again");
                    listener = listen(run_dir)?;
                }
                server.borrow_mut().sweep();
            }
        }
    }
}
