//! Which namespaces a container gets new, joins by path, or shares with the host.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, LinuxTimeOffset};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::userns::{Mappings, UserNamespace};
use crate::Error;
use crate::error::IoContext;

/// A container's namespaces.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` for the clone itself.
    pub clone_flags: u64,
    /// Joined by the child.
    joins: Vec<(LinkNameSpaceType, OwnedFd)>,
    /// Joined after everything that lies on the host is open.
    mount: Option<OwnedFd>,
    /// Joined by the shim around the clone: membership of a pid namespace begins with birth.
    pub pid: Option<OwnedFd>,
    /// The container's own user namespace, made or joined.
    pub user: Option<UserNamespace>,
    /// What to write into a new time namespace's `timens_offsets`.
    time_offsets: Option<String>,
    /// New, but only once the process is in its cgroup: the namespace's root is where its creator is, and
    /// at clone time that is the shim.
    new_cgroup: bool,
    new_network: bool,
    new: Vec<LinuxNamespaceType>,
    listed: Vec<LinuxNamespaceType>,
    private: Vec<LinuxNamespaceType>,
}

impl Namespaces {
    /// Opens the paths and sorts the rest.
    pub(crate) fn new(linux: &Linux) -> Result<Self, Error> {
        let list: &[LinuxNamespace] = linux.namespaces().as_deref().unwrap_or_default();
        let mut result = Self::default();
        for namespace in list {
            let typ = namespace.typ();
            if result.listed.contains(&typ) {
                return Err(Error::InvalidSpec(format!("namespace {typ} is listed twice")));
            }
            result.listed.push(typ);
            match namespace.path().as_ref().filter(|p| !p.as_os_str().is_empty()) {
                None => {
                    result.private.push(typ);
                    result.new.push(typ);
                    result.make(typ);
                }
                Some(path) => result.join(typ, path)?,
            }
        }
        if result.mount.is_none() && result.clone_flags & libc::CLONE_NEWNS as u64 == 0 {
            return Err(Error::Unsupported(
                "a container without a mount namespace of its own".to_owned(),
            ));
        }
        result.map_users(linux)?;
        result.offset_clocks(linux.time_offsets().as_ref())?;
        Ok(result)
    }

    fn make(&mut self, typ: LinuxNamespaceType) {
        let flag = match typ {
            LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
            LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
            LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
            LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
            LinuxNamespaceType::Network => {
                self.new_network = true;
                libc::CLONE_NEWNET
            }
            LinuxNamespaceType::Cgroup => {
                self.new_cgroup = true;
                0
            }
            LinuxNamespaceType::User | LinuxNamespaceType::Time => 0,
        };
        self.clone_flags |= u64::from(flag.unsigned_abs());
    }

