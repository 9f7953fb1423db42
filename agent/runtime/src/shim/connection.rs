//! A client's connection: bytes in until they make a frame, bytes out until they are gone.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::Error;
use crate::protocol::{HEADER, Reply, decode_header, kind, push};

/// Output bytes held for a client that does not read; at this point its container's output is no longer read.
pub(super) const OUTPUT_LIMIT: usize = 256 << 10;

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// Asks and is answered.
    Call,
    /// Attached to a process (by its key).
    Stream {
        process: u64,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    /// Waits for the end of the container or of an exec.
    Wait(Option<String>),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub fd: OwnedFd,
    pub role: Role,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
}

impl Connection {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            role: Role::Call,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
        }
    }

    /// Reads what is there; false at the end of the connection.
    pub(super) fn fill(&mut self) -> bool {
        let mut buffer = [0_u8; 64 << 10];
        match recv(&self.fd, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => false,
            Ok((length, _)) => {
                self.input.extend_from_slice(&buffer[..length]);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }

    /// The next whole frame.
    pub(super) fn frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, Error> {
        let Some(header) = self.input.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let (kind, length) = decode_header(*header)?;
        if self.input.len() < HEADER + length {
            return Ok(None);
        }
        let payload = self.input[HEADER..HEADER + length].to_vec();
        self.input.drain(..HEADER + length);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Ok(Some((kind, payload)))
    }

    /// Queues a frame and sends what the client takes.
    pub(super) fn queue(&mut self, kind: u8, payload: &[u8]) {
        push(&mut self.output, kind, payload);
        self.flush();
    }

    /// Queues an answer.
    pub(super) fn reply(&mut self, reply: &Reply) {
        let bytes = serde_json::to_vec(reply).unwrap_or_default();
        self.queue(kind::CONTROL, &bytes);
    }

    /// Sends what the client takes now; a client that is gone takes everything.
    pub(super) fn flush(&mut self) {
        while self.sent < self.output.len() {
            match send(
                &self.fd,
                &self.output[self.sent..],
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(sent) => self.sent += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if self.sent > OUTPUT_LIMIT {
                        self.output.drain(..self.sent);
                        self.sent = 0;
                    }
                    return;
                }
                Err(_) => break,
            }
        }
        self.output = Vec::new();
        self.sent = 0;
    }

    /// Bytes not yet sent.
    pub(super) fn backlog(&self) -> usize {
        self.output.len() - self.sent
    }
}
