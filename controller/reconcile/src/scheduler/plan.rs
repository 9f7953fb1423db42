//! What the scheduler has decided, before the transaction says it. Deciding looks at sums and indexes only; writing copies tasks.

use std::sync::Arc;

use pontoon_proto::v1::{GenericResource, Task, TaskState};
use pontoon_store::{Id, Kind};

use super::roster::{Roster, Seat};
use crate::demand::{Demand, Share};
use crate::pass::Pass;
use crate::{generic, reasons};

/// About what a task takes of a budget in bytes. One that takes more is found out when it is written.
const TASK_BYTES: usize = 1024;

/// What tasks that are placed together have in common.
pub(super) struct Order<'a> {
    pub(super) demand: &'a Arc<Demand>,
    /// What their status says.
    pub(super) message: &'static str,
}

/// What becomes of a task.
#[derive(Debug)]
enum Decision {
    /// It goes to a node and gets units of its generic resources.
    Place {
        node: Id,
        given: Vec<GenericResource>,
        message: &'static str,
    },
    /// It waits, and for this reason.
    Refuse(Arc<str>),
}

/// Decisions of one call, in the order in which they were made. The state counts them already.
#[derive(Debug, Default)]
pub struct Plan {
    decisions: Vec<(Id, Decision)>,
    /// How many of them are about tasks that this transaction has not written yet, once that matters.
    fresh: Option<usize>,
}

impl Plan {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.decisions.is_empty()
    }

    /// Whether one more task may be decided on: it is written in this transaction already, or there is budget left.
    pub(super) fn has_room(&mut self, pass: &Pass<'_, '_>, id: &Id) -> bool {
        let left = pass.left();
        let most = left.changes.min(left.bytes / TASK_BYTES);
        // Enough even if all are new.
        if self.decisions.len() < most {
            return true;
        }
        let is_written = |id: &Id| pass.tx.is_written(Kind::Task, id);
        if is_written(id) {
            return true;
        }
        let decided = &self.decisions;
        let count = || decided.iter().filter(|(id, _)| !is_written(id)).count();
        let fresh = self.fresh.get_or_insert_with(count);
        let has_room = *fresh < most || (*fresh == 0 && !pass.is_full());
        *fresh += usize::from(has_room);
        has_room
    }

    /// Has a task told why it waits, unless it says so; false if there is no room.
    pub(super) fn refuse(&mut self, pass: &Pass<'_, '_>, id: Id, reason: &Arc<str>) -> bool {
        let status = pass.tx.task(&id).and_then(|task| task.status.as_ref());
        let says = status.is_some_and(|status| status.err == reason.as_ref());
        let has_room = says || self.has_room(pass, &id);
        if has_room && !says {
            self.decisions.push((id, Decision::Refuse(reason.clone())));
        }
        has_room
    }

    /// Counts a task on a node that has passed the filters just before, and has that written.
    pub(super) fn place(&mut self, roster: &mut Roster, id: Id, seat: Seat, order: &Order<'_>) {
        let (entry, wanted) = (roster.entry(seat), &order.demand.generic);
        let given = match &entry.node {
            Some(node) if !wanted.is_empty() => {
                let claimed = entry.usage.generic.claim(generic::offered(node), wanted);
                claimed.unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let share = Share {
            demand: order.demand.clone(),
            generic: given.clone().into_boxed_slice(),
            active: true,
        };
        let decision = Decision::Place {
            node: entry.id.clone(),
            given,
            message: order.message,
        };
        roster.add(id.clone(), seat, share);
        self.decisions.push((id, decision));
    }

    /// Writes what was decided. What there is no budget left for is decided anew in the next transaction.
    pub(crate) fn write(self, pass: &mut Pass<'_, '_>) {
        for (id, decision) in self.decisions {
            if !pass.may_write(Kind::Task, &id) {
                pass.state.roster.take(&id);
                pass.state
                    .queue
                    .ask_again(&id, pass.tx.task(&id).map(Arc::as_ref));
                continue;
            }
            match decision {
                Decision::Place { node, given, message } => assign(pass, &id, &node, given, message),
                Decision::Refuse(reason) => refuse(pass, &id, &reason),
            }
        }
    }
}

/// Writes where a task goes, and which of the node's units are its own.
fn assign(pass: &mut Pass<'_, '_>, id: &Id, node: &Id, given: Vec<GenericResource>, message: &str) {
    let Some(task) = pass.tx.task(id) else { return };
    let mut task = Task::clone(task);
    let now = pass.now();
    reasons::waited(&mut task, now);
    node.as_str().clone_into(&mut task.node_id);
    if !given.is_empty() {
        task.generic_resources = given;
    }
    let status = task.status.get_or_insert_default();
    status.set_state(TaskState::Assigned);
    status.timestamp = now;
    message.clone_into(&mut status.message);
    status.err.clear();
    pass.put_task(task);
}

/// Writes why a task could not be placed.
fn refuse(pass: &mut Pass<'_, '_>, id: &Id, reason: &str) {
    let Some(task) = pass.tx.task(id) else { return };
    let mut task = Task::clone(task);
    reason.clone_into(&mut task.status.get_or_insert_default().err);
    pass.put_task(task);
}
