//! Which system calls are steps: those that change something which outlives the process. Called by [`crate::trace`] at the entry of
//! every system call.

use nix::libc::{self, c_long, user_regs_struct};
use nix::sys::ptrace;
use nix::unistd::Pid;
use rustix::net::{AddressFamily, SocketAddrAny, getpeername, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Calls that always are steps.
const ALWAYS: &[(c_long, &str)] = &[
    (libc::SYS_mkdir, "mkdir"),
    (libc::SYS_mkdirat, "mkdirat"),
    (libc::SYS_rmdir, "rmdir"),
    (libc::SYS_unlink, "unlink"),
    (libc::SYS_unlinkat, "unlinkat"),
    (libc::SYS_rename, "rename"),
    (libc::SYS_renameat, "renameat"),
    (libc::SYS_renameat2, "renameat2"),
    (libc::SYS_symlink, "symlink"),
    (libc::SYS_symlinkat, "symlinkat"),
    (libc::SYS_link, "link"),
    (libc::SYS_linkat, "linkat"),
    (libc::SYS_mknodat, "mknodat"),
    (libc::SYS_truncate, "truncate"),
    (libc::SYS_ftruncate, "ftruncate"),
    (libc::SYS_copy_file_range, "copy_file_range"),
    (libc::SYS_sendfile, "sendfile"),
    (libc::SYS_chmod, "chmod"),
    (libc::SYS_fchmod, "fchmod"),
    (libc::SYS_fchmodat, "fchmodat"),
    (libc::SYS_chown, "chown"),
    (libc::SYS_lchown, "lchown"),
    (libc::SYS_fchown, "fchown"),
    (libc::SYS_fchownat, "fchownat"),
    (libc::SYS_utimensat, "utimensat"),
    (libc::SYS_setxattr, "setxattr"),
    (libc::SYS_lsetxattr, "lsetxattr"),
    (libc::SYS_fsetxattr, "fsetxattr"),
    (libc::SYS_mount, "mount"),
    (libc::SYS_umount2, "umount2"),
    (libc::SYS_move_mount, "move_mount"),
    (libc::SYS_fsmount, "fsmount"),
    (libc::SYS_mount_setattr, "mount_setattr"),
    (libc::SYS_pivot_root, "pivot_root"),
    (libc::SYS_setns, "setns"),
    (libc::SYS_unshare, "unshare"),
    (libc::SYS_bind, "bind"),
    (libc::SYS_vfork, "vfork"),
    (libc::SYS_fork, "fork"),
    (libc::SYS_execve, "execve"),
    (libc::SYS_execveat, "execveat"),
    (libc::SYS_kill, "kill"),
    (libc::SYS_pidfd_send_signal, "pidfd_send_signal"),
];

/// Calls that write, to what their first argument is.
const WRITES: &[(c_long, &str)] = &[
    (libc::SYS_write, "write"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_pwrite64, "pwrite64"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_sendmmsg, "sendmmsg"),
];

/// The call's name and what it is about, when the call that a thread of `process` is about to make is a step.
pub fn step(process: Pid, thread: Pid, regs: &user_regs_struct) -> Option<String> {
    let number = c_long::try_from(regs.orig_rax).ok()?;
    if let Some((_, name)) = ALWAYS.iter().find(|(always, _)| *always == number) {
        return Some((*name).to_owned());
    }
    if let Some((_, name)) = WRITES.iter().find(|(write, _)| *write == number) {
        return written(process, regs.rdi).map(|what| format!("{name} {what}"));
    }
    match number {
        libc::SYS_open => creates(regs.rsi).then(|| "open".to_owned()),
        libc::SYS_openat => creates(regs.rdx).then(|| "openat".to_owned()),
        // A thread is nothing that stays.
        libc::SYS_clone => (regs.rdi & flag(libc::CLONE_THREAD) == 0).then(|| "clone".to_owned()),
        libc::SYS_clone3 => {
            // The flags are the first word of its argument.
            let flags = ptrace::read(thread, regs.rdi as ptrace::AddressType).ok()?;
            (flags.cast_unsigned() & flag(libc::CLONE_THREAD) == 0).then(|| "clone3".to_owned())
        }
        _ => None,
    }
}

fn creates(flags: u64) -> bool {
    flags & flag(libc::O_CREAT | libc::O_TRUNC) != 0
}

fn flag(bits: libc::c_int) -> u64 {
    u64::from(bits.unsigned_abs())
}

/// A file (not the log on the standard streams), a netlink socket, or a connection that the process has made to another's socket.
fn written(process: Pid, fd: u64) -> Option<String> {
    if fd <= 2 {
        return None;
    }
    let target = std::fs::read_link(format!("/proc/{process}/fd/{fd}")).ok()?;
    let target = target.to_string_lossy();
    if target.starts_with('/') {
        return (!target.starts_with("/dev/")).then(|| target.into_owned());
    }
    if !target.starts_with("socket:") {
        return None;
    }
    let pid = rustix::process::Pid::from_raw(process.as_raw())?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let socket = pidfd_getfd(pidfd, i32::try_from(fd).ok()?, PidfdGetfdFlags::empty()).ok()?;
    match sockopt::socket_domain(&socket).ok()? {
        AddressFamily::NETLINK => Some("netlink".to_owned()),
        AddressFamily::UNIX => peer(&getpeername(&socket).ok()??),
        _ => None,
    }
}

/// The socket file on the other side; clients that came to us have none.
fn peer(address: &SocketAddrAny) -> Option<String> {
    let address = rustix::net::SocketAddrUnix::try_from(address.clone()).ok()?;
    let path = address.path()?.to_string_lossy().into_owned();
    path.rsplit('/').next().map(str::to_owned)
}
