//! Kernel parameters of the container's own namespaces, written through the host's `/proc` while it is still
//! the root's.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::LinuxNamespaceType;
use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstatfs, openat2};

use super::namespaces::Namespaces;
use crate::Error;
use crate::error::IoContext;

/// Parameters of the ipc namespace, but for the message queues', which are all in `fs.mqueue`.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Whether a kernel parameter (with dots, as sysctl(8) writes it) belongs to the ipc namespace (ipc_namespaces(7)). The engine's and the
/// command line's own checks ask here too.
pub fn is_ipc(key: &str) -> bool {
    IPC.contains(&key) || key.starts_with("fs.mqueue.")
}

/// Refuses parameters that would change the host, before anything exists.
pub(crate) fn check(sysctls: &HashMap<String, String>, namespaces: &Namespaces) -> Result<(), Error> {
    for key in sysctls.keys() {
        let key = key.replace('/', ".");
        let needed = if key.starts_with("net.") {
            LinuxNamespaceType::Network
        } else if is_ipc(&key) {
            LinuxNamespaceType::Ipc
        } else if key == "kernel.domainname" {
            LinuxNamespaceType::Uts
        } else {
            return Err(Error::InvalidSpec(format!(
                "sysctl {key} is not in a separate kernel namespace"
            )));
        };
        if !namespaces.is_private(needed) {
            let text = format!("sysctl {key} is not allowed with the host's {needed} namespace");
            return Err(Error::InvalidSpec(text));
        }
    }
    Ok(())
}

/// The namespace that a parameter belongs to.
pub(super) fn namespace_of(key: &str) -> LinuxNamespaceType {
    if key.replace('/', ".").starts_with("net.") {
        LinuxNamespaceType::Network
    } else if key.ends_with("domainname") || key.ends_with("hostname") {
        LinuxNamespaceType::Uts
    } else {
        LinuxNamespaceType::Ipc
    }
}

/// Writes those that `ours` picks, from inside the container's namespaces.
pub(super) fn write(sysctls: &HashMap<String, String>, ours: impl Fn(&str) -> bool) -> Result<(), Error> {
    let sysctls: Vec<_> = sysctls.iter().filter(|(key, _)| ours(key)).collect();
    if sysctls.is_empty() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty()).context(|| "open /proc")?;
    if fstatfs(&proc).context(|| "stat /proc")?.f_type != PROC_SUPER_MAGIC {
        return Err(Error::Create("the host's /proc is not a procfs".to_owned()));
    }
    for (key, value) in sysctls {
        let path = PathBuf::from("sys").join(key.replace('.', "/"));
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let what = || format!("set sysctl {key} to {value}");
        let file = openat2(
            &proc,
            &path,
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        )
        .context(what)?;
        rustix::io::write(&file, value.as_bytes()).context(what)?;
    }
    Ok(())
}
