//! The one place where state changes. Exists while this manager leads.
//!
//! Inputs queue here. The loop takes all that wait, applies them to one transaction on the newest state, reconciles in
//! the same transaction, and proposes the result as one entry of the log; callers are answered when it is applied.
//! Meanwhile the next inputs gather: group commit without tuning. An input that fails spoils nothing for the others.
//!
//! Agents' reports have a queue of their own: what users wait for goes before them, so that thousands of agents can't hold up a call.
//!
//! Called by the API, the dispatcher, the CA and the role manager through [`Writer`]; `run` is its task.

mod batch;
mod input;
mod run;
mod time;

use pontoon_store::Tx;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

pub(crate) use input::{Input, Scope, WriteError};
pub(crate) use run::run;

use crate::status;
use batch::Batch;
use input::{Observation, Request};

/// Inputs that may wait; more callers wait to queue.
const QUEUE: usize = 4096;

/// The queues' inlet; cheap to clone. All calls fail once leadership is lost.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Box<dyn Input>>,
    reports: mpsc::UnboundedSender<Box<dyn Input>>,
}

/// The queues' outlet, for [`run`].
pub(crate) struct Inbox {
    requests: mpsc::Receiver<Box<dyn Input>>,
    /// One an agent at most.
    reports: mpsc::UnboundedReceiver<Box<dyn Input>>,
    /// The batch before had no room for reports that waited.
    owes: bool,
}

impl Inbox {
    /// Fills a batch with what waits: first what somebody waits for, then reports; the other way round when those had to wait before.
    fn fill(&mut self, batch: &mut Batch) {
        let owed = std::mem::take(&mut self.owes);
        if owed {
            self.add_reports(batch);
        }
        while batch.has_room()
            && let Ok(input) = self.requests.try_recv()
        {
            batch.add(input);
        }
        let had_room = batch.has_room();
        self.add_reports(batch);
        // A batch that began with reports has paid.
        self.owes = !owed && !had_room && !self.reports.is_empty();
    }

    /// Whether the batch before had not room for all.
    fn waits(&self) -> bool {
        !self.requests.is_empty() || !self.reports.is_empty()
    }

    fn add_reports(&mut self, batch: &mut Batch) {
        while batch.has_room()
            && let Ok(input) = self.reports.try_recv()
        {
            batch.add(input);
        }
    }
}

impl Writer {
    pub(crate) fn new() -> (Self, Inbox) {
        let (queue, requests) = mpsc::channel(QUEUE);
        let (to_reports, reports) = mpsc::unbounded_channel();
        let inbox = Inbox {
            requests,
            reports,
            owes: false,
        };
        (
            Self {
                queue,
                reports: to_reports,
            },
            inbox,
        )
    }

    /// Runs `change` in the writer's next transaction; what it returns is handed out once that is committed and
    /// applied here. When it fails, none of its edits stay, and its error is returned.
    pub(crate) async fn write<T, F>(&self, change: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx, &Scope) -> Result<T, Status> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let request = Request::new(change, reply);
        self.queue
            .send(Box::new(request))
            .await
            .map_err(|_| status::not_leader())?;
        // Dropped unanswered: the queue ended before the input was looked at.
        answer.await.unwrap_or_else(|_| Err(status::not_leader()))
    }

    /// Queues what agents report, behind all that somebody waits for. Whoever calls sees to it that it is one input a session at most.
    pub(crate) fn report(&self, input: impl Input + 'static) {
        // When the queue has ended the sessions have too.
        let _ = self.reports.send(Box::new(input));
    }

    /// Queues edits that can't fail (that a node is late). The receiver hears when they are committed.
    pub(crate) async fn observe<F>(&self, edit: F) -> oneshot::Receiver<Result<(), WriteError>>
    where
        F: FnOnce(&mut Tx, &Scope) + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        // When the queue has ended the observation is dropped, and with it the sender: the receiver hears that.
        let _ = self.queue.send(Box::new(Observation::new(edit, reply))).await;
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use pontoon_proto::v1::Node;
    use pontoon_raft::Host;
    use pontoon_store::Snapshot;

    use super::*;

    fn node(id: String) -> Node {
        Node {
            id,
            ..Node::default()
        }
    }

    /// A report that writes a node.
    struct Report(String);

    impl Input for Report {
        fn apply(&mut self, tx: &mut Tx, _: &Scope) {
            tx.put_node(node(self.0.clone())).unwrap();
        }

        fn needs_confirmation(&self) -> bool {
            false
        }

        fn finish(self: Box<Self>, _: &Result<(), WriteError>) {}
    }

    #[tokio::test]
    async fn requests_go_before_reports_and_neither_starves() {
        let (writer, mut inbox) = Writer::new();
        let order = std::sync::Arc::new(Mutex::new(Vec::new()));
        for number in 0..QUEUE * 3 {
            writer.report(Report(format!("report{number}")));
        }
        let mut callers = tokio::task::JoinSet::new();
        for number in 0..QUEUE {
            let (writer, order) = (writer.clone(), order.clone());
            callers.spawn(async move {
                let change = move |tx: &mut Tx, _: &Scope| {
                    order.lock().unwrap().push(tx.changes());
                    tx.put_node(node(format!("request{number}"))).unwrap();
                    Ok(())
                };
                writer.write(change).await
            });
        }
        while inbox.requests.len() < QUEUE {
            tokio::task::yield_now().await;
        }
        // How many changes each request found in the batch before its own.
        let mut fill = || {
            let mut batch = Batch::new(&Snapshot::default(), &Host::default(), 7, usize::MAX);
            inbox.fill(&mut batch);
            (std::mem::take(&mut *order.lock().unwrap()), inbox.reports.len())
        };
        let (first, reports) = fill();
        assert!(first.len() < QUEUE && first.iter().copied().eq(0..first.len()));
        assert_eq!(reports, QUEUE * 3, "no room was left for them");
        let (second, reports) = fill();
        assert!(second.is_empty() && reports < QUEUE * 3, "now it is their turn");
        let (third, left) = fill();
        assert_eq!((third.first(), third.is_empty()), (Some(&0), false));
        assert!(left <= reports);
    }
}
