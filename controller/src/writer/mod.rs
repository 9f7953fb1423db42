//! The one place where state changes. Exists while this manager leads.
//!
//! Inputs queue here. The loop takes all that wait, applies them to one transaction on the newest state, reconciles in
//! the same transaction, and proposes the result as one entry of the log; callers are answered when it is applied.
//! Meanwhile the next inputs gather: group commit without tuning. An input that fails spoils nothing for the others.
//!
//! Called by the API, the dispatcher, the CA and the role manager through [`Writer`]; `run` is its task.

mod batch;
mod input;
mod run;
mod time;

use pontoon_store::Tx;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

pub(crate) use input::{Scope, WriteError};
pub(crate) use run::run;

use crate::status;
use input::{Input, Observation, Request};

/// Inputs that may wait; more callers wait to queue.
const QUEUE: usize = 4096;

/// The queue's inlet; cheap to clone. All calls fail once leadership is lost.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Box<dyn Input>>,
}

/// The queue's outlet, for [`run`].
pub(crate) struct Inbox(mpsc::Receiver<Box<dyn Input>>);

impl Writer {
    pub(crate) fn new() -> (Self, Inbox) {
        let (queue, inbox) = mpsc::channel(QUEUE);
        (Self { queue }, Inbox(inbox))
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

    /// Queues edits that can't fail (reports of agents). The receiver hears when they are committed.
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
