//! One batch: inputs applied to one transaction, reconciled, encoded. No I/O: what it does follows from its arguments.

use pontoon_raft::Host;
use pontoon_reconcile::{Budget, Env, ReconcileState, reconcile};
use pontoon_store::{Made, Snapshot, Tx};

use super::input::{Input, Scope, WriteError};
use crate::ids;

/// About the size of one entry; the reconciler goes on in the next batch. An entry costs a way through the cluster, a sync of each disk and a
/// look at all nodes for each service, so large ones carry more; but a small call waits for the batch before its own.
const MAX_CHANGES: usize = 2000;
/// The same where somebody waits for an answer: what else there is to do fills the batches between.
const MAX_CHANGES_WITH_REQUEST: usize = 400;
const MAX_BYTES: usize = 1 << 20;
/// Inputs of one batch at most; many of them change nothing.
const MAX_INPUTS: usize = 2000;

/// Inputs taken together, with their transaction.
pub(super) struct Batch {
    tx: Tx,
    scope: Scope,
    bytes: usize,
    /// Changes that it may have.
    changes: usize,
    inputs: Vec<Box<dyn Input>>,
}

/// A batch that is ready for the log.
pub(super) struct Ready {
    /// The changeset and what it leads to; `None` when nothing changes.
    pub(super) made: Option<Made>,
    /// Somebody relies on the answer being the cluster's, not only this manager's.
    pub(super) needs_confirmation: bool,
    /// When the reconciler wants to run again.
    pub(super) next_wake: Option<i64>,
    /// The reconciler has more to do at once.
    pub(super) more: bool,
    inputs: Vec<Box<dyn Input>>,
}

impl Batch {
    /// `bytes` is about what the entry may have at most.
    pub(super) fn new(base: &Snapshot, host: &Host, now: i64, bytes: usize) -> Self {
        Self {
            bytes: bytes.min(MAX_BYTES),
            changes: MAX_CHANGES,
            tx: Tx::at(base.clone(), now),
            scope: Scope {
                now,
                host: host.clone(),
            },
            inputs: Vec::new(),
        }
    }

    /// Room for another input?
    pub(super) fn has_room(&self) -> bool {
        self.inputs.len() < MAX_INPUTS && self.tx.changes() < self.changes && self.tx.size() < self.bytes
    }

    pub(super) fn add(&mut self, mut input: Box<dyn Input>) {
        if input.needs_confirmation() {
            self.changes = MAX_CHANGES_WITH_REQUEST;
        }
        input.apply(&mut self.tx, &self.scope);
        self.inputs.push(input);
    }

    /// Reconciles within the budget that the inputs left (and a minimum, so that a flood of reports can't starve it).
    pub(super) fn finish(mut self, state: &mut ReconcileState) -> Ready {
        let budget = Budget {
            changes: self
                .changes
                .saturating_sub(self.tx.changes())
                .max(self.changes / 2),
            bytes: self.bytes.saturating_sub(self.tx.size()).max(self.bytes / 2),
        };
        let mut ids = ids::neighbours(&self.scope.host);
        let mut env = Env {
            now: self.scope.now,
            ids: &mut ids,
            budget,
        };
        let outcome = reconcile(&mut self.tx, state, &mut env);
        Ready {
            made: self.tx.finish(),
            needs_confirmation: self.inputs.iter().any(|input| input.needs_confirmation()),
            next_wake: outcome.next_wake,
            more: outcome.more,
            inputs: self.inputs,
        }
    }
}

impl Ready {
    /// Answers all inputs.
    pub(super) fn answer(self, outcome: &Result<(), WriteError>) {
        for input in self.inputs {
            input.finish(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::{Observation, Request};
    use super::*;
    use pontoon_proto::v1::{Changeset, Node};
    use prost::Message;
    use tokio::sync::oneshot;
    use tonic::Status;

    fn node(id: &str) -> Node {
        Node {
            id: id.to_owned(),
            ..Node::default()
        }
    }

    fn request(id: &'static str, fails: bool) -> (Box<dyn Input>, oneshot::Receiver<Result<(), Status>>) {
        let (reply, answer) = oneshot::channel();
        let change = move |tx: &mut Tx, _: &Scope| {
            tx.put_node(node(id)).unwrap();
            if fails { Err(Status::not_found(id)) } else { Ok(()) }
        };
        (Box::new(Request::new(change, reply)), answer)
    }

    #[test]
    fn a_failed_input_leaves_nothing_and_the_others_stay() {
        let mut batch = Batch::new(&Snapshot::default(), &Host::default(), 7, MAX_BYTES);
        let (good, mut good_answer) = request("good", false);
        let (bad, mut bad_answer) = request("bad", true);
        let (reply, mut seen) = oneshot::channel();
        let observation =
            Observation::new(|tx: &mut Tx, _: &Scope| tx.put_node(node("seen")).unwrap(), reply);
        for input in [good, bad, Box::new(observation)] {
            batch.add(input);
        }
        let ready = batch.finish(&mut ReconcileState::default());
        assert!(ready.needs_confirmation);
        let changeset = Changeset::decode(ready.made.as_ref().unwrap().entry.as_slice()).unwrap();
        assert_eq!((changeset.changes.len(), changeset.at), (2, 7));
        ready.answer(&Ok(()));
        good_answer.try_recv().unwrap().unwrap();
        assert_eq!(bad_answer.try_recv().unwrap().unwrap_err().message(), "bad");
        seen.try_recv().unwrap().unwrap();
    }

    /// An agent's report: edits without somebody who waits.
    fn report(ids: std::ops::Range<usize>) -> Box<dyn Input> {
        let edit = move |tx: &mut Tx, _: &Scope| {
            for id in ids {
                tx.put_node(node(&format!("n{id}"))).unwrap();
            }
        };
        Box::new(Observation::new(edit, oneshot::channel().0))
    }

    #[test]
    fn a_batch_with_a_request_stays_small() {
        let batch = || Batch::new(&Snapshot::default(), &Host::default(), 7, MAX_BYTES);
        let (mut plain, mut with_request) = (batch(), batch());
        with_request.add(request("asked", false).0);
        for batch in [&mut plain, &mut with_request] {
            batch.add(report(0..MAX_CHANGES_WITH_REQUEST));
        }
        assert!(plain.has_room() && !with_request.has_room());
        plain.add(report(MAX_CHANGES_WITH_REQUEST..MAX_CHANGES));
        assert!(!plain.has_room());
    }

    #[test]
    fn what_was_not_written_is_nobodys_success() {
        for (outcome, is_retriable) in [(WriteError::NotLeader, true), (WriteError::OutcomeUnknown, false)] {
            let mut batch = Batch::new(&Snapshot::default(), &Host::default(), 7, MAX_BYTES);
            let (input, mut answer) = request("node", false);
            batch.add(input);
            batch.finish(&mut ReconcileState::default()).answer(&Err(outcome));
            let status = answer.try_recv().unwrap().unwrap_err();
            assert_eq!(
                status.metadata().contains_key(crate::status::NOT_LEADER),
                is_retriable
            );
        }
    }

    #[test]
    fn nothing_changed_is_no_entry() {
        let batch = Batch::new(&Snapshot::default(), &Host::default(), 7, MAX_BYTES);
        let ready = batch.finish(&mut ReconcileState::default());
        assert!(ready.made.is_none() && !ready.needs_confirmation && !ready.more);
    }
}
