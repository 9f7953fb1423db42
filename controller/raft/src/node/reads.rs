//! Linearizable reads on their way: those that wait for a request, and requests that wait for the leader.
//!
//! All reads that wait share one request, and while one is on its way the next ones gather: the busier a member is, the
//! more reads a round of heartbeats answers. Requests get lost with messages and leaders, so each is repeated after an
//! election timeout, and reads don't wait longer than a tick for another's answer.

use super::event::ReadReply;
use crate::error::ReadError;

/// Requests under way at the same time, where the answers take longer than a tick; more reads wait for the next one.
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
        let is_early = self.requests.last().is_some_and(|last| last.sent == now);
        if self.waiting.is_empty() || is_early || self.requests.len() >= MAX_INFLIGHT {
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    /// Asks for what waits; the context of the request, if there was one.
    fn request(reads: &mut Reads, now: u64, context: u8) -> Option<Vec<u8>> {
        let mut sent = None;
        reads.request(
            now,
            || vec![context],
            |context| {
                sent = Some(context);
                true
            },
        );
        sent
    }

    fn add(reads: &mut Reads, now: u64) -> oneshot::Receiver<Result<(), ReadError>> {
        let (reply, answer) = oneshot::channel();
        reads.add(reply, now);
        answer
    }

    #[test]
    fn reads_gather_while_a_request_is_on_its_way() {
        let mut reads = Reads::new(10, 100);
        assert_eq!(request(&mut reads, 0, 1), None, "nobody waits");
        let _first = add(&mut reads, 0);
        assert_eq!(request(&mut reads, 0, 1), Some(vec![1]));
        let _others: Vec<_> = (0..63).map(|_| add(&mut reads, 0)).collect();
        assert_eq!(request(&mut reads, 0, 2), None);
        assert_eq!(reads.take(&[1]).len(), 1);
        assert_eq!(request(&mut reads, 0, 2), Some(vec![2]));
        assert_eq!(reads.take(&[2]).len(), 63);
        assert!(reads.is_empty());
    }

    #[test]
    fn an_answer_that_takes_long_holds_up_nobody() {
        let mut reads = Reads::new(10, 100);
        let mut waiting = Vec::new();
        for tick in 0..5 {
            waiting.push(add(&mut reads, tick));
            let sent = request(&mut reads, tick, u8::try_from(tick).unwrap());
            assert_eq!(sent.is_some(), tick < MAX_INFLIGHT as u64);
        }
        // The first is lost; its read asks again together with the one that waits.
        reads.tick(10);
        assert_eq!(request(&mut reads, 10, 9), Some(vec![9]));
        assert_eq!(reads.take(&[9]).len(), 2);
        assert!(reads.take(&[0]).is_empty());
        // In the end it is given up.
        reads.fail(&ReadError::NoLeader);
        assert!(waiting.iter_mut().all(|answer| match answer.try_recv() {
            Ok(Err(ReadError::NoLeader)) | Err(oneshot::error::TryRecvError::Closed) => true,
            other => panic!("{other:?}"),
        }));
    }
}
