//! Starting a shim: writes its files, runs our own binary again, waits for its one line.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::config::{CONFIG_FILE, LOG_FILE, SPEC_FILE, write_json};
use crate::error::IoContext;
use crate::protocol::{ContainerState, Hello};
use crate::{Error, ShimConfig, sys};

static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();
static PROTECTED: OnceLock<Option<OwnedFd>> = OnceLock::new();

/// Uses another binary than our own for shims: for programs (tests, tools) that do not dispatch `shim`.
/// Call it before the first `spawn`; later calls have no effect.
pub fn set_shim_executable(path: PathBuf) {
    let _ = EXECUTABLE.set(path);
}

/// Our binary through a read-only mount of its own that is attached nowhere: a container that gets hold of
/// it (`/proc/<pid>/exe`, CVE-2019-5736) can't write to it, and can't remount what is in no namespace.
fn protected(path: &std::path::Path) -> Option<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path, flags).ok()?;
    sys::mount::set_attributes(&tree, false, sys::mount::attr::RDONLY, 0, libc::MS_PRIVATE).ok()?;
    Some(tree)
}

/// A command that runs our own binary again as `pontoon-<role> <role>`, through its protected mount. The program itself leaves our
/// directory: given one here, the standard library of a static binary would fork instead of using posix_spawn(3), which takes
/// longer the more memory we have, and makes us fault on every page that we write next.
pub fn own_command(role: &str) -> Command {
    let path = EXECUTABLE
        .get()
        .cloned()
        .unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let executable = PROTECTED.get_or_init(|| protected(&path));
    let program = match executable {
        Some(tree) => PathBuf::from(format!("/proc/self/fd/{}", tree.as_raw_fd())),
        None => path,
    };
    let mut command = Command::new(&program);
    command.arg0(format!("pontoon-{role}")).arg(role);
    command
}

/// Prepares the directory, starts the shim, and waits until it has created the container or failed.
pub(super) async fn spawn(
    config: &ShimConfig,
    spec: &oci_spec::runtime::Spec,
) -> Result<ContainerState, Error> {
    let dir = &config.dir;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .context(|| format!("create {}", dir.display()))?;
    write_json(&dir.join(CONFIG_FILE), config)?;
    write_json(&dir.join(SPEC_FILE), spec)?;
    // A record of an earlier run would be taken for this one's.
    let _ = std::fs::remove_file(dir.join("exit.json"));
    let log = open_log(config)?;

    let mut child = own_command("shim")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context(|| "start the shim")?;
    let mut line = Vec::new();
    let read = match child.stdout.take() {
        Some(mut stdout) => stdout.read_to_end(&mut line).await,
        None => Ok(0),
    };
    // The shim may outlive us; while we live, its end must be collected.
    tokio::spawn(async move {
        let _ = child.wait().await;
    });
    read.context(|| "read from the new shim")?;
    match serde_json::from_slice(&line) {
        Ok(Hello::Created(state)) => Ok(state),
        Ok(Hello::Failed(error)) => Err(error.into()),
        Err(_) => {
            let said = std::fs::read_to_string(dir.join(LOG_FILE)).unwrap_or_default();
            Err(Error::Create(format!(
                "the shim ended without a word: {}",
                said.trim()
            )))
        }
    }
}

fn open_log(config: &ShimConfig) -> Result<File, Error> {
    let path = config.dir.join(LOG_FILE);
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .context(|| format!("open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of these makes the standard library fork (see [`own_command`]).
    #[tokio::test]
    async fn shims_are_started_without_a_fork() {
        let command = own_command("shim");
        assert_eq!(command.as_std().get_current_dir(), None);
        assert!(command.as_std().get_program().as_encoded_bytes().contains(&b'/'));
    }
}
