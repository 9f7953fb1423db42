//! Linearizable reads on their way: those that wait for a request, and requests that wait for the leader.
//!
//! Requests get lost with messages and leaders, so each is repeated after an election timeout; all reads that wait
//! share one request.

use super::event::ReadReply;
use crate::error::ReadError;

/// Requests under way at the same time; more reads wait for the next one.
const MAX_INFLIGHT: usize = 4;

struct Waiting {
    reply: ReadReply,
    /// Tick at which it is given up.
    deadline: u64,
}

struct Request {
    context: Vec<u8>,
    sent: u64,
    reads: Vec<Waiting>,
}

/// The reads of one member.
pub(super) struct Reads {
    waiting: Vec<Waiting>,
    requests: Vec<Request>,
    /// Ticks after which a request is repeated, and after which a read is given up.
    retry: u64,
    timeout: u64,
}

impl Reads {
    pub(super) fn new(retry: u64, timeout: u64) -> Self {
        Self {
            waiting: Vec::new(),
            requests: Vec::new(),
            retry,
            timeout,
        }
    }

    /// Nobody waits for a read.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.requests.is_empty()
    }

    pub(super) fn add(&mut self, reply: ReadReply, now: u64) {
        self.waiting.push(Waiting {
            reply,
            deadline: now + self.timeout,
        });
    }

    /// Sends one request for all that wait, if `send` takes it.
    pub(super) fn request(
        &mut self,
        now: u64,
        context: impl FnOnce() -> Vec<u8>,
        send: impl FnOnce(Vec<u8>) -> bool,
    ) {
        if self.waiting.is_empty() || self.requests.len() >= MAX_INFLIGHT {
            return;
        }
        let context = context();
        if send(context.clone()) {
            self.requests.push(Request {
                context,
                sent: now,
                reads: std::mem::take(&mut self.waiting),
            });
        }
    }

    /// The reads of an answered request.
    pub(super) fn take(&mut self, context: &[u8]) -> Vec<ReadReply> {
        let Some(at) = self
            .requests
            .iter()
            .position(|request| request.context == context)
        else {
            return Vec::new();
        };
        self.requests
            .remove(at)
            .reads
            .into_iter()
            .map(|read| read.reply)
            .collect()
    }

    /// Once a tick: repeats what was lost, gives up what took too long.
    pub(super) fn tick(&mut self, now: u64) {
        let (lost, waiting) = (&mut self.requests, &mut self.waiting);
        let retry = self.retry;
        for request in lost.extract_if(.., |request| request.sent + retry <= now) {
            waiting.extend(request.reads);
        }
        for read in waiting.extract_if(.., |read| read.deadline <= now) {
            let _ = read.reply.send(Err(ReadError::NoLeader));
        }
    }

    /// Answers everything with this error.
    pub(super) fn fail(&mut self, error: &ReadError) {
        let requests = std::mem::take(&mut self.requests);
        let reads = requests.into_iter().flat_map(|request| request.reads);
        for read in reads.chain(std::mem::take(&mut self.waiting)) {
            let _ = read.reply.send(Err(error.clone()));
        }
    }
}
