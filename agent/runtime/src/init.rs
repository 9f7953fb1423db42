//! The small init that runs as pid 1 of a container started with `--init`: one child, whose end is ours.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

use rustix::process::{WaitOptions, WaitStatus, wait};

use crate::sys;

/// Where programs are looked for without `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Signals that are about init itself, or that a process gets for its own faults.
const NOT_FORWARDED: [i32; 11] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGCHLD,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// How it is called, and with that what process listings show: Docker's name.
pub(crate) const NAME: &CStr = c"/sbin/docker-init";

/// `-- <argv...>`: the program is looked up as a shell does.
pub(crate) fn main(arguments: Vec<OsString>) -> ExitCode {
    // Started through a descriptor, it would have that one's number or file for a name.
    let _ = rustix::thread::set_name(c"docker-init");
    let words: Option<Vec<CString>> = arguments
        .iter()
        .skip_while(|a| *a == "--")
        .map(|a| CString::new(a.as_bytes()).ok())
        .collect();
    match words.as_deref() {
        Some(argv @ [name, ..]) => run(&looked_up(name), argv),
        _ => {
            eprintln!("docker-init: no program given");
            ExitCode::from(125)
        }
    }
}

/// Where the program is: it was found a moment ago, before this init was started.
fn looked_up(name: &CString) -> CString {
    use std::os::unix::fs::PermissionsExt;
    if name.as_bytes().contains(&b'/') {
        return name.clone();
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    std::env::split_paths(&path)
        .map(|directory| directory.join(OsStr::from_bytes(name.as_bytes())))
        .find(|candidate| {
            let metadata = std::fs::metadata(candidate);
            metadata.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
        .and_then(|found| CString::new(found.into_os_string().into_vec()).ok())
        .unwrap_or_else(|| name.clone())
}

fn run(program: &CString, argv: &[CString]) -> ExitCode {
    let signals: Vec<i32> = (1..=31)
        .filter(|s| !NOT_FORWARDED.contains(s))
        .chain([libc::SIGCHLD])
        .collect();
    let descriptor = match sys::signal::descriptor(&signals) {
        Ok(descriptor) => descriptor,
        Err(error) => {
            eprintln!("docker-init: signalfd: {error}");
            return ExitCode::from(125);
        }
    };
    match sys::process::fork_plain() {
        Ok(None) => {
            // The child leads its own group and has the terminal, so that ^C reaches it and not us.
            let _ = rustix::process::setpgid(None, None);
            let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid());
            sys::signal::reset_all();
            let env: Vec<CString> = std::env::vars_os()
                .filter_map(|(k, v)| CString::new([k.as_bytes(), b"=", v.as_bytes()].concat()).ok())
                .collect();
            let error = sys::exec::execve(program, argv, &env);
            eprintln!("docker-init: exec {}: {error}", program.to_string_lossy());
            sys::process::exit(if error.kind() == std::io::ErrorKind::NotFound {
                127
            } else {
                126
            })
        }
        Ok(Some(pid)) => supervise(pid, &descriptor),
        Err(error) => {
            eprintln!("docker-init: fork: {error}");
            ExitCode::from(125)
        }
    }
}

fn supervise(child: u32, signals: &OwnedFd) -> ExitCode {
    loop {
        let mut fds = [rustix::event::PollFd::new(signals, rustix::event::PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, None);
        let mut buffer = [0_u8; size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(signals, &mut buffer).is_ok() {
            // The signal's number is the first field (signalfd(2)).
            let signal = u32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]).cast_signed();
            if signal != libc::SIGCHLD {
                let _ = sys::signal::kill(child, signal);
            }
        }
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid.as_raw_nonzero().get().unsigned_abs() == child {
                return ExitCode::from(u8::try_from(exit_code(status)).unwrap_or(255));
            }
        }
    }
}

/// A status as shells report it: 128 + signal when killed by one.
pub(crate) fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}