    fn join(&mut self, typ: LinuxNamespaceType, path: &Path) -> Result<(), Error> {
        let what = || format!("open {typ} namespace {}", path.display());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).context(what)?;
        if !is_own(typ, &fd) {
            self.private.push(typ);
        }
        let link = match typ {
            LinuxNamespaceType::Pid => {
                self.pid = Some(fd);
                return Ok(());
            }
            LinuxNamespaceType::Mount => {
                self.mount = Some(fd);
                return Ok(());
            }
            LinuxNamespaceType::User => {
                // The kernel refuses to enter the namespace that one is in.
                if self.private.contains(&typ) {
                    self.user = Some(UserNamespace::of(fd)?);
                }
                return Ok(());
            }
            LinuxNamespaceType::Ipc => LinkNameSpaceType::InterProcessCommunication,
            LinuxNamespaceType::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            LinuxNamespaceType::Network => LinkNameSpaceType::Network,
            LinuxNamespaceType::Cgroup => LinkNameSpaceType::ControlGroup,
            LinuxNamespaceType::Time => LinkNameSpaceType::Time,
        };
        self.joins.push((link, fd));
        Ok(())
    }

    fn map_users(&mut self, linux: &Linux) -> Result<(), Error> {
        let uids = linux.uid_mappings().as_deref().unwrap_or_default();
        let gids = linux.gid_mappings().as_deref().unwrap_or_default();
        let mapped = !uids.is_empty() || !gids.is_empty();
        if self.new.contains(&LinuxNamespaceType::User) {
            self.user = Some(UserNamespace::make(&Mappings::new(uids, gids)?)?);
        } else if mapped {
            let wanted = Mappings::new(uids, gids)?;
            match &self.user {
                None => {
                    return Err(Error::InvalidSpec(
                        "user namespace mappings specified, but user namespace isn't enabled in the config"
                            .to_owned(),
                    ));
                }
                Some(user) if user.mappings != wanted => {
                    return Err(Error::InvalidSpec(
                        "the mappings are not those of the user namespace that is joined".to_owned(),
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn offset_clocks(&mut self, offsets: Option<&HashMap<String, LinuxTimeOffset>>) -> Result<(), Error> {
        let offsets = offsets.filter(|o| !o.is_empty());
        if !self.new.contains(&LinuxNamespaceType::Time) {
            return match offsets {
                None => Ok(()),
                Some(_) => Err(Error::InvalidSpec(
                    "time namespace offsets specified, but time namespace isn't new in the config".to_owned(),
                )),
            };
        }
        let mut text = String::new();
        for (clock, offset) in offsets.into_iter().flatten() {
            if clock != "monotonic" && clock != "boottime" {
                return Err(Error::InvalidSpec(format!(
                    "a time namespace has no clock {clock}"
                )));
            }
            let (secs, nanos) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            let _ = writeln!(text, "{clock} {secs} {nanos}");
        }
        self.time_offsets = Some(text);
        Ok(())
    }

    /// Whether the container has a namespace of this type that is not the host's.
    pub(crate) fn is_private(&self, typ: LinuxNamespaceType) -> bool {
        self.private.contains(&typ)
    }

    /// Whether it is made for the container, and so belongs to its user namespace.
    pub(crate) fn is_new(&self, typ: LinuxNamespaceType) -> bool {
        self.new.contains(&typ)
    }

    /// Whether the container's init must be cloned by a process that has entered user or time namespace.
    pub(crate) fn needs_stage(&self) -> bool {
        self.user.is_some() || self.time_offsets.is_some()
    }

    /// Whether the container's mount namespace exists already.
    pub(crate) fn joins_mount(&self) -> bool {
        self.mount.is_some()
    }

    /// Enters those given by path, but for user, pid and mount namespaces. With the host's privileges, as not
    /// all of them need to belong to the container's user namespace.
    pub(super) fn join_given(&self) -> Result<(), Error> {
        for (typ, fd) in &self.joins {
            move_into_link_name_space(fd.as_fd(), Some(*typ))
                .context(|| format!("join {typ:?} namespace"))?;
        }
        Ok(())
    }

    /// Enters the mount namespace given by path.
    pub(super) fn join_mount(&self) -> Result<(), Error> {
        match &self.mount {
            Some(fd) => move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Mount))
                .context(|| "join the mount namespace"),
            None => Ok(()),
        }
    }

    /// Makes the time namespace for the next child. The offsets can only be set while it is empty.
    pub(super) fn make_time(&self) -> Result<(), Error> {
        let Some(offsets) = &self.time_offsets else {
            return Ok(());
        };
        let new_time = UnshareFlags::from_bits_retain(libc::CLONE_NEWTIME.unsigned_abs());
        unshare(new_time).map_err(|e| match e {
            rustix::io::Errno::INVAL => {
                Error::Unsupported("time namespaces: this kernel has none".to_owned())
            }
            e => Error::Io {
                what: "make a time namespace".to_owned(),
                source: e.into(),
            },
        })?;
        if offsets.is_empty() {
            return Ok(());
        }
        std::fs::write("/proc/self/timens_offsets", offsets)
            .context(|| format!("set time offsets {:?}", offsets.trim()))
    }

    /// In the container's init: what belongs to its new namespaces.
    pub(super) fn settle(&self) -> Result<(), Error> {
        if self.new_cgroup {
            unshare(UnshareFlags::NEWCGROUP).context(|| "make a cgroup namespace")?;
        }
        if self.new_network {
            crate::sys::process::loopback_up().context(|| "set the loopback interface up")?;
        }
        Ok(())
    }
}

/// Whether a namespace is the one that this process is in.
pub(crate) fn is_own(typ: LinuxNamespaceType, fd: &OwnedFd) -> bool {
    let name = match typ {
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Time => "time",
    };
    let own = rustix::fs::stat(format!("/proc/self/ns/{name}"));
    match (own, rustix::fs::fstat(fd)) {
        (Ok(own), Ok(other)) => (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

#[allow(deprecated)]
pub(super) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    rustix::thread::unshare(flags)
}
