//! OCI container processes and the shim that holds them. The only crate with `unsafe` code, kept in `sys`.
//!
//! Layout:
//! - [`client`]: what the engine calls: spawn a shim, connect to a running one, attach, exec, wait.
//! - `shim`: the process on the other end: one thread, one poll loop, one container.
//! - `driver`: how a container is made: our own code (`native`) or an OCI command line (`external`).
//! - `oci`: the command line of an OCI runtime, for other engines and for conformance suites.
//! - `container`: the inside of the native driver: namespaces, root file system, privileges, execve.
//! - [`FileView`]: a container's files for somebody outside.
//! - [`cgroup`], `seccomp`, [`defaults`]: limits and statistics, filters, Docker's default policy.
//!
//! The main path of a run: `ShimClient::spawn` writes the configuration and starts the shim; the shim
//! clones the container's init, which builds its world and waits; `start` lets it call execve; at its end
//! the shim writes the exit record, removes the cgroups and leaves.

pub mod cgroup;
pub mod client;
mod config;
mod container;
pub mod defaults;
mod driver;
mod error;
mod exit;
mod hooks;
mod init;
mod log;
mod oci;
mod protocol;
mod seccomp;
mod shim;
mod signals;
mod sys;

pub use client::{
    AttachOptions, Attachment, ExecProcess, ExecSpec, OutputReader, ShimClient, StdStream, StdinWriter,
    destroy, destroy_cgroup, own_command, set_shim_executable,
};
pub use config::{RootfsMount, RuntimeKind, ShimConfig};
pub use container::{FileView, ViewSource, act_as, clean_path, is_ipc_sysctl};
pub use error::{Error, chain};
pub use exit::{ExitRecord, read_exit_record};
pub use log::{FileLog, JournaldLog, LogConfig, LogTarget, SyslogAddress, SyslogFormat, SyslogLog, TlsFiles};
pub use protocol::ContainerState;
pub use sys::process::{bound_arenas, trim_memory};

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

/// Makes an empty btrfs subvolume called `name` in the directory `dir`.
///
/// # Errors
/// `ENOTTY` on another file system, `EEXIST` and the like.
pub fn create_subvolume(dir: &std::fs::File, name: &OsStr) -> std::io::Result<()> {
    sys::btrfs::create_subvolume(dir, name)
}

/// Makes a writable snapshot, called `name`, of the btrfs subvolume `of` in the directory `dir`.
///
/// # Errors
/// As [`create_subvolume`]; `EXDEV` when `of` is on another file system.
pub fn snapshot_subvolume(dir: &std::fs::File, name: &OsStr, of: &std::fs::File) -> std::io::Result<()> {
    sys::btrfs::snapshot_subvolume(dir, name, of)
}

/// Entry point of the hidden subcommand `shim <dir>`. Call it before any thread exists: the shim forks.
pub fn shim_main(dir: &OsStr) -> ExitCode {
    shim::main(std::path::Path::new(dir))
}

/// Entry point of the hidden subcommand `shim-log`, which a shim runs: the writer of a log that may be slow, or the
/// compression of a rotated file. Takes what follows `shim-log`.
pub fn shim_log_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    shim::log_main(&arguments.into_iter().collect::<Vec<_>>())
}

/// True if this process was started as a container's init: its name says so, as process listings are to show Docker's
/// `/sbin/docker-init -- program`. Then call [`init_main`] with what follows the name.
pub fn is_init(name: Option<&OsStr>) -> bool {
    name.is_some_and(|name| name.as_encoded_bytes() == init::NAME.to_bytes())
}

/// Pid 1 of a container started with `--init`: takes `-- <program> <arguments...>`. Forwards signals to the one
/// child that it starts, reaps everything, returns the child's status.
pub fn init_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    init::main(arguments.into_iter().collect())
}

/// Entry point of the hidden subcommand `oci`: the command line of an OCI runtime, grammar as runc's. Takes what
/// follows `oci`. Call it before any thread exists.
pub fn oci_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    oci::main(arguments.into_iter().collect())
}
