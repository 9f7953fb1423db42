//! Sockets and devices opened inside another network namespace.
//!
//! A socket belongs for ever to the namespace that its thread was in when it was made. So netd's thread goes into
//! the sandbox's namespace, makes the socket and comes back, with nothing in between that could wait (setns(2)
//! moves one thread only; the way there and back is some microseconds).

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// An open network namespace.
#[derive(Debug)]
pub(crate) struct Netns {
    file: File,
    identity: (u64, u64),
}

/// Device and inode of what a path names; for a namespace, its identity.
pub(crate) fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = path.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Netns {
    /// Opens the namespace at `path` (a bind mount, or below /proc).
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        Ok(Self {
            identity: (metadata.dev(), metadata.ino()),
            file,
        })
    }

    /// Whether `path` still names this namespace. The sockets inside keep it alive, so this is the only sign that
    /// the sandbox is gone.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        identity(path).is_ok_and(|found| found == self.identity)
    }

    /// Makes a non-blocking socket inside.
    pub(crate) fn socket(&self, family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd> {
        self.inside(|| new_socket(family, kind))
    }

    /// Runs `work`, which must not wait, with this thread inside.
    pub(crate) fn inside<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let home = File::open("/proc/thread-self/ns/net")?;
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(self.file.as_fd(), network)?;
        let made = work();
        if let Err(error) = move_into_link_name_space(home.as_fd(), network) {
            // Everything that follows would happen in a stranger's namespace. The client starts another netd.
            tracing::error!(%error, "netd cannot go back to its own network namespace and ends");
            std::process::exit(1);
        }
        made
    }
}

/// Makes a non-blocking socket in the namespace of the calling thread.
pub(crate) fn new_socket(family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd> {
    Ok(socket_with(
        family,
        kind,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )?)
}
