//! Commands that have to end: none may hold up the suite, whatever the runtime under test does.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, WaitStatus, pidfd_open};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

pub fn ends(pidfd: &OwnedFd) -> bool {
    let limit = Timespec {
        tv_sec: PATIENCE.as_secs().try_into().unwrap(),
        tv_nsec: 0,
    };
    let fd = pidfd.as_fd();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap() > 0
}

pub fn exit_code(status: WaitStatus) -> i32 {
    status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|s| 128 + s))
        .unwrap_or(-1)
}

/// Runs a command with its output in files: a container's process that inherits a pipe would hold it open.
pub fn run(command: &mut Command, output: &Path) -> Output {
    let (out, err) = (output.with_extension("out"), output.with_extension("err"));
    command
        .stdout(File::create(&out).unwrap())
        .stderr(File::create(&err).unwrap());
    let status = wait_for(command);
    Output {
        status,
        stdout: std::fs::read(out).unwrap(),
        stderr: std::fs::read(err).unwrap(),
    }
}

/// Runs a command to its end, which must come in time.
pub fn wait_for(command: &mut Command) -> std::process::ExitStatus {
    let mut child = command.spawn().unwrap();
    let pid = Pid::from_child(&child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    if !ends(&pidfd) {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{command:?} hangs");
    }
    child.wait().unwrap()
}

/// Polls a condition; false if it never holds.
pub fn until(condition: impl FnMut() -> bool) -> bool {
    crate::group::holds_within(PATIENCE, condition)
}
