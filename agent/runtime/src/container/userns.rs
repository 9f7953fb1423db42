//! User namespaces: making one with its mappings, reading those of one that is joined, and what an id inside
//! is outside. Called by the plan (in the shim), before any process of the container exists.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::LinuxIdMapping;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Error;
use crate::error::IoContext;
use crate::sys::process::{Forked, exit, fork};

/// Lines that the kernel takes in one map (user_namespaces(7)).
const MAX_LINES: usize = 340;

/// A user namespace, kept alive by its descriptor.
#[derive(Debug)]
pub(crate) struct UserNamespace {
    pub fd: OwnedFd,
    pub mappings: Mappings,
}

/// Both maps of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Mappings {
    uids: Vec<Range>,
    gids: Vec<Range>,
}

/// One line of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    size: u32,
}

impl Mappings {
    /// Checks and translates the specification's lists.
    pub(crate) fn new(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<Self, Error> {
        let ranges = |list: &[LinuxIdMapping], what: &str| -> Result<Vec<Range>, Error> {
            if list.is_empty() || list.len() > MAX_LINES {
                return Err(Error::InvalidSpec(format!(
                    "a user namespace needs between 1 and {MAX_LINES} {what} mappings"
                )));
            }
            Ok(list
                .iter()
                .map(|m| Range {
                    inside: m.container_id(),
                    outside: m.host_id(),
                    size: m.size(),
                })
                .collect())
        };
        Ok(Self {
            uids: ranges(uids, "uid")?,
            gids: ranges(gids, "gid")?,
        })
    }

    /// The user outside that is `uid` inside.
    pub(crate) fn outside_uid(&self, uid: u32) -> Option<u32> {
        outside(&self.uids, uid)
    }

    /// The group outside that is `gid` inside.
    pub(crate) fn outside_gid(&self, gid: u32) -> Option<u32> {
        outside(&self.gids, gid)
    }
}

fn outside(ranges: &[Range], id: u32) -> Option<u32> {
    ranges.iter().find_map(|r| {
        let offset = id.checked_sub(r.inside).filter(|&o| o < r.size)?;
        r.outside.checked_add(offset)
    })
}

fn text(ranges: &[Range]) -> String {
    ranges
        .iter()
        .map(|r| format!("{} {} {}\n", r.inside, r.outside, r.size))
        .collect()
}

fn parse(text: &str) -> Vec<Range> {
    text.lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse);
            match (numbers.next(), numbers.next(), numbers.next()) {
                (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(size))) => Some(Range {
                    inside,
                    outside,
                    size,
                }),
                _ => None,
            }
        })
        .collect()
}

impl UserNamespace {
    /// A new namespace with these mappings.
    pub(crate) fn make(mappings: &Mappings) -> Result<Self, Error> {
        let fd = held(None, |pid| {
            for (file, ranges) in [("uid_map", &mappings.uids), ("gid_map", &mappings.gids)] {
                let what = || format!("set {file} of the user namespace to {:?}", text(ranges).trim());
                fs::write(format!("/proc/{pid}/{file}"), text(ranges)).context(what)?;
            }
            let path = format!("/proc/{pid}/ns/user");
            rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .context(|| "open the new user namespace")
        })?;
        Ok(Self {
            fd,
            mappings: mappings.clone(),
        })
    }

    /// An existing namespace, with the mappings that it has.
    pub(crate) fn of(fd: OwnedFd) -> Result<Self, Error> {
        let mappings = held(Some(&fd), |pid| {
            let read = |file: &str| {
                fs::read_to_string(format!("/proc/{pid}/{file}")).context(|| format!("read {file}"))
            };
            Ok(Mappings {
                uids: parse(&read("uid_map")?),
                gids: parse(&read("gid_map")?),
            })
        })?;
        Ok(Self { fd, mappings })
    }
}

/// Runs `look` while a child of ours lives in a new user namespace, or in `namespace`. The mappings of a
/// namespace can only be seen (and set) at a process in it.
fn held<T>(namespace: Option<&OwnedFd>, look: impl FnOnce(u32) -> Result<T, Error>) -> Result<T, Error> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .context(|| "make a socket pair")?;
    let flags = if namespace.is_none() {
        u64::from(libc::CLONE_NEWUSER.unsigned_abs())
    } else {
        0
    };
    let forked = fork(flags, None).context(|| "make a user namespace")?;
    let (pid, pidfd) = match forked {
        Forked::Parent { pid, pidfd } => (pid, pidfd),
        Forked::Child => {
            drop(ours);
            let entered = namespace.map_or(Ok(()), |fd| {
                move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::User))
            });
            let errno = entered.err().map_or(0, |e| e.raw_os_error());
            let _ = rustix::net::send(&theirs, &errno.to_ne_bytes(), SendFlags::NOSIGNAL);
            let _ = rustix::net::recv(&theirs, &mut [0_u8; 1], RecvFlags::empty());
            exit(0);
        }
    };
    drop(theirs);
    let mut buffer = [0; 4];
    let result = match rustix::net::recv(&ours, &mut buffer, RecvFlags::empty()) {
        Ok((4, _)) => match i32::from_ne_bytes(buffer) {
            0 => look(pid),
            errno => Err(std::io::Error::from_raw_os_error(errno)).context(|| "join the user namespace"),
        },
        Ok(_) => Err(Error::Create("the user namespace's holder was killed".to_owned())),
        Err(e) => Err(e).context(|| "wait for the user namespace"),
    };
    drop(ours);
    let _ = rustix::process::waitid(
        rustix::process::WaitId::PidFd(pidfd.as_fd()),
        rustix::process::WaitIdOptions::EXITED,
    );
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped() {
        let mappings = Mappings {
            uids: parse("         0     100000      65536\n 70000 5 1\n"),
            gids: Vec::new(),
        };
        assert_eq!(mappings.outside_uid(0), Some(100_000));
        assert_eq!(mappings.outside_uid(65_535), Some(165_535));
        assert_eq!(mappings.outside_uid(65_536), None);
        assert_eq!(mappings.outside_uid(70_000), Some(5));
        assert_eq!(mappings.outside_gid(0), None);
        assert!(Mappings::new(&[], &[]).is_err());
    }
}
