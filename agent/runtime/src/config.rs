//! What the engine tells a shim, written as `shim.json` into the container's run directory beside the OCI
//! specification (`config.json`). Read once by the shim; read again by `destroy`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::IoContext;
use crate::{Error, LogConfig};

/// Configuration of one shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimConfig {
    /// Container id.
    pub id: String,
    /// Run directory (0700): shim.json, config.json, shim.sock, state.json, exit.json, shim.log.
    pub dir: PathBuf,
    /// What the root file system is made of.
    pub rootfs: RootfsMount,
    /// Mount point of the root file system, equal to `root.path` of the specification. An empty directory of
    /// the host; the mount itself is only ever visible inside the container.
    pub rootfs_path: PathBuf,
    /// Who makes the container.
    pub runtime: RuntimeKind,
    /// One pseudo terminal instead of three streams.
    pub tty: bool,
    /// Keep stdin open; otherwise it is `/dev/null`.
    pub open_stdin: bool,
    /// Close stdin when the first client that attached to it leaves or closes it.
    pub stdin_once: bool,
    /// Where output goes besides attached clients.
    pub log: LogConfig,
    /// Directory with compiled seccomp filters, shared by all containers of a daemon.
    pub seccomp_cache: PathBuf,
    /// Run a small init as pid 1 that reaps and forwards signals (`docker run --init`).
    pub init: bool,
}

/// What a root file system is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootfsMount {
    /// overlayfs.
    Overlay {
        /// Read-only layers, top first.
        lower: Vec<PathBuf>,
        /// Writable layer.
        upper: PathBuf,
        /// overlayfs' work directory, on the same file system as `upper`.
        work: PathBuf,
    },
    /// A directory, bound.
    Bind(PathBuf),
}

/// Who makes the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuntimeKind {
    /// This crate.
    Native,
    /// An OCI runtime's command line, for example `/usr/sbin/runc`.
    External(PathBuf),
}

pub(crate) const CONFIG_FILE: &str = "shim.json";
pub(crate) const SPEC_FILE: &str = "config.json";
pub(crate) const SOCKET_FILE: &str = "shim.sock";
pub(crate) const STATE_FILE: &str = "state.json";
pub(crate) const LOG_FILE: &str = "shim.log";

/// Reads a JSON document.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let bytes = std::fs::read(path).context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Json {
        what: format!("parse {}", path.display()),
        source,
    })
}

/// Writes a JSON document so that readers see the old one or the whole new one. Not synced to disk: the
/// run directory does not outlive a boot.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value).map_err(|source| Error::Json {
        what: format!("write {}", path.display()),
        source,
    })?;
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, bytes).context(|| format!("write {}", temporary.display()))?;
    std::fs::rename(&temporary, path).context(|| format!("rename to {}", path.display()))
}
