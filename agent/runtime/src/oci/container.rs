//! A container as its state directory tells: what was created, and what of it is alive now.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::Global;
use crate::cgroup::{Cgroup, Hierarchies};
use crate::config::{read_json, write_json};
use crate::driver::{Extras, Native};
use crate::error::IoContext;
use crate::hooks::Hooks;
use crate::{Error, LogConfig, RootfsMount, RuntimeKind, ShimConfig};

const STATE_FILE: &str = "state.json";
const SPEC_FILE: &str = "config.json";
/// Present while the container's init waits to be started.
pub(super) const START_SOCKET: &str = "start.sock";
/// Longest id.
const MAX_ID: usize = 1024;

/// What is kept of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub id: String,
    pub bundle: PathBuf,
    /// 0 while it is created.
    pub pid: u32,
    /// Start time of that process in clock ticks since boot: pids are used again.
    pub started: u64,
    /// When it was created, RFC 3339.
    pub created: String,
    pub cgroup: PathBuf,
    #[serde(default)]
    pub annotations: HashMap<String, String>,
}

/// The states of the specification (runtime.md, "State"), and `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// One container.
#[derive(Debug)]
pub(super) struct Container {
    pub dir: PathBuf,
    pub record: Record,
}

/// Refuses what can't be the name of a directory or confuses people.
pub(super) fn check_id(id: &str) -> Result<(), Error> {
    let plain = id
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "_+.-".contains(c));
    if id.is_empty() || id.len() > MAX_ID || !plain || id == "." || id == ".." {
        return Err(Error::InvalidSpec(format!("invalid container ID format: {id:?}")));
    }
    Ok(())
}

impl Container {
    /// Takes an id: makes its state directory.
    pub(super) fn reserve(global: &Global, record: Record, spec: &Spec) -> Result<Self, Error> {
        check_id(&record.id)?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&global.root)
            .context(|| format!("create {}", global.root.display()))?;
        let root = std::fs::canonicalize(&global.root).context(|| "find the state directory")?;
        let dir = root.join(&record.id);
        match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::InvalidSpec(format!(
                    "container with given ID already exists: {}",
                    record.id
                )));
            }
            result => result.context(|| format!("create {}", dir.display()))?,
        }
        let container = Self { dir, record };
        let kept = write_json(&container.dir.join(SPEC_FILE), spec).and_then(|()| container.save());
        if kept.is_err() {
            container.forget();
        }
        kept.map(|()| container)
    }

    /// Finds a container by its id.
    pub(super) fn load(global: &Global, id: &str) -> Result<Self, Error> {
        check_id(id)?;
        let dir = global.root.join(id);
        match read_json(&dir.join(STATE_FILE)) {
            Ok(record) => Ok(Self { dir, record }),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::InvalidSpec(format!("container does not exist: {id}")))
            }
            Err(error) => Err(error),
        }
    }

    /// All containers, by id.
    pub(super) fn all(global: &Global) -> Result<Vec<Self>, Error> {
        let entries = match std::fs::read_dir(&global.root) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.context(|| format!("read {}", global.root.display()))?,
        };
        let mut ids: Vec<String> = entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|id| check_id(id).is_ok())
            .collect();
        ids.sort();
        // One that goes away meanwhile is none.
        Ok(ids.iter().filter_map(|id| Self::load(global, id).ok()).collect())
    }

    pub(super) fn save(&self) -> Result<(), Error> {
        write_json(&self.dir.join(STATE_FILE), &self.record)
    }

    /// Removes the state directory.
    pub(super) fn forget(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("remove {}: {error}", self.dir.display());
        }
    }

    /// The specification as it was at creation.
    pub(super) fn spec(&self) -> Result<Spec, Error> {
        read_json(&self.dir.join(SPEC_FILE))
    }

    pub(super) fn cgroup(&self) -> Result<Cgroup, Error> {
        Cgroup::find(&Hierarchies::detect()?, &self.record.cgroup)
    }

    /// Whether the init is there and has not ended; a zombie has.
    fn is_alive(&self) -> bool {
        let Ok(text) = std::fs::read_to_string(format!("/proc/{}/stat", self.record.pid)) else {
            return false;
        };
        let Some((_, rest)) = text.rsplit_once(')') else {
            return false;
        };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let state = fields.first().copied().unwrap_or("X");
        let started = fields.get(19).and_then(|f| f.parse::<u64>().ok());
        started == Some(self.record.started) && !matches!(state, "Z" | "X" | "x")
    }

    pub(super) fn status(&self) -> Status {
        if self.record.pid == 0 {
            return Status::Creating;
        }
        if !self.is_alive() {
            return Status::Stopped;
        }
        if self.cgroup().is_ok_and(|c| c.is_frozen()) {
            return Status::Paused;
        }
        if self.dir.join(START_SOCKET).exists() {
            Status::Created
        } else {
            Status::Running
        }
    }

    /// The init, pinned: what is done to it can't hit another.
    pub(super) fn pidfd(&self) -> Result<OwnedFd, Error> {
        let gone = || Error::InvalidSpec("container not running".to_owned());
        let pid = i32::try_from(self.record.pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let pidfd = rustix::process::pidfd_open(pid.ok_or_else(gone)?, rustix::process::PidfdFlags::empty())
            .map_err(|_| gone())?;
        if self.is_alive() { Ok(pidfd) } else { Err(gone()) }
    }

    pub(super) fn hooks(&self, spec: &Spec) -> Result<Hooks, Error> {
        Hooks::new(spec, &self.record.id, &self.record.bundle)
    }

    /// The native driver for this container.
    pub(super) fn driver(&self, global: &Global, spec: Spec, extras: Extras) -> Result<Native, Error> {
        let root = spec.root().as_ref().map(|r| r.path().clone()).unwrap_or_default();
        let config = ShimConfig {
            id: self.record.id.clone(),
            dir: self.dir.clone(),
            rootfs: RootfsMount::Bind(root),
            rootfs_path: self.dir.join("scratch"),
            runtime: RuntimeKind::Native,
            tty: false,
            open_stdin: false,
            stdin_once: false,
            log: LogConfig::default(),
            seccomp_cache: global.root.join(".seccomp"),
            init: false,
        };
        let extras = Extras {
            bundle: Some(self.record.bundle.clone()),
            ..extras
        };
        Ok(Native::with(&config, spec, self.cgroup()?, extras))
    }
}

/// Writes a pid for the caller, all of it at once.
pub(super) fn write_pid(path: &Path, pid: u32) -> Result<(), Error> {
    let what = || format!("write {}", path.display());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}"));
    std::fs::write(&temporary, pid.to_string()).context(what)?;
    std::fs::rename(&temporary, path).context(what)
}
