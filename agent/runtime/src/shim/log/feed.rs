//! The shim's end of a writer: a queue of records for a process that may be slow, and its words back. The process is
//! started before the container, and again should it die.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown, socketpair,
};
use serde::{Deserialize, Serialize};

use super::compress::helper;
use super::record::{Lost, Record};
use crate::Error;
use crate::error::IoContext;

/// Bytes held for a writer in blocking mode; at this point the container's output is no longer read.
const BACKLOG: usize = 64 << 10;
/// Bytes that the kernel holds.
const KERNEL_BUFFER: usize = 64 << 10;
/// How long a writer may take to reach its server before the container's start is given up.
const HELLO: Duration = Duration::from_secs(60);
/// A writer that dies is started again, but not more often.
const REBIRTH: Duration = Duration::from_secs(1);

/// What a writer says: one JSON line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// It takes records.
    Ready,
    /// It can't, and why.
    Failed(String),
    /// To be passed on to the daemon.
    Notice(String),
}

/// The way to a writer.
#[derive(Debug)]
pub(super) struct Feed {
    dir: PathBuf,
    socket: OwnedFd,
    child: Option<Child>,
    started: Instant,
    /// Whole frames, of which the first `sent` bytes are with the writer.
    output: Vec<u8>,
    sent: usize,
    /// What the writer has said, up to a line that is not complete.
    input: Vec<u8>,
    /// Non-blocking: most bytes held.
    limit: Option<usize>,
    lost: Lost,
    is_closing: bool,
    notices: Vec<String>,
}

impl Feed {
    /// Starts the writer of the container whose run directory this is, and waits until it is ready.
    pub(super) fn open(dir: &Path, limit: Option<usize>) -> Result<Self, Error> {
        let (socket, child) = spawn(dir)?;
        let mut feed = Self {
            dir: dir.to_owned(),
            socket,
            child: Some(child),
            started: Instant::now(),
            output: Vec::new(),
            sent: 0,
            input: Vec::new(),
            limit,
            lost: Lost::default(),
            is_closing: false,
            notices: Vec::new(),
        };
        match feed.hello() {
            Ok(()) => Ok(feed),
            Err(reason) => {
                feed.abandon();
                Err(Error::Create(format!(
                    "failed to initialize logging driver: {reason}"
                )))
            }
        }
    }

