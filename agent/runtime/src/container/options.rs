//! Mount options: the words of the OCI specification (and of mount(8)) into attributes, propagation and what
//! is left for the file system.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::Mount;

use super::userns::{Mappings, UserNamespace};
use crate::Error;
use crate::error::IoContext;
use crate::sys::mount::attr;

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A path of the host, with what is mounted below it or without.
    Bind { path: PathBuf, recursive: bool },
    /// A new instance of a file system.
    FileSystem {
        typ: String,
        parameters: Vec<(String, Option<String>)>,
        name: String,
    },
    /// The container's own part of the cgroup tree.
    Cgroup,
}

/// One mount, ready to be made.
#[derive(Debug, Clone)]
pub(crate) struct MountPlan {
    /// Inside the root, without `..`.
    pub destination: PathBuf,
    pub source: Source,
    /// `MOUNT_ATTR_*` to set and to clear on the mount.
    pub set: u64,
    pub clear: u64,
    /// The same for everything below it too.
    pub recursive_set: u64,
    pub recursive_clear: u64,
    /// `MS_SHARED`, ... and whether for everything below.
    pub propagation: (u64, bool),
    /// Owners are shown as this user namespace maps them.
    pub id_map: Option<IdMap>,
    /// Copies what the root has at the destination into a new tmpfs.
    pub copy_up: bool,
    /// What is mounted is this path within the source, resolved as if the source were the root (our own word,
    /// `pontoon.subpath=`): a link in a volume that somebody else changes meanwhile leads nowhere else.
    pub subpath: Option<PathBuf>,
}

/// The option that names a path within the source.
const SUBPATH: &str = "pontoon.subpath=";

/// An id-mapped mount.
#[derive(Debug, Clone)]
pub(crate) struct IdMap {
    /// Everything mounted below too.
    pub recursive: bool,
    /// A user namespace with the mappings.
    pub namespace: Arc<OwnedFd>,
}

/// Options that mean something to this runtime; all others are the file system's.
pub(crate) const WORDS: &[&str] = &[
    "acl",
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noacl",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

impl MountPlan {
    /// Translates one mount of the specification, for a container in the user namespace `user`.
    pub(crate) fn new(mount: &Mount, user: Option<&UserNamespace>) -> Result<Self, Error> {
        let destination = inside(mount.destination())?;
        let typ = mount.typ().clone().unwrap_or_default();
        let mut plan = Self {
            destination,
            source: Source::Cgroup,
            set: 0,
            clear: 0,
            recursive_set: 0,
            recursive_clear: 0,
            propagation: (libc::MS_PRIVATE, true),
            id_map: None,
            copy_up: false,
            subpath: None,
        };
        let mut id_map = None;
        let mut bind = (typ == "bind").then_some(false);
        let mut parameters = Vec::new();
        for option in mount.options().iter().flatten() {
            match option.as_str() {
                "bind" => bind = bind.or(Some(false)),
                "rbind" => bind = Some(true),
                "idmap" => id_map = id_map.or(Some(false)),
                "ridmap" => id_map = Some(true),
                "tmpcopyup" => plan.copy_up = true,
                other => plan.option(other, &mut parameters)?,
            }
        }
        let source = mount.source().clone().unwrap_or_default();
        plan.source = match bind {
            Some(_) if !source.is_absolute() => {
                let text = format!("bind source {} must be absolute", source.display());
                return Err(Error::InvalidSpec(text));
            }
            Some(recursive) => Source::Bind {
                path: source,
                recursive,
            },
            None if typ.is_empty() => {
                let text = format!(
                    "mount on {} has neither type nor bind",
                    mount.destination().display()
                );
                return Err(Error::InvalidSpec(text));
            }
            None if typ == "cgroup" || typ == "cgroup2" => Source::Cgroup,
            None => Source::FileSystem {
                typ,
                parameters,
                name: source.display().to_string(),
            },
        };
        if let Source::Bind { .. } = plan.source {
            check_proc_bind(&plan.destination)?;
        }
        if plan.copy_up && !matches!(&plan.source, Source::FileSystem { typ, .. } if typ == "tmpfs") {
            return Err(Error::InvalidSpec(format!(
                "{}: tmpcopyup is for tmpfs",
                plan.destination.display()
            )));
        }
        plan.id_map = id_map_of(mount, id_map, user)?;
        if plan.id_map.is_some() && !matches!(plan.source, Source::Bind { .. }) {
            return Err(Error::InvalidSpec(format!(
                "{}: only bind mounts can be id-mapped",
                plan.destination.display()
            )));
        }
        Ok(plan)
    }

    /// Labels a new file system, as far as its kind keeps labels of its own.
    pub(super) fn label(&mut self, label: &str) {
        if let Source::FileSystem { typ, parameters, .. } = &mut self.source
            && matches!(typ.as_str(), "tmpfs" | "devpts" | "overlay")
        {
            parameters.push(("context".to_owned(), Some(label.to_owned())));
        }
    }

    fn option(&mut self, word: &str, parameters: &mut Vec<(String, Option<String>)>) -> Result<(), Error> {
        if let Some(path) = word.strip_prefix(SUBPATH) {
            self.subpath = Some(PathBuf::from(path));
            return Ok(());
        }
        if let Some((flag, recursive)) = propagation(word) {
            self.propagation = (flag, recursive);
            return Ok(());
        }
        if let Some((set, clear)) = attribute(word) {
            self.set = (self.set & !clear) | set;
            self.clear = (self.clear & !set) | clear;
            return Ok(());
        }
        if let Some((set, clear)) = word.strip_prefix('r').and_then(attribute) {
            self.recursive_set |= set;
            self.recursive_clear |= clear;
            return Ok(());
        }
        match word {
            // Every instance of devpts is a new one since Linux 4.7.
            "defaults" | "newinstance" | "private_tmp" => {}
            // What mount(8) knows and the kernel's new interface has no word for.
            "async" | "loud" | "silent" | "noiversion" | "iversion" | "acl" | "noacl" => {}
            other => parameters.push(match other.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (other.to_owned(), None),
            }),
        }
        Ok(())
    }
}

