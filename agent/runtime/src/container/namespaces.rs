//! Which namespaces a container gets new, joins by path, or shares with the host.

use std::os::fd::OwnedFd;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::Error;
use crate::error::IoContext;

/// A container's namespaces.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` for the clone itself.
    pub clone_flags: u64,
    /// Joined by the child.
    joins: Vec<(LinkNameSpaceType, OwnedFd)>,
    /// Joined by the shim around the clone: membership of a pid namespace begins with birth.
    pub pid: Option<OwnedFd>,
    /// New, but only once the process is in its cgroup: the namespace's root is where its creator is, and
    /// at clone time that is the shim.
    new_cgroup: bool,
    new_network: bool,
    private: Vec<LinuxNamespaceType>,
}

impl Namespaces {
    /// Opens the paths and sorts the rest.
    pub(crate) fn new(list: &[LinuxNamespace]) -> Result<Self, Error> {
        let mut result = Self::default();
        for namespace in list {
            let typ = namespace.typ();
            if result.private.contains(&typ) {
                return Err(Error::InvalidSpec(format!("namespace {typ} is listed twice")));
            }
            result.private.push(typ);
            if matches!(typ, LinuxNamespaceType::User | LinuxNamespaceType::Time) {
                return Err(Error::Unsupported(format!("{typ} namespaces")));
            }
            match namespace.path().as_ref().filter(|p| !p.as_os_str().is_empty()) {
                None => result.make(typ),
                Some(path) => {
                    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                        .context(|| format!("open {typ} namespace {}", path.display()))?;
                    result.join(typ, fd)?;
                }
            }
        }
        if result.clone_flags & libc::CLONE_NEWNS as u64 == 0 {
            return Err(Error::Unsupported(
                "a container without a mount namespace of its own".to_owned(),
            ));
        }
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

    fn join(&mut self, typ: LinuxNamespaceType, fd: OwnedFd) -> Result<(), Error> {
        let link = match typ {
            LinuxNamespaceType::Pid => {
                self.pid = Some(fd);
                return Ok(());
            }
            LinuxNamespaceType::Ipc => LinkNameSpaceType::InterProcessCommunication,
            LinuxNamespaceType::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            LinuxNamespaceType::Network => LinkNameSpaceType::Network,
            LinuxNamespaceType::Cgroup => LinkNameSpaceType::ControlGroup,
            other => return Err(Error::Unsupported(format!("joining a {other} namespace by path"))),
        };
        self.joins.push((link, fd));
        Ok(())
    }

    /// Whether the container has a namespace of this type that is not the host's.
    pub(crate) fn is_private(&self, typ: LinuxNamespaceType) -> bool {
        self.private.contains(&typ)
    }

    /// In the child, once it is in its cgroup.
    pub(super) fn enter(&self) -> Result<(), Error> {
        for (typ, fd) in &self.joins {
            move_into_link_name_space(std::os::fd::AsFd::as_fd(fd), Some(*typ))
                .context(|| format!("join {typ:?} namespace"))?;
        }
        if self.new_cgroup {
            rustix_unshare(UnshareFlags::NEWCGROUP).context(|| "make a cgroup namespace")?;
        }
        if self.new_network {
            crate::sys::process::loopback_up().context(|| "set the loopback interface up")?;
        }
        Ok(())
    }
}

#[allow(deprecated)]
fn rustix_unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    rustix::thread::unshare(flags)
}
