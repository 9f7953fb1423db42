//! Delivers a terminal's master to the caller's `--console-socket`, as runc does: the path of the device as
//! data, the descriptor beside it.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, sendmsg, socket_with,
};

use crate::Error;
use crate::error::IoContext;

/// A connection to a console socket.
pub(super) fn open(path: &Path) -> Result<OwnedFd, Error> {
    let what = || format!("connect to console socket {}", path.display());
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .context(what)?;
    connect(&socket, &SocketAddrUnix::new(path).context(what)?).context(what)?;
    Ok(socket)
}

/// Hands the master over.
pub(super) fn deliver(socket: &OwnedFd, master: &OwnedFd) -> Result<(), Error> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [master.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(
        socket,
        &[IoSlice::new(b"/dev/ptmx")],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .context(|| "send the terminal to the console socket")
    .map(drop)
}