    fn hello(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + HELLO;
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Err("it was not ready in time".to_owned());
            }
            let timeout = Timespec::try_from(rest).map_err(|error| error.to_string())?;
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.to_string()),
            }
            let is_open = self.receive();
            for word in self.words() {
                match word {
                    Word::Ready => return Ok(()),
                    Word::Failed(reason) => return Err(reason),
                    Word::Notice(text) => self.notices.push(text),
                }
            }
            if !is_open {
                return Err("its process ended without a word".to_owned());
            }
        }
    }

    /// Takes a record, or loses it if it must not wait.
    pub(super) fn write(&mut self, record: &Record<'_>) {
        let length = self.output.len();
        record.encode(&mut self.output);
        let backlog = length - self.sent;
        if let Some(limit) = self.limit
            && backlog > 0
            && self.output.len() - self.sent > limit
        {
            self.output.truncate(length);
            if self.lost == Lost::default() {
                self.notices
                    .push("the log's buffer is full: output is being lost".to_owned());
            }
            self.lost.add(1, record.line.len());
        }
    }

    /// Passes on what the writer takes now.
    pub(super) fn flush(&mut self) {
        if self.child.is_none() {
            self.revive();
        }
        while self.sent < self.output.len() && self.child.is_some() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(&self.socket, &self.output[self.sent..], flags) {
                Ok(sent) => self.sent += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if self.sent > BACKLOG {
                        self.forget_sent();
                    }
                    return;
                }
                // It has died; what is left goes to the next one.
                Err(_) => return,
            }
        }
        if self.sent == self.output.len() {
            self.output = Vec::new();
            self.sent = 0;
            if self.lost != Lost::default() {
                let lost = std::mem::take(&mut self.lost);
                self.notices
                    .push(format!("the log's buffer has room again: {lost}"));
            }
            if self.is_closing {
                let _ = shutdown(&self.socket, Shutdown::Write);
            }
        }
    }

    /// Drops the frames that are with the writer whole, so that the buffer begins with a frame.
    fn forget_sent(&mut self) {
        let mut whole = 0;
        while let Ok(Some(length)) = Record::frame_length(&self.output[whole..])
            && whole + length <= self.sent
        {
            whole += length;
        }
        self.output.drain(..whole);
        self.sent -= whole;
    }

    /// Nothing follows: the writer ends when it has everything.
    pub(super) fn finish(&mut self) {
        self.is_closing = true;
        self.flush();
    }

    /// The container's output may be read.
    pub(super) fn takes(&self) -> bool {
        self.limit.is_some() || self.output.len() - self.sent < BACKLOG
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> Option<(&OwnedFd, PollFlags)> {
        self.child.as_ref()?;
        let mut flags = PollFlags::IN;
        if self.sent < self.output.len() {
            flags |= PollFlags::OUT;
        }
        Some((&self.socket, flags))
    }

    /// The socket is ready.
    pub(super) fn ready(&mut self) {
        if !self.receive() {
            // Its end is collected as that of any child.
            self.child = None;
        }
        for word in self.words() {
            match word {
                Word::Ready => {}
                Word::Failed(text) | Word::Notice(text) => self.notices.push(text),
            }
        }
        self.flush();
    }

    /// A child of the shim's has ended.
    pub(super) fn child_ended(&mut self, pid: u32) {
        if self.child.take_if(|child| child.id() == pid).is_some() {
            self.receive();
            for word in self.words() {
                if let Word::Failed(text) | Word::Notice(text) = word {
                    self.notices.push(text);
                }
            }
        }
    }

    /// Starts a writer in the place of one that has died. What that one had taken and not yet written is lost.
    fn revive(&mut self) {
        if self.sent == self.output.len() || self.started.elapsed() < REBIRTH {
            return;
        }
        self.started = Instant::now();
        self.forget_sent();
        self.sent = 0;
        self.input.clear();
        match spawn(&self.dir) {
            Ok((socket, child)) => {
                self.notices
                    .push("the log's writer has died and was started again".to_owned());
                self.socket = socket;
                self.child = Some(child);
            }
            Err(error) => self.notices.push(error.chain()),
        }
    }

    /// A writer that has died is to be started again.
    pub(super) fn wants_tick(&self) -> bool {
        self.child.is_none() && self.sent < self.output.len()
    }

    /// The writer has ended and has everything.
    pub(super) fn is_done(&self) -> bool {
        self.child.is_none() && !self.wants_tick()
    }

    /// Ends the writer, whatever it still has.
    pub(super) fn abandon(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(super) fn notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Reads what has come; false at the end.
    fn receive(&mut self) -> bool {
        let mut buffer = [0_u8; 4096];
        loop {
            match recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return false,
                Ok((length, _)) => self.input.extend_from_slice(&buffer[..length]),
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn words(&mut self) -> Vec<Word> {
        let Some(end) = self.input.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let lines: Vec<u8> = self.input.drain(..=end).collect();
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        lines
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }
}

fn spawn(dir: &Path) -> Result<(OwnedFd, Child), Error> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .context(|| "make a socket for the log's writer")?;
    rustix::net::sockopt::set_socket_send_buffer_size(&ours, KERNEL_BUFFER)
        .context(|| "size the socket of the log's writer")?;
    let child = helper()
        .arg("write")
        .arg(dir)
        .stdin(theirs)
        .spawn()
        .context(|| "start the log's writer")?;
    Ok((ours, child))
}
