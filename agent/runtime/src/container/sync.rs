//! The socket between the shim and the process that it has cloned: sequenced packets, closed by execve.
//!
//! Child: `Hooks` where the runtime's hooks are due, `Ready` (with warnings and, for a tty, the terminal's
//! master), then `Failed` or silence; the end of the stream without a `Failed` means that execve has succeeded.
//! Shim: `Go` after each that waits. A stage in between (`stage`) tells of its clone with `Cloned`.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::error::IoContext;
use crate::protocol::WireError;

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The init's pid, sent by the stage that has cloned it, with its pidfd.
    Cloned {
        pid: u32,
    },
    /// Namespaces and mounts are made; the child waits while the runtime's hooks run.
    Hooks,
    Ready {
        warnings: Vec<String>,
    },
    Failed(WireError),
}

/// One end.
#[derive(Debug)]
pub(crate) struct Sync(OwnedFd);

impl From<OwnedFd> for Sync {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl Sync {
    /// Both ends, the shim's first.
    pub(crate) fn pair() -> Result<(Self, Self), Error> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .context(|| "make a socket pair")?;
        Ok((Self(ours), Self(theirs)))
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends a message with at most one descriptor.
    pub(crate) fn send(&self, message: &Message, descriptor: Option<&OwnedFd>) -> Result<(), Error> {
        let bytes = serde_json::to_vec(message).map_err(|source| Error::Json {
            what: "encode a message to the shim".to_owned(),
            source,
        })?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = descriptor.iter().map(|d| d.as_fd()).collect();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        sendmsg(
            &self.0,
            &[IoSlice::new(&bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .context(|| "send a message to the shim")?;
        Ok(())
    }

    /// Lets a waiting init go on.
    pub(crate) fn go(&self) -> Result<(), Error> {
        rustix::net::send(&self.0, b"go", SendFlags::NOSIGNAL).context(|| "wake the container's init")?;
        Ok(())
    }

    /// Waits for [`Sync::go`]; false when the shim is gone instead.
    pub(crate) fn wait_go(&self) -> bool {
        let mut buffer = [0_u8; 2];
        loop {
            match rustix::net::recv(&self.0, &mut buffer, RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                Ok((length, _)) => return length > 0,
                Err(_) => return false,
            }
        }
    }

    /// The next message; `None` at the end of the stream. A child that says nothing for `patience` has hung in
    /// a file system that the container controls.
    pub(crate) fn receive(&self, patience: Duration) -> Result<Option<(Message, Option<OwnedFd>)>, Error> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let timeout = (patience != Duration::MAX).then(|| rustix::event::Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: 0,
        });
        if poll(&mut fds, timeout.as_ref()).context(|| "wait for the container's process")? == 0 {
            return Err(Error::Create("its process did not get ready in time".to_owned()));
        }
        receive(&self.0)
    }
}

/// Waits until somebody connects to a created container and says go; what is returned tells that one how
/// execve went.
pub(super) fn accept_start(listener: &OwnedFd) -> Result<Sync, Error> {
    loop {
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(connection) => {
                let starter = Sync(connection);
                if starter.wait_go() {
                    return Ok(starter);
                }
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
            Err(e) => return Err(e).context(|| "wait for the start"),
        }
    }
}

/// Reads one message from the shim's end.
pub(crate) fn receive(socket: &OwnedFd) -> Result<Option<(Message, Option<OwnedFd>)>, Error> {
    let (bytes, descriptor) = receive_raw(socket)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let message = serde_json::from_slice(&bytes).map_err(|source| Error::Json {
        what: "parse a message of the container's process".to_owned(),
        source,
    })?;
    Ok(Some((message, descriptor)))
}

/// Bytes (none at the end) and at most one descriptor.
pub(super) fn receive_raw(socket: &OwnedFd) -> Result<(Vec<u8>, Option<OwnedFd>), Error> {
    let mut buffer = vec![0; 64 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        match recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            // A child that was killed with our "go" unread resets the connection.
            Err(rustix::io::Errno::CONNRESET) => return Ok((Vec::new(), None)),
            result => break result.context(|| "read from the container's process")?,
        }
    };
    let length = received.bytes;
    let descriptor = control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => Some(fds.next()),
            _ => None,
        })
        .flatten();
    buffer.truncate(length);
    Ok((buffer, descriptor))
}
