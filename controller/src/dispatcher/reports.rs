//! Status reports on their way into the log. They gather at their session until the writer comes to it, which takes all of them as one input, after
//! what users asked for; then they are acknowledged with the next that is sent to the agent.
//!
//! A session never waits for the writer: it goes on reading, so a leader that is busy does not take its agents' silence for its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_proto::v1::{StatusReport, TaskStatusUpdate};
use pontoon_reconcile::observe;
use pontoon_store::Tx;
use prost::Message;

use super::sessions::Session;
use crate::writer::{Input, Scope, WriteError, Writer};

/// Bytes of reports of one agent that may wait; then it is not read from until they are written.
const MAX_WAITING: usize = 4 << 20;
/// What a report counts at least.
const LEAST: usize = 64;

/// The reports of one session.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Not yet taken by the writer, in the order they came.
    updates: Vec<TaskStatusUpdate>,
    sequences: Vec<u64>,
    /// About the size of these.
    bytes: usize,
    /// The writer knows that there are some.
    queued: bool,
    /// Written, and to be acknowledged.
    written: Vec<u64>,
    /// Some could not be written.
    failed: bool,
}

impl Reports {
    /// Takes a report in; true if the writer is to be told.
    fn put(&self, report: StatusReport) -> bool {
        let mut state = self.lock();
        state.bytes += report.encoded_len().max(LEAST);
        state.sequences.push(report.sequence);
        match state.updates.is_empty() {
            true => state.updates = report.updates,
            false => state.updates.extend(report.updates),
        }
        !std::mem::replace(&mut state.queued, true)
    }

    /// For the writer: all that wait.
    fn take(&self) -> (Vec<TaskStatusUpdate>, Vec<u64>) {
        let mut state = self.lock();
        (state.bytes, state.queued) = (0, false);
        (
            std::mem::take(&mut state.updates),
            std::mem::take(&mut state.sequences),
        )
    }

    fn written(&self, sequences: Vec<u64>) {
        self.lock().written.extend(sequences);
    }

    fn failed(&self) {
        self.lock().failed = true;
    }

    /// Room for another report?
    pub(super) fn has_room(&self) -> bool {
        self.lock().bytes < MAX_WAITING
    }

    /// What is to be acknowledged: every sequence, because agents of older versions wait for each; others have sent one only. `None`: a
    /// report is lost.
    pub(super) fn acknowledge(&self) -> Option<Vec<u64>> {
        let mut state = self.lock();
        (!state.failed).then(|| std::mem::take(&mut state.written))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes in a report; the session is woken when it is written.
pub(super) fn take_in(session: &Arc<Session>, writer: &Writer, report: StatusReport) {
    #[cfg(feature = "planted-bugs")]
    if pontoon_proto::planted::is_planted(pontoon_proto::planted::Bug::ConfirmEarly) {
        session.reports.written(vec![report.sequence]);
        session.wake();
    }
    if session.reports.put(report) {
        writer.report(Waiting {
            session: session.clone(),
            sequences: Vec::new(),
        });
    }
}

/// The writer's input: what waits at a session when the writer comes to it.
struct Waiting {
    session: Arc<Session>,
    sequences: Vec<u64>,
}

impl Input for Waiting {
    fn apply(&mut self, tx: &mut Tx, scope: &Scope) {
        let (updates, sequences) = self.session.reports.take();
        observe::task_status(tx, &self.session.node_id, &updates, scope.now);
        self.sequences = sequences;
    }

    fn needs_confirmation(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>, outcome: &Result<(), WriteError>) {
        match outcome {
            Ok(()) => self.session.reports.written(self.sequences),
            Err(_) => self.session.reports.failed(),
        }
        self.session.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::super::sessions::Sessions;
    use super::*;
    use pontoon_proto::v1::{Task, TaskState, TaskStatus};
    use pontoon_raft::Host;
    use pontoon_store::Snapshot;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    fn report(sequence: u64, state: TaskState) -> StatusReport {
        let status = TaskStatus {
            state: state.into(),
            ..TaskStatus::default()
        };
        StatusReport {
            sequence,
            updates: vec![TaskStatusUpdate {
                task_id: "t1".into(),
                status: Some(status),
            }],
        }
    }

    /// A session, and a transaction in which a task is assigned to its node.
    fn fixture() -> (Arc<Session>, Tx, Scope) {
        let sessions = Sessions::new(Host::default());
        let session = sessions.open("n1", mpsc::channel(1).0, &CancellationToken::new());
        let mut tx = Tx::new(Snapshot::default());
        tx.put_task(Task {
            id: "t1".into(),
            node_id: "n1".into(),
            status: Some(TaskStatus {
                state: TaskState::Assigned.into(),
                ..TaskStatus::default()
            }),
            ..Task::default()
        })
        .unwrap();
        let scope = Scope {
            now: 7,
            host: Host::default(),
        };
        (session, tx, scope)
    }

    fn waiting(session: &Arc<Session>) -> Box<Waiting> {
        Box::new(Waiting {
            session: session.clone(),
            sequences: Vec::new(),
        })
    }

    #[test]
    fn reports_gather_until_the_writer_comes_and_each_is_acknowledged() {
        let (session, mut tx, scope) = fixture();
        assert!(session.reports.put(report(1, TaskState::Accepted)));
        assert!(
            !session.reports.put(report(2, TaskState::Preparing)),
            "it is in the queue"
        );
        let mut first = waiting(&session);
        first.apply(&mut tx, &scope);
        let state = |tx: &Tx| tx.task("t1").unwrap().status.as_ref().unwrap().state();
        assert_eq!(state(&tx), TaskState::Preparing);
        assert!(
            session.reports.put(report(3, TaskState::Running)),
            "it was taken from it"
        );
        assert_eq!(
            session.reports.acknowledge(),
            Some(vec![]),
            "nothing is committed"
        );
        first.finish(&Ok(()));
        assert_eq!(session.reports.acknowledge(), Some(vec![1, 2]));
        let mut second = waiting(&session);
        second.apply(&mut tx, &scope);
        assert_eq!(state(&tx), TaskState::Running);
        second.finish(&Err(WriteError::NotLeader));
        assert_eq!(session.reports.acknowledge(), None, "the session ends");
    }

    #[test]
    fn an_agent_is_not_read_from_while_too_much_of_it_waits() {
        let (session, mut tx, scope) = fixture();
        let mut large = report(1, TaskState::Running);
        large.updates[0].task_id = "t".repeat(MAX_WAITING);
        session.reports.put(report(0, TaskState::Accepted));
        assert!(session.reports.has_room());
        session.reports.put(large);
        assert!(!session.reports.has_room());
        waiting(&session).apply(&mut tx, &scope);
        assert!(session.reports.has_room());
    }
}
