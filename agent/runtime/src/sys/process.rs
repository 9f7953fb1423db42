//! Processes: clone3(2), resource limits, keyrings, seccomp filters, the allocator, interfaces up.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// `CLONE_INTO_CGROUP`, which libc types too narrowly.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `CLONE_PARENT`: the new process becomes a child of the caller's parent.
pub(crate) const SIBLING: u64 = libc::CLONE_PARENT as u64;

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Both sides of a clone.
#[derive(Debug)]
pub(crate) enum Forked {
    Child,
    Parent { pid: u32, pidfd: OwnedFd },
}

/// Forks into new namespaces (`flags`) and, with `cgroup`, into that v2 cgroup. The caller must be
/// single-threaded: the child goes on using the allocator.
pub(crate) fn fork(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    let mut pidfd: libc::c_int = -1;
    // A child of our own parent (CLONE_PARENT) takes over our own exit signal.
    let exit_signal = if flags & SIBLING == 0 {
        libc::SIGCHLD as u64
    } else {
        0
    };
    let mut arguments = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: without CLONE_VM this is fork: the child has its own copy of all memory, and no other thread
    // exists that could hold a lock. The arguments and `pidfd` live across the call.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: the kernel stored a new descriptor there (CLONE_PIDFD).
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent {
        pid: u32::try_from(pid).unwrap_or(0),
        pidfd,
    })
}

/// Plain fork(2), for use under a filter that knows no clone3; `None` in the child. The caller must be
/// single-threaded.
pub(crate) fn fork_plain() -> io::Result<Option<u32>> {
    // SAFETY: no other thread exists that could hold a lock in the child's copy of memory.
    let pid = unsafe { libc::fork() };
    check(libc::c_long::from(pid))?;
    Ok(u32::try_from(pid).ok().filter(|&pid| pid != 0))
}

/// Ends the process at once, without running anything of the parent's that fork has copied.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: does not return; touches no memory.
    unsafe { libc::_exit(code) }
}

/// setfsuid(2) and setfsgid(2). They tell nothing; the kernel takes every id from a privileged caller.
pub(crate) fn set_file_system_ids(uid: u32, gid: u32) {
    // SAFETY: no memory is passed.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
}

/// getrlimit(2): soft and hard.
pub(crate) fn resource_limit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct lives across the call.
    check(libc::c_long::from(unsafe {
        libc::getrlimit64(resource, &raw mut limit)
    }))?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// setrlimit(2).
pub(crate) fn set_resource_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the struct lives across the call.
    check(libc::c_long::from(unsafe {
        libc::setrlimit64(resource, &raw const limit)
    }))
    .map(drop)
}

/// A new, empty session keyring, so that the container can't use the one that we were started with.
pub(crate) fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    check(result).map(drop)
}

/// seccomp(2) with a classic BPF program of whole 8-byte instructions.
pub(crate) fn load_seccomp(program: &[u8], flags: u64) -> io::Result<()> {
    let length = u16::try_from(program.len() / 8).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut filter: Vec<libc::sock_filter> = program
        .chunks_exact(8)
        .map(|c| libc::sock_filter {
            code: u16::from_ne_bytes([c[0], c[1]]),
            jt: c[2],
            jf: c[3],
            k: u32::from_ne_bytes([c[4], c[5], c[6], c[7]]),
        })
        .collect();
    let program = libc::sock_fprog {
        len: length,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: `program` points at `filter`, both live across the call, and `len` is its length.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    check(result).map(drop)
}

/// Bounds the allocator's arenas, of which it would make eight for each processor: what one thread frees the next one uses again.
pub fn bound_arenas(arenas: usize) {
    #[cfg(target_env = "gnu")]
    // SAFETY: only touches the allocator's own state.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, i32::try_from(arenas).unwrap_or(i32::MAX));
    }
}

/// Gives freed memory back to the kernel: a shim idles for as long as its container lives, a daemon after it has started.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only touches the allocator's own state.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Sets the loopback interface of the current network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: an all-zero ifreq is valid; it holds a terminated name and lives across the call.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = libc::c_char::from_ne_bytes([*from]);
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    };
    check(libc::c_long::from(result)).map(drop)
}
