//! The last steps of every process in a container: its user, its working directory, its environment, then execve. Called by
//! [`super::child`] once all namespaces are entered.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use super::child::own_pid;
use super::plan::ProcessPlan;
use super::{credentials, lookup};
use crate::error::IoContext;
use crate::hooks::{Hooks, Moment};
use crate::{Error, sys};

/// Longest `/etc/passwd` that is searched for a home directory.
const MAX_PASSWD: u64 = 1 << 20;

/// The last steps, the same for both. Returns only with an error.
pub(super) fn execute(
    plan: &ProcessPlan,
    own_binary: Option<&OwnedFd>,
    hooks: Option<&Hooks>,
) -> Result<(), Error> {
    let env = environment(plan);
    // As root first, for directories that only root may enter; if it may not (NFS), as the user below.
    let entered = rustix::process::chdir(&plan.cwd);
    credentials::become_user(plan)?;
    if entered.is_err() {
        rustix::process::chdir(&plan.cwd).context(|| format!("chdir to cwd {}", plan.cwd.display()))?;
    }
    verify_cwd()?;
    let program = lookup::program(plan)?;
    sys::exec::close_on_exec_from(3 + plan.preserved).context(|| "close descriptors")?;
    if let Some(hooks) = hooks {
        hooks.run(Moment::StartContainer, "created", own_pid())?;
    }
    sys::signal::reset_all();
    credentials::seal(plan)?;
    let error = match own_binary {
        Some(binary) => {
            let argv = [crate::init::NAME.to_owned(), c"--".to_owned()];
            let argv: Vec<CString> = argv.into_iter().chain(plan.argv.iter().cloned()).collect();
            sys::exec::execve_descriptor(binary, &argv, &env)
        }
        None => sys::exec::execve(&program, &plan.argv, &env),
    };
    Err(lookup::execve_failure(&program, &error))
}

/// A working directory that lies outside the root would be a way out (CVE-2024-21626): the kernel then
/// names it "(unreachable)".
fn verify_cwd() -> Result<(), Error> {
    let cwd = rustix::process::getcwd(Vec::new()).context(|| "read the working directory")?;
    if cwd.as_bytes().starts_with(b"/") {
        return Ok(());
    }
    Err(Error::InvalidSpec(
        "the working directory is outside the container's root".to_owned(),
    ))
}

/// The environment with HOME, which programs expect and images leave out.
fn environment(plan: &ProcessPlan) -> Vec<CString> {
    let mut env = plan.env.clone();
    if plan.variable("HOME").is_none_or(<[u8]>::is_empty) {
        let home = home_of(plan.uid).unwrap_or_else(|| c"/".to_owned());
        if let Ok(entry) = CString::new([b"HOME=", home.as_bytes()].concat()) {
            env.retain(|e| !e.to_bytes().starts_with(b"HOME="));
            env.push(entry);
        }
    }
    env
}

fn home_of(uid: u32) -> Option<CString> {
    let mut text = Vec::new();
    let file = File::open(OsStr::from_bytes(b"/etc/passwd")).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    file.take(MAX_PASSWD).read_to_end(&mut text).ok()?;
    let line = text.split(|&b| b == b'\n').find(|line| {
        let id = line
            .split(|&b| b == b':')
            .nth(2)
            .and_then(|id| std::str::from_utf8(id).ok());
        id.and_then(|id| id.parse::<u32>().ok()) == Some(uid)
    })?;
    let home = line
        .split(|&b| b == b':')
        .nth(5)
        .filter(|home| !home.is_empty())?;
    CString::new(home).ok()
}
