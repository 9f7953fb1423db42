//! Signals: sending by raw number (real-time signals included), SIGCHLD as a descriptor, and the clean state
//! that a container's program must start with.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::check;

/// kill(2). A pid that does not fit is nobody's.
pub(crate) fn kill(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    if pid == 0 {
        // kill(0) would signal our own group.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: no memory is passed.
    check(libc::c_long::from(unsafe { libc::kill(pid, signal) })).map(drop)
}

/// pidfd_send_signal(2).
pub(crate) fn send(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed; no other memory is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            no_info,
            0,
        )
    };
    check(result).map(drop)
}

/// Blocks `signals` and returns a non-blocking descriptor that becomes readable when one arrives.
pub(crate) fn descriptor(signals: &[i32]) -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set before it is used; the pointers live across the calls; the
    // descriptor returned is new and ours.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        check(libc::c_long::from(libc::sigprocmask(
            libc::SIG_BLOCK,
            set.as_ptr(),
            std::ptr::null_mut(),
        )))?;
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(libc::c_long::from(fd))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Default action for every signal, none blocked: what execve would otherwise pass on.
pub(crate) fn reset_all() {
    // The kernel's `struct sigaction` with all zero: SIG_DFL, no flags, no mask. Not the C library's call, which refuses the two
    // signals that it keeps for itself, and those are ignored in whatever was started by posix_spawn.
    let default = [0_u64; 4];
    // SAFETY: the kernel reads at most the 32 bytes of `default` and writes nothing; the set is initialised before use. Errors
    // (SIGKILL, SIGSTOP) are meant to be ignored.
    unsafe {
        for signal in 1..=64_i32 {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<libc::c_void>(),
                size_of::<u64>(),
            );
        }
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}
