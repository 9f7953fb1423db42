//! Removal of what a shim that died or hangs has left.

use std::path::Path;

use oci_spec::runtime::Spec;

use crate::cgroup::{Cgroup, Hierarchies};
use crate::config::{CONFIG_FILE, SOCKET_FILE, SPEC_FILE, STATE_FILE, read_json};
use crate::error::IoContext;
use crate::shim::{StateFile, started_at};
use crate::{Error, RuntimeKind, ShimConfig, sys};

/// Kills the shim and everything in the container's cgroup, removes the cgroups. Idempotent; a run directory
/// without files means that there is nothing to do. The directory itself stays.
pub async fn destroy(dir: &Path) -> Result<(), Error> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || destroy_blocking(&dir))
        .await
        .map_err(|e| Error::Shim {
            operation: "destroy".to_owned(),
            message: e.to_string(),
        })?
}

fn destroy_blocking(dir: &Path) -> Result<(), Error> {
    let killed = kill_shim(dir);
    let removed = remove_cgroup(dir);
    delete_external(dir);
    let _ = std::fs::remove_file(dir.join(SOCKET_FILE));
    removed.and(killed)
}

/// `None` where the file is missing.
fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match read_json(path) {
        Ok(value) => Ok(Some(value)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn kill_shim(dir: &Path) -> Result<(), Error> {
    let Some(state) = read::<StateFile>(&dir.join(STATE_FILE))? else {
        return Ok(());
    };
    if started_at(state.shim_pid) != Some(state.shim_started) {
        return Ok(());
    }
    match sys::signal::kill(state.shim_pid, libc::SIGKILL) {
        Err(e) if e.raw_os_error() != Some(libc::ESRCH) => {
            Err(e).context(|| format!("kill shim {}", state.shim_pid))
        }
        _ => Ok(()),
    }
}

/// Kills everything in the cgroup `path` (below each hierarchy) and removes it: for containers of which only the name of their cgroup is
/// known. Idempotent.
///
/// # Errors
/// The cgroup can't be killed or removed.
pub async fn destroy_cgroup(path: &Path) -> Result<(), Error> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || kill_cgroup(&path))
        .await
        .map_err(|e| Error::Shim {
            operation: "destroy".to_owned(),
            message: e.to_string(),
        })?
}

fn remove_cgroup(dir: &Path) -> Result<(), Error> {
    let Some(spec) = read::<Spec>(&dir.join(SPEC_FILE))? else {
        return Ok(());
    };
    let Some(path) = spec.linux().as_ref().and_then(|l| l.cgroups_path().clone()) else {
        return Ok(());
    };
    kill_cgroup(&path)
}

fn kill_cgroup(path: &Path) -> Result<(), Error> {
    let cgroup = Cgroup::find(&Hierarchies::detect()?, path)?;
    if !cgroup.exists() {
        return Ok(());
    }
    cgroup.signal_all(libc::SIGKILL)?;
    cgroup.remove()
}

/// An external runtime keeps a state of its own; it may be gone already.
fn delete_external(dir: &Path) {
    let Ok(Some(config)) = read::<ShimConfig>(&dir.join(CONFIG_FILE)) else {
        return;
    };
    let RuntimeKind::External(program) = config.runtime else {
        return;
    };
    let result = std::process::Command::new(program)
        .arg("--root")
        .arg(dir.join("runtime"))
        .args(["delete", "--force", &config.id])
        .output();
    if let Err(error) = result {
        tracing::warn!(%error, container = config.id, "external runtime could not be run");
    }
}