/// The namespace that maps a mount: from its own mappings, or the container's.
fn id_map_of(
    mount: &Mount,
    word: Option<bool>,
    user: Option<&UserNamespace>,
) -> Result<Option<IdMap>, Error> {
    let uids = mount.uid_mappings().as_deref().unwrap_or_default();
    let gids = mount.gid_mappings().as_deref().unwrap_or_default();
    let namespace = if !uids.is_empty() || !gids.is_empty() {
        UserNamespace::make(&Mappings::new(uids, gids)?)?.fd
    } else if word.is_none() {
        return Ok(None);
    } else if let Some(user) = user {
        user.fd.try_clone().context(|| "duplicate a user namespace")?
    } else {
        return Err(Error::InvalidSpec(format!(
            "{}: an id-mapped mount needs mappings, or a container with a user namespace",
            mount.destination().display()
        )));
    };
    Ok(Some(IdMap {
        recursive: word.unwrap_or(false),
        namespace: Arc::new(namespace),
    }))
}

fn propagation(word: &str) -> Option<(u64, bool)> {
    let flag = match word.strip_prefix('r').unwrap_or(word) {
        "private" => libc::MS_PRIVATE,
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    };
    Some((flag, word.starts_with('r')))
}

/// Attributes that a word sets and clears. Access times are one field of which any change clears the whole.
fn attribute(word: &str) -> Option<(u64, u64)> {
    Some(match word {
        "ro" => (attr::RDONLY, 0),
        "rw" => (0, attr::RDONLY),
        "nosuid" => (attr::NOSUID, 0),
        "suid" => (0, attr::NOSUID),
        "nodev" => (attr::NODEV, 0),
        "dev" => (0, attr::NODEV),
        "noexec" => (attr::NOEXEC, 0),
        "exec" => (0, attr::NOEXEC),
        "noatime" => (attr::NOATIME, 0),
        "strictatime" => (attr::STRICTATIME, 0),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (0, attr::ATIME),
        "nodiratime" => (attr::NODIRATIME, 0),
        "diratime" => (0, attr::NODIRATIME),
        "nosymfollow" => (attr::NOSYMFOLLOW, 0),
        "symfollow" => (0, attr::NOSYMFOLLOW),
        _ => return None,
    })
}

/// A path from the root, without `.` and `..`; what symlinks make of it is not asked.
pub fn clean(path: impl AsRef<Path>) -> PathBuf {
    let mut result = PathBuf::from("/");
    for component in path.as_ref().components() {
        match component {
            Component::Normal(name) => result.push(name),
            Component::ParentDir => drop(result.pop()),
            _ => {}
        }
    }
    result
}

/// [`clean`] of an absolute path that is not the root; symlinks in it are followed inside the container only.
pub(super) fn inside(path: &Path) -> Result<PathBuf, Error> {
    let result = clean(path);
    if !path.is_absolute() || result == Path::new("/") {
        return Err(Error::InvalidSpec(format!(
            "{} is not a path inside the container",
            path.display()
        )));
    }
    Ok(result)
}

/// Files of `/proc` that may be replaced (lxcfs and the like). Anything else there would let the container
/// choose what we and its own tools read as kernel truth.
const PROC_FILES: &[&str] = &[
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "net/dev",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];

fn check_proc_bind(destination: &Path) -> Result<(), Error> {
    match destination.strip_prefix("/proc") {
        Ok(rest) if rest.as_os_str().is_empty() => Ok(()),
        Ok(rest) if PROC_FILES.iter().any(|f| Path::new(f) == rest) => Ok(()),
        Ok(_) => Err(Error::InvalidSpec(format!(
            "{} is inside /proc and can't be mounted over",
            destination.display()
        ))),
        Err(_) => Ok(()),
    }
}
