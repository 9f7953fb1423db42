//! Control groups, version 1 and 2: where they are, limits, device rules, freezing, killing, statistics,
//! removal. Used by the shim for its container and by the engine for statistics.

mod bpf;
mod devices;
mod hierarchy;
mod oom;
mod stats;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{Mode, OFlags};

use crate::Error;
use crate::error::IoContext;

pub(crate) use devices::always_allowed as always_allowed_devices;
pub use hierarchy::{Hierarchies, Hierarchy, Version};
pub use stats::{BlkioEntry, CpuStats, MemoryStats, PidsStats, Stats};

/// How long removal waits for killed processes to leave.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(5);

/// One container's directory in one hierarchy.
#[derive(Debug, Clone)]
struct Directory {
    hierarchy: Hierarchy,
    path: PathBuf,
}

/// One container's cgroup in all hierarchies.
#[derive(Debug, Clone)]
pub struct Cgroup {
    version: Version,
    directories: Vec<Directory>,
}

impl Cgroup {
    /// Names the cgroup `path` (absolute, like `linux.cgroupsPath`) without touching anything.
    pub fn find(hierarchies: &Hierarchies, path: &Path) -> Result<Self, Error> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let plain = relative.components().all(|c| matches!(c, Component::Normal(_)));
        if relative.as_os_str().is_empty() || !plain {
            return Err(Error::InvalidSpec(format!(
                "cgroups path {} is not a plain absolute path",
                path.display()
            )));
        }
        let directories = hierarchies
            .mounts
            .iter()
            .map(|h| Directory {
                hierarchy: h.clone(),
                path: h.mount.join(relative),
            })
            .collect();
        Ok(Self {
            version: hierarchies.version,
            directories,
        })
    }

    /// Which interface limits go through.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Makes the directories, with their parents. One that exists and holds processes is refused: it would
    /// mix two containers.
    pub fn create(&self) -> Result<(), Error> {
        for directory in &self.directories {
            match self.version {
                Version::V2 => v2::make_parents(&directory.hierarchy.mount, &directory.path)?,
                Version::V1 => v1::make_parents(&directory.path)?,
            }
            match fs::create_dir(&directory.path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    let procs = fs::read_to_string(directory.path.join("cgroup.procs")).unwrap_or_default();
                    if !procs.is_empty() {
                        let text = format!("cgroup {} is in use", directory.path.display());
                        return Err(Error::InvalidSpec(text));
                    }
                }
                Err(e) => return Err(e).context(|| format!("create cgroup {}", directory.path.display())),
            }
            if directory.hierarchy.controllers.iter().any(|c| c == "cpuset") {
                v1::inherit_cpuset(&directory.hierarchy, &directory.path)?;
            }
        }
        Ok(())
    }

    /// Applies limits and device rules. What this host can't do is told in `warnings`, for the user.
    pub fn apply(&self, resources: &LinuxResources, warnings: &mut Vec<String>) -> Result<(), Error> {
        match self.version {
            Version::V1 => v1::apply(self, resources, warnings),
            Version::V2 => v2::apply(self.unified()?, resources, warnings),
        }
    }

    /// Open `cgroup.procs` files: writing `0` into each moves the writer. For v2, [`Cgroup::open_unified`]
    /// and `CLONE_INTO_CGROUP` spare that.
    pub(crate) fn open_procs(&self) -> Result<Vec<OwnedFd>, Error> {
        self.directories
            .iter()
            .map(|d| {
                let path = d.path.join("cgroup.procs");
                rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                    .context(|| format!("open {}", path.display()))
            })
            .collect()
    }

    /// The unified hierarchy's directory, opened, if that is the only hierarchy.
    pub(crate) fn open_unified(&self) -> Result<Option<OwnedFd>, Error> {
        if self.version == Version::V1 {
            return Ok(None);
        }
        let path = self.unified()?;
        rustix::fs::open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .context(|| format!("open {}", path.display()))
        .map(Some)
    }

    /// Directories for the container's `/sys/fs/cgroup`: name there, path on the host.
    pub(crate) fn mount_sources(&self) -> Vec<(String, PathBuf)> {
        self.directories
            .iter()
            .map(|d| (d.hierarchy.name(), d.path.clone()))
            .collect()
    }

    /// Freezes or thaws every process and waits until the kernel says so.
    pub fn freeze(&self, freeze: bool) -> Result<(), Error> {
        let (file, value, state, wanted) = match (self.version, freeze) {
            (Version::V1, true) => ("freezer.state", "FROZEN", "freezer.state", "FROZEN"),
            (Version::V1, false) => ("freezer.state", "THAWED", "freezer.state", "THAWED"),
            (Version::V2, true) => ("cgroup.freeze", "1", "cgroup.events", "frozen 1"),
            (Version::V2, false) => ("cgroup.freeze", "0", "cgroup.events", "frozen 0"),
        };
        let directory = self.controller("freezer")?;
        write_file(directory, file, value)?;
        let deadline = Instant::now() + REMOVAL_PATIENCE;
        loop {
            let text = read_file(directory, state)?;
            if text.lines().any(|line| line.trim() == wanted) {
                return Ok(());
            }
            if Instant::now() > deadline {
                if freeze {
                    let thaw = if self.version == Version::V1 {
                        "THAWED"
                    } else {
                        "0"
                    };
                    write_file(directory, file, thaw)?;
                }
                let what = if freeze { "freeze" } else { "thaw" };
                return Err(Error::Shim {
                    operation: format!("{what} the container"),
                    message: format!("cgroup stayed in state {}", text.trim()),
                });
            }
            // A v1 freezer that met a process in fork stays FREEZING until it is asked again.
            if freeze && self.version == Version::V1 {
                write_file(directory, file, value)?;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether its processes are frozen.
    pub(crate) fn is_frozen(&self) -> bool {
        let (file, wanted) = match self.version {
            Version::V1 => ("freezer.state", "FROZEN"),
            Version::V2 => ("cgroup.events", "frozen 1"),
        };
        self.controller("freezer")
            .and_then(|directory| read_file(directory, file))
            .is_ok_and(|text| text.lines().any(|line| line.trim() == wanted))
    }

    /// Every process in this cgroup and below, as pids of the reader's namespace.
    pub fn processes(&self) -> Result<Vec<u32>, Error> {
        let directory = self.controller("freezer").or_else(|_| self.controller("pids"))?;
        let mut pids = Vec::new();
        collect_processes(directory, &mut pids);
        Ok(pids)
    }

    /// Sends a signal to every process, thawing it first if it is to die.
    pub fn signal_all(&self, signal: i32) -> Result<(), Error> {
        if signal == libc::SIGKILL && self.version == Version::V2 {
            let kill = self.unified()?.join("cgroup.kill");
            if fs::write(&kill, "1").is_ok() {
                return Ok(());
            }
        }
        let pids = match self.processes() {
            Ok(pids) => pids,
            Err(_) if !self.exists() => return Ok(()),
            Err(error) => return Err(error),
        };
        for pid in pids {
            // Gone in between is what the caller wanted.
            let _ = crate::sys::signal::kill(pid, signal);
        }
        if signal == libc::SIGKILL && self.version == Version::V1 {
            let _ = write_file(self.controller("freezer")?, "freezer.state", "THAWED");
        }
        Ok(())
    }

    /// Number of processes of this container that the kernel killed for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = if self.version == Version::V1 {
            "memory.oom_control"
        } else {
            "memory.events"
        };
        let Ok(directory) = self.controller("memory") else {
            return 0;
        };
        stats::key(&read_file(directory, file).unwrap_or_default(), "oom_kill").unwrap_or(0)
    }

    /// Whether any of the directories is there.
    pub fn exists(&self) -> bool {
        self.directories.iter().any(|d| d.path.exists())
    }

    /// Kills what is left and removes the directories, those below included. Idempotent; goes on after errors.
    pub fn remove(&self) -> Result<(), Error> {
        let mut first_error = None;
        let deadline = Instant::now() + REMOVAL_PATIENCE;
        for directory in &self.directories {
            loop {
                match remove_tree(&directory.path) {
                    Ok(()) => break,
                    Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                        self.signal_all(libc::SIGKILL)?;
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(source) => {
                        let what = format!("remove cgroup {}", directory.path.display());
                        first_error.get_or_insert(Error::Io { what, source });
                        break;
                    }
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Reads usage and limits.
    pub fn stats(&self) -> Result<Stats, Error> {
        stats::read(self)
    }

    /// The directory that holds a controller's files.
    fn controller(&self, name: &str) -> Result<&Path, Error> {
        let found = match self.version {
            Version::V2 => return self.unified(),
            Version::V1 => self
                .directories
                .iter()
                .find(|d| d.hierarchy.controllers.iter().any(|c| c == name)),
        };
        found
            .map(|d| d.path.as_path())
            .ok_or_else(|| Error::Unsupported(format!("this host has no cgroup controller {name}")))
    }

    fn unified(&self) -> Result<&Path, Error> {
        self.directories
            .iter()
            .find(|d| d.hierarchy.unified)
            .map(|d| d.path.as_path())
            .ok_or_else(|| Error::Unsupported("this host has no unified cgroup hierarchy".to_owned()))
    }
}

fn collect_processes(directory: &Path, pids: &mut Vec<u32>) {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect_processes(&entry.path(), pids);
        }
    }
}

/// Removes a cgroup and those below; files in it belong to the kernel and go with it.
fn remove_tree(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.raw_os_error() != Some(libc::EBUSY) => return Err(e),
        Err(_) => {}
    }
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Writes one value into a control file.
fn write_file(directory: &Path, file: &str, value: &str) -> Result<(), Error> {
    let path = directory.join(file);
    write_value(&path, value).context(|| format!("write {value} to {}", path.display()))
}

/// Control files must exist already: never create, so that a typo fails.
fn write_value(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write as _;
    fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}

fn read_file(directory: &Path, file: &str) -> Result<String, Error> {
    let path = directory.join(file);
    fs::read_to_string(&path).context(|| format!("read {}", path.display()))
}
