//! What agents and sessions report, written into a transaction. Called by the controller's writer before it reconciles.

use pontoon_proto::v1::{
    Node, NodeDescription, NodeState, NodeStatus, Task, TaskState, TaskStatus, TaskStatusUpdate,
};
use pontoon_store::Tx;

use crate::reasons;
use crate::state::state_of;

/// Takes in what the node's agent says of its tasks; returns how many updates said something new. A task's state never
/// goes back, a task that has ended stays as it is, and only tasks that were assigned to this node are listened to:
/// anything else is old news or not the agent's business, and is dropped.
pub fn task_status(tx: &mut Tx, node_id: &str, updates: &[TaskStatusUpdate], now: i64) -> usize {
    let mut written = 0;
    // A report may tell every state that a task came through. Each write copies the task and the tree nodes above it, so
    // what is said of one task in a row is one.
    for of_task in updates.chunk_by(|one, next| one.task_id == next.task_id) {
        let Some(before) = of_task
            .first()
            .and_then(|update| tx.task(&update.task_id))
            .cloned()
        else {
            continue;
        };
        let (mut after, mut news) = (None, 0);
        for status in of_task.iter().filter_map(|update| update.status.as_ref()) {
            if is_news(after.as_ref().unwrap_or(before.as_ref()), node_id, status) {
                take_in(after.get_or_insert_with(|| Task::clone(&before)), status, now);
                news += 1;
            }
        }
        if let Some(task) = after
            && tx.put_task(task).is_ok()
        {
            written += news;
        }
    }
    written
}

/// Whether a status says something of a task that its node may say.
fn is_news(task: &Task, node_id: &str, status: &TaskStatus) -> bool {
    let (before, state) = (state_of(task), status.state());
    let theirs = task.node_id == node_id && before >= TaskState::Assigned;
    let known = TaskState::try_from(status.state).is_ok();
    let reportable = (TaskState::Assigned..=TaskState::Rejected).contains(&state);
    let goes_on = state >= before && (!before.is_terminal() || state == before);
    theirs && known && reportable && goes_on && task.status.as_ref() != Some(status)
}

fn take_in(task: &mut Task, status: &TaskStatus, now: i64) {
    let mut status = status.clone();
    if status.leaving && !task.status.as_ref().is_some_and(|before| before.leaving) {
        reasons::note(task, now, status.err.clone());
    }
    if status.timestamp <= 0 {
        status.timestamp = now;
    }
    if task.running_at == 0 && status.state() == TaskState::Running {
        // By the managers' clock, as all that is decided on: agents' clocks may be wrong.
        task.running_at = now;
    }
    task.meta.get_or_insert_default().updated_at = now;
    task.status = Some(status);
}

/// A session of the node began (or its description changed): it is ready. False if the node does not exist.
pub fn node_ready(
    tx: &mut Tx,
    node_id: &str,
    description: Option<NodeDescription>,
    addr: &str,
    now: i64,
) -> bool {
    change(tx, node_id, |node| {
        if description.is_some() {
            node.description = description;
        }
        set_state(node, NodeState::Ready, "", now);
        if let Some(status) = &mut node.status
            && !addr.is_empty()
        {
            addr.clone_into(&mut status.addr);
        }
    })
}

/// The node missed its heartbeats (or left): its tasks are replaced. False if the node does not exist.
pub fn node_down(tx: &mut Tx, node_id: &str, message: &str, now: i64) -> bool {
    change(tx, node_id, |node| set_state(node, NodeState::Down, message, now))
}

/// Nothing is known of the node yet (a new leader): it keeps its tasks, and gets no new ones until it is heard of.
/// False if the node does not exist.
pub fn node_unknown(tx: &mut Tx, node_id: &str, message: &str, now: i64) -> bool {
    change(tx, node_id, |node| {
        set_state(node, NodeState::Unknown, message, now)
    })
}

/// The node's session broke and its grace is running: as [`node_unknown`]. False if the node does not exist.
pub fn node_disconnected(tx: &mut Tx, node_id: &str, message: &str, now: i64) -> bool {
    change(tx, node_id, |node| {
        set_state(node, NodeState::Disconnected, message, now)
    })
}

fn change(tx: &mut Tx, node_id: &str, edit: impl FnOnce(&mut Node)) -> bool {
    let Some(node) = tx.node(node_id) else {
        return false;
    };
    let mut node = Node::clone(node);
    edit(&mut node);
    tx.put_node(node).is_ok()
}

fn set_state(node: &mut Node, state: NodeState, message: &str, now: i64) {
    let before = node.status.take().unwrap_or_default();
    let since = if before.state() == state && before.since != 0 {
        before.since
    } else {
        now
    };
    let message = message.to_owned();
    node.status = Some(NodeStatus {
        state: state.into(),
        message,
        addr: before.addr,
        since,
    });
}
