//! Network namespaces: made, entered for a moment and removed by the network thread, the only one that leaves the
//! daemon's own namespace. Each is kept alive by a bind mount of its file at `<run>/netns/<name>`.
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use crate::{Error, Result};

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;
const OWN: &str = "/proc/thread-self/ns/net";

fn failed<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
    let path = path.to_owned();
    move |source| Error::Namespace {
        operation,
        path,
        source: source.into(),
    }
}

/// The calling thread's namespace.
///
/// # Errors
/// [`Error::Namespace`].
pub fn current() -> Result<OwnedFd> {
    File::open(OWN)
        .map(OwnedFd::from)
        .map_err(failed("open", Path::new(OWN)))
}

/// The namespace mounted at `path`, or `None` if there is none (the host was rebooted, or it was removed).
///
/// # Errors
/// [`Error::Namespace`].
pub fn open(path: &Path) -> Result<Option<OwnedFd>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let kind = rustix::fs::fstatfs(&file).map_err(failed("open", path))?.f_type;
    Ok((kind == NSFS_MAGIC).then(|| file.into()))
}

/// Makes a namespace mounted at `path` and runs `setup` in it; afterwards the thread is back in `home`. If anything
/// fails, nothing is left.
///
/// # Errors
/// [`Error::Namespace`], or what `setup` returns.
pub fn create<T>(home: &OwnedFd, path: &Path, setup: impl FnOnce() -> Result<T>) -> Result<(OwnedFd, T)> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(failed("create", path))?;
    let made = unshare_net(path).and_then(|()| {
        let made = mount_and_setup(path, setup);
        go_home(home);
        made
    });
    if made.is_err() {
        // The error that led here says more than one of the undoing.
        let _ = remove(path);
    }
    made
}

#[allow(unsafe_code)]
fn unshare_net(path: &Path) -> Result<()> {
    // SAFETY: a new network namespace for this thread touches neither memory nor descriptors (unshare(2)); the
    // hazards that make the call unsafe belong to CLONE_FILES and CLONE_FS.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(failed("create", path))
}

fn mount_and_setup<T>(path: &Path, setup: impl FnOnce() -> Result<T>) -> Result<(OwnedFd, T)> {
    mount_bind(OWN, path).map_err(failed("create", path))?;
    let namespace = current()?;
    Ok((namespace, setup()?))
}

/// Runs `work` with the thread in `target`, then returns to `home`.
///
/// # Errors
/// [`Error::Namespace`], or what `work` returns.
pub fn inside<T>(home: &OwnedFd, target: BorrowedFd<'_>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    move_into_link_name_space(target, Some(LinkNameSpaceType::Network))
        .map_err(failed("enter", Path::new("(open descriptor)")))?;
    let result = work();
    go_home(home);
    result
}

fn go_home(home: &OwnedFd) {
    // If this failed, everything after it would configure a container's namespace instead of the host's.
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("the daemon's namespace is open and CAP_SYS_ADMIN was there a moment ago");
}

/// Enters `home` for good; called when the network thread starts.
///
/// # Errors
/// [`Error::Namespace`].
pub fn enter(home: &OwnedFd) -> Result<()> {
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(failed("enter", Path::new(OWN)))
}

/// Removes the mount and its file; absent ones are fine. Unlinking also drops copies of the mount in the shims'
/// mount namespaces.
///
/// # Errors
/// [`Error::Namespace`].
pub fn remove(path: &Path) -> Result<()> {
    match unmount(path, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(failed("remove", path)(errno)),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Writes a `net.*` setting in the thread's namespace: below /proc/sys/net the kernel looks at the caller.
///
/// # Errors
/// [`Error::Sysctl`].
pub fn set_sysctl(name: &str, value: &str) -> Result<()> {
    let valid =
        name.starts_with("net.") && !name.split('.').any(|part| part.is_empty()) && !name.contains("..");
    let error = |source| Error::Sysctl {
        name: name.into(),
        value: value.into(),
        source,
    };
    if !valid || name.contains('\0') {
        return Err(error(io::Error::new(
            io::ErrorKind::InvalidInput,
            "only net.* settings belong to a sandbox",
        )));
    }
    // As sysctl(8): a slash in the name stands for a dot in an interface name.
    let path: String = name
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            c => c,
        })
        .collect();
    fs::write(format!("/proc/sys/{path}"), value).map_err(error)
}

/// As [`set_sysctl`], for settings which not every kernel has.
///
/// # Errors
/// [`Error::Sysctl`].
pub fn set_sysctl_if_present(name: &str, value: &str) -> Result<()> {
    match set_sysctl(name, value) {
        Err(Error::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// No IPv6 on a link of the daemon's namespace: neither neighbour discovery nor multicast joins on ends nobody talks
/// to. For links that are made now and then; ends of containers are kept silent by a request (`netlink::Veth::silent`).
///
/// # Errors
/// [`Error::Sysctl`].
pub fn disable_ipv6(link: &str) -> Result<()> {
    set_sysctl_if_present(
        &format!("net.ipv6.conf.{}.disable_ipv6", link.replace('.', "/")),
        "1",
    )
}
