//! Notices when another program changes the ruleset: someone flushed it, a firewall was reloaded (GO-2025-3829). A thread
//! listens to what the kernel tells about nftables and calls back; our own changes are known by their port and passed
//! over. Started by the manager, it ends with its handle.
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{RecvFlags, recv},
};

use super::nft::TABLE;
use crate::{
    Error, Result,
    netlink::{Attributes, Protocol, Socket},
    netns,
};

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
const SUBSYSTEM: u16 = 10;
const HEADER: usize = 16;
/// Removals of tables, chains, rules, sets and elements.
const REMOVALS: [u16; 5] = [2, 5, 8, 11, 14];
/// New chains and removed rules: where another firewall was loaded again.
const RELOADS: [u16; 2] = [3, 8];

/// What was noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noticed {
    /// Something of our tables was removed.
    pub own: bool,
    /// Another table has new chains or lost rules.
    pub others: bool,
}

impl Noticed {
    fn any(self) -> bool {
        self.own || self.others
    }

    fn and(self, other: Self) -> Self {
        Self {
            own: self.own || other.own,
            others: self.others || other.others,
        }
    }
}

/// The watching thread's handle.
#[derive(Debug)]
pub struct Watcher {
    /// The thread ends when this is closed.
    _alive: OwnedFd,
}

impl Watcher {
    /// Watches `home`; changes made by the socket with port `own` are ours. `notice` is called on the thread, never
    /// for two changes at once, and may take its time.
    ///
    /// # Errors
    /// [`Error::Netlink`], [`Error::ThreadGone`].
    pub fn start(home: &Arc<OwnedFd>, own: u32, notice: impl Fn(Noticed) + Send + 'static) -> Result<Self> {
        let failed = |source: io::Error| Error::Netlink {
            operation: "watch the ruleset".into(),
            source,
        };
        let (ended, alive) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let home = Arc::clone(home);
        std::thread::Builder::new()
            .name("net-watch".into())
            .spawn(move || {
                let run = || -> Result<()> {
                    netns::enter(&home)?;
                    let socket = Socket::listen(Protocol::Netfilter, GROUP)?;
                    watch(&socket, &ended, own, &notice).map_err(failed)
                };
                if let Err(error) = run() {
                    tracing::error!(%error, "changes of the ruleset by other programs are not noticed");
                }
            })
            .map_err(|_| Error::ThreadGone)?;
        Ok(Self { _alive: alive })
    }
}

fn watch(socket: &Socket, ended: &OwnedFd, own: u32, notice: &impl Fn(Noticed)) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
            PollFd::new(ended, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if !fds[1].revents().is_empty() {
            return Ok(());
        }
        // Everything that is there makes one call.
        let mut noticed = Noticed::default();
        loop {
            match recv(socket.as_fd(), &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => noticed = noticed.and(read(&buffer[..length], own)),
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                // More than fitted: whatever was lost may have been ours.
                Err(rustix::io::Errno::NOBUFS) => {
                    noticed = Noticed {
                        own: true,
                        others: true,
                    };
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        if noticed.any() {
            notice(noticed);
        }
    }
}

/// Reads one datagram of events.
fn read(mut bytes: &[u8], own: u32) -> Noticed {
    let mut noticed = Noticed::default();
    while let Some(header) = bytes.get(..HEADER) {
        let number = |at: usize| {
            let bytes = header.get(at..at + 4).and_then(|b| b.try_into().ok());
            bytes.map_or(0, u32::from_ne_bytes)
        };
        let (length, port) = (number(0) as usize, number(12));
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = bytes.get(HEADER + 4..length) else {
            return noticed;
        };
        if port != own && kind >> 8 == SUBSYSTEM {
            let kind = kind & 0xff;
            // The first attribute of all these messages is the table's name.
            let is_ours = Attributes(body).string(1).as_deref() == Some(TABLE);
            noticed.own |= is_ours && REMOVALS.contains(&kind);
            noticed.others |= !is_ours && RELOADS.contains(&kind);
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    noticed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, port: u32, table: &str) -> Vec<u8> {
        let mut body = vec![2, 0, 0, 0];
        let name = [table.as_bytes(), &[0]].concat();
        body.extend(u16::try_from(name.len() + 4).expect("short").to_ne_bytes());
        body.extend(1u16.to_ne_bytes());
        body.extend(&name);
        body.resize(body.len().next_multiple_of(4), 0);
        let mut bytes = u32::try_from(HEADER + body.len())
            .expect("short")
            .to_ne_bytes()
            .to_vec();
        bytes.extend((SUBSYSTEM << 8 | kind).to_ne_bytes());
        bytes.extend([0; 6]);
        bytes.extend(port.to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn strangers_removals_are_noticed() {
        let all = [event(2, 7, TABLE), event(8, 9, "filter"), event(12, 9, TABLE)].concat();
        let noticed = read(&all, 7);
        assert_eq!(
            noticed,
            Noticed {
                own: false,
                others: true
            },
            "7 is us"
        );
        assert!(read(&event(2, 8, TABLE), 7).own);
        assert!(!read(&all[..20], 7).any(), "cut short");
    }
}
