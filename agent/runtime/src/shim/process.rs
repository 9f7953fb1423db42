//! A process as the shim holds it: its streams and what is still to be written to its stdin.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::Error;
use crate::container::child::Stdio;
use crate::driver::Streams;
use crate::error::IoContext;

/// Stdin bytes held for a process that does not read; more stay in the client's socket.
pub(super) const STDIN_LIMIT: usize = 256 << 10;

/// What a process's stdin is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input {
    pub open: bool,
    /// Closes with the first client that was attached to it.
    pub once: bool,
}

/// Our ends of a process's pipes.
#[derive(Debug, Default)]
pub(super) struct Ends {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// Makes the streams of a process: its ends and ours.
pub(super) fn streams(tty: bool, open_stdin: bool) -> Result<(Streams, Ends), Error> {
    if tty {
        return Ok((Streams::Terminal, Ends::default()));
    }
    let pipe = || pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe");
    let (stdin, input) = if open_stdin {
        let (read, write) = pipe()?;
        (read, Some(write))
    } else {
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        (null.context(|| "open /dev/null")?, None)
    };
    let (out_read, stdout) = pipe()?;
    let (err_read, stderr) = pipe()?;
    let ends = Ends {
        stdin: input,
        stdout: Some(out_read),
        stderr: Some(err_read),
    };
    Ok((
        Streams::Pipes(Stdio {
            stdin,
            stdout,
            stderr,
        }),
        ends,
    ))
}

/// One process of the container.
#[derive(Debug)]
pub(super) struct Process {
    pub pid: u32,
    /// Id of an exec; `None` for the container's init.
    pub id: Option<String>,
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// Master of the terminal: input and output in one.
    pub console: Option<OwnedFd>,
    pub input: Input,
    pub pending_input: Vec<u8>,
    pub close_input: bool,
    /// Tells about execve; nothing is read before that is known.
    pub outcome: Option<OwnedFd>,
    /// Connection that waits for it.
    pub asker: Option<u64>,
    pub running: bool,
    pub exit: Option<i32>,
}

impl Process {
    pub(super) fn new(
        pid: u32,
        id: Option<String>,
        ends: Ends,
        console: Option<OwnedFd>,
        input: Input,
    ) -> Result<Self, Error> {
        for fd in [&ends.stdin, &ends.stdout, &ends.stderr, &console]
            .into_iter()
            .flatten()
        {
            set_nonblocking(fd)?;
        }
        let Ends {
            stdin,
            stdout,
            stderr,
        } = ends;
        Ok(Self {
            pid,
            id,
            stdin,
            stdout,
            stderr,
            console,
            input,
            pending_input: Vec::new(),
            close_input: false,
            outcome: None,
            asker: None,
            running: false,
            exit: None,
        })
    }

    /// Where input goes.
    pub(super) fn input_fd(&self) -> Option<&OwnedFd> {
        self.stdin.as_ref().or(self.console.as_ref())
    }

    /// Takes bytes for stdin; without an open stdin they vanish, as in Docker.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.input_fd().is_some() && (self.input.open || self.console.is_some()) && !self.close_input {
            self.pending_input.extend_from_slice(bytes);
            self.flush_input();
        }
    }

    /// Ends stdin after what is pending. A terminal has no end of its own: the next client goes on typing.
    pub(super) fn end_input(&mut self) {
        self.close_input = self.console.is_none();
        self.flush_input();
    }

    /// Writes what the process takes now.
    pub(super) fn flush_input(&mut self) {
        let mut broken = false;
        while !self.pending_input.is_empty() {
            let Some(fd) = self.input_fd() else { break };
            match rustix::io::write(fd, &self.pending_input) {
                Ok(written) => drop(self.pending_input.drain(..written)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        if broken {
            self.pending_input.clear();
        }
        if (broken || self.close_input) && self.console.is_none() {
            self.stdin = None;
        }
    }

    /// No stream can bring anything any more.
    pub(super) fn is_silent(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none() && self.console.is_none()
    }
}

fn set_nonblocking(fd: impl AsFd) -> Result<(), Error> {
    let flags = fcntl_getfl(&fd).context(|| "read descriptor flags")?;
    fcntl_setfl(&fd, flags | OFlags::NONBLOCK).context(|| "set a descriptor non-blocking")
}
