//! Inputs of the writer: requests (may fail, see their result) and observations (may not).

use pontoon_raft::Host;
use pontoon_store::Tx;
use tokio::sync::oneshot;
use tonic::Status;

use crate::{ids, status};

/// What an input may use besides the transaction.
pub(crate) struct Scope {
    /// The batch's time, nanoseconds since the epoch.
    pub(crate) now: i64,
    pub(crate) host: Host,
}

impl Scope {
    /// A fresh id.
    pub(crate) fn new_id(&self) -> String {
        ids::new_id(&self.host)
    }
}

/// Why a batch was not written.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum WriteError {
    /// Nothing was written.
    #[error("this manager does not lead")]
    NotLeader,
    /// It may or may not have been written.
    #[error(
        "leadership was lost while the change was being replicated; look whether it was made before trying again"
    )]
    OutcomeUnknown,
    /// Nothing was written, and it never will.
    #[error("{0}")]
    Refused(String),
}

impl WriteError {
    fn to_status(&self) -> Status {
        match self {
            WriteError::NotLeader => status::not_leader(),
            WriteError::OutcomeUnknown => Status::unavailable(self.to_string()),
            WriteError::Refused(_) => Status::resource_exhausted(self.to_string()),
        }
    }
}

/// One input.
pub(crate) trait Input: Send {
    /// Makes its edits, all or none.
    fn apply(&mut self, tx: &mut Tx, scope: &Scope);
    /// True when somebody waits for an answer that must be true at the moment it is given.
    fn needs_confirmation(&self) -> bool;
    /// Answers.
    fn finish(self: Box<Self>, outcome: &Result<(), WriteError>);
}

/// A change with a result.
pub(crate) struct Request<T, F> {
    change: Option<F>,
    result: Option<Result<T, Status>>,
    reply: oneshot::Sender<Result<T, Status>>,
}

impl<T, F> Request<T, F> {
    pub(crate) fn new(change: F, reply: oneshot::Sender<Result<T, Status>>) -> Self {
        Self {
            change: Some(change),
            result: None,
            reply,
        }
    }
}

impl<T, F> Input for Request<T, F>
where
    T: Send,
    F: FnOnce(&mut Tx, &Scope) -> Result<T, Status> + Send,
{
    fn apply(&mut self, tx: &mut Tx, scope: &Scope) {
        let Some(change) = self.change.take() else { return };
        let mut attempt = tx.clone();
        let result = change(&mut attempt, scope);
        if result.is_ok() {
            *tx = attempt;
        }
        self.result = Some(result);
    }

    fn needs_confirmation(&self) -> bool {
        true
    }

    fn finish(self: Box<Self>, outcome: &Result<(), WriteError>) {
        let result = match outcome {
            Ok(()) => self.result.unwrap_or_else(|| Err(status::not_leader())),
            Err(error) => Err(error.to_status()),
        };
        // A caller that went away needs no answer.
        let _ = self.reply.send(result);
    }
}

/// Edits without a result.
pub(crate) struct Observation<F> {
    edit: Option<F>,
    reply: oneshot::Sender<Result<(), WriteError>>,
}

impl<F> Observation<F> {
    pub(crate) fn new(edit: F, reply: oneshot::Sender<Result<(), WriteError>>) -> Self {
        Self {
            edit: Some(edit),
            reply,
        }
    }
}

impl<F: FnOnce(&mut Tx, &Scope) + Send> Input for Observation<F> {
    fn apply(&mut self, tx: &mut Tx, scope: &Scope) {
        if let Some(edit) = self.edit.take() {
            edit(tx, scope);
        }
    }

    fn needs_confirmation(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>, outcome: &Result<(), WriteError>) {
        // Nobody has to listen.
        let _ = self.reply.send(outcome.clone());
    }
}
