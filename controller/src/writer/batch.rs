//! One batch: inputs applied to one transaction, reconciled, encoded. No I/O: what it does follows from its arguments.

use bytes::Bytes;
use pontoon_reconcile::{Budget, Env, ReconcileState, reconcile};
use pontoon_store::{Snapshot, Tx};
use prost::Message;

use super::input::{Input, Scope, WriteError};
use crate::clock;

/// About the size of one entry; the reconciler goes on in the next batch.
const MAX_CHANGES: usize = 1000;
const MAX_BYTES: usize = 1 << 20;
/// Inputs of one batch at most; many of them change nothing.
const MAX_INPUTS: usize = 1000;

/// Inputs taken together, with their transaction.
pub(super) struct Batch {
    tx: Tx,
    scope: Scope,
    inputs: Vec<Box<dyn Input>>,
}

/// A batch that is ready for the log.
pub(super) struct Ready {
    /// The encoded changeset; `None` when nothing changes.
    pub(super) entry: Option<Bytes>,
    /// Somebody relies on the answer being the cluster's, not only this manager's.
    pub(super) needs_confirmation: bool,
    /// When the reconciler wants to run again.
    pub(super) next_wake: Option<i64>,
    /// The reconciler has more to do at once.
    pub(super) more: bool,
    inputs: Vec<Box<dyn Input>>,
}

impl Batch {
    pub(super) fn new(base: &Snapshot, now: i64) -> Self {
        Self {
            tx: Tx::new(base.clone()),
            scope: Scope { now },
            inputs: Vec::new(),
        }
    }

    /// Room for another input?
    pub(super) fn has_room(&self) -> bool {
        self.inputs.len() < MAX_INPUTS && self.tx.changes() < MAX_CHANGES && self.tx.size() < MAX_BYTES
    }

    pub(super) fn add(&mut self, mut input: Box<dyn Input>) {
        input.apply(&mut self.tx, &self.scope);
        self.inputs.push(input);
    }

    /// Reconciles within the budget that the inputs left (and a minimum, so that a flood of reports can't starve it).
    pub(super) fn finish(mut self, state: &mut ReconcileState) -> Ready {
        let budget = Budget {
            changes: MAX_CHANGES.saturating_sub(self.tx.changes()).max(MAX_CHANGES / 2),
            bytes: MAX_BYTES.saturating_sub(self.tx.size()).max(MAX_BYTES / 2),
        };
        let mut ids = clock::new_id;
        let mut env = Env {
            now: self.scope.now,
            ids: &mut ids,
            budget,
        };
        let outcome = reconcile(&mut self.tx, state, &mut env);
        let changeset = self.tx.into_changeset(self.scope.now);
        Ready {
            entry: (!changeset.changes.is_empty()).then(|| changeset.encode_to_vec().into()),
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
