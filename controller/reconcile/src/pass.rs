//! One call of the reconciler: the loop over its parts, the budget, and what the parts share.

use pontoon_proto::v1::{Network, Node, Service, Task};
use pontoon_store::{Kind, Tx};

use crate::scheduler::Plan;
use crate::state::ReconcileState;
use crate::timers::Subject;
use crate::{allocator, orchestrator, scheduler};

/// Rounds of one call; each starts only because the one before wrote something that others react to.
const MAX_ROUNDS: usize = 32;

/// How much one call may write on top of what is in the transaction already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Objects.
    pub changes: usize,
    /// Bytes.
    pub bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            changes: 1000,
            bytes: 1 << 20,
        }
    }
}

/// What comes from outside: the clock, ids, the budget.
pub struct Env<'a> {
    /// Nanoseconds since the Unix epoch.
    pub now: i64,
    /// Makes a new object's id.
    pub ids: &'a mut dyn FnMut() -> String,
    /// How much may be written.
    pub budget: Budget,
}

/// What a call left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Run again at this time, if nothing happens before.
    pub next_wake: Option<i64>,
    /// The budget was used up: run again at once, in a new transaction.
    pub more: bool,
}

/// Brings the objects in `tx` towards what their specs ask for. `state` must come from earlier calls or be new; it finds
/// out by itself what has changed since, also if an earlier transaction was dropped.
pub fn reconcile(tx: &mut Tx, state: &mut ReconcileState, env: &mut Env<'_>) -> Outcome {
    let mut pass = Pass::begin(tx, state, env);
    while let Some(subject) = pass.state.timers.pop_due(pass.env.now) {
        match subject {
            Subject::Slot(service, slot) => pass.state.mark_slot(&service, slot),
            Subject::Service(service) => pass.state.mark_service(&service),
            Subject::Node(node) => pass.state.mark_node(&node),
        }
    }
    for _ in 0..MAX_ROUNDS {
        orchestrator::run(&mut pass);
        pass.state.sync(pass.tx.view());
        allocator::run(&mut pass);
        pass.state.sync(pass.tx.view());
        scheduler::run(&mut pass);
        pass.state.sync(pass.tx.view());
        if pass.state.is_clean() || pass.is_full() {
            break;
        }
    }
    Outcome {
        next_wake: pass.state.timers.next(),
        more: !pass.state.is_clean(),
    }
}

/// The last of [`reconcile`]'s steps alone: decides which nodes waiting tasks get. What differs from the objects seen last is taken in
/// first. For measurements, and for who asks what would be placed where. The state counts what was decided: [`write()`] it, or
/// throw the state away.
pub fn choose(tx: &mut Tx, state: &mut ReconcileState, env: &mut Env<'_>) -> Plan {
    let mut pass = Pass::begin(tx, state, env);
    scheduler::choose(&mut pass)
}

/// Writes what was decided on the same transaction.
pub fn write(plan: Plan, tx: &mut Tx, state: &mut ReconcileState, env: &mut Env<'_>) {
    let mut pass = Pass::begin(tx, state, env);
    plan.write(&mut pass);
}

/// What the parts of one call share.
pub(crate) struct Pass<'a, 'b> {
    pub(crate) tx: &'a mut Tx,
    pub(crate) state: &'a mut ReconcileState,
    pub(crate) env: &'a mut Env<'b>,
    changes: usize,
    bytes: usize,
}

impl<'a, 'b> Pass<'a, 'b> {
    /// Takes in what has changed since the call before.
    fn begin(tx: &'a mut Tx, state: &'a mut ReconcileState, env: &'a mut Env<'b>) -> Self {
        let changes = tx.changes().saturating_add(env.budget.changes.max(1));
        let bytes = tx.size().saturating_add(env.budget.bytes.max(1));
        state.sync(tx.view());
        Self {
            tx,
            state,
            env,
            changes,
            bytes,
        }
    }
}

impl Pass<'_, '_> {
    /// The time of this call.
    pub(crate) fn now(&self) -> i64 {
        self.env.now
    }

    /// Whether the budget is used up.
    pub(crate) fn is_full(&self) -> bool {
        self.tx.changes() >= self.changes || self.tx.size() >= self.bytes
    }

    /// What is left of the budget.
    pub(crate) fn left(&self) -> Budget {
        Budget {
            changes: self.changes.saturating_sub(self.tx.changes()),
            bytes: self.bytes.saturating_sub(self.tx.size()),
        }
    }

    /// Whether the object may still be written: it was written already, or there is budget left.
    pub(crate) fn may_write(&self, kind: Kind, id: &str) -> bool {
        !self.is_full() || self.tx.is_written(kind, id)
    }

    pub(crate) fn put_task(&mut self, task: Task) {
        self.tx.put_task(task).expect("a task has an id");
    }

    pub(crate) fn put_node(&mut self, node: Node) {
        self.tx.put_node(node).expect("a node has an id");
    }

    pub(crate) fn put_service(&mut self, service: Service) {
        self.tx
            .put_service(service)
            .expect("a service that is in the store keeps its name");
    }

    pub(crate) fn put_network(&mut self, network: Network) {
        self.tx
            .put_network(network)
            .expect("a network that is in the store keeps its name");
    }
}
