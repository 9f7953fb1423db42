//! Statuses on their way to the managers: the newest of each task, sent in batches, sent again until acknowledged.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_proto::v1::{StatusReport, TaskStatus, TaskStatusUpdate};
use tokio::sync::Notify;

/// How long statuses are gathered before they are sent.
pub(crate) const BATCH: Duration = Duration::from_millis(10);

/// Statuses that managers do not know yet.
#[derive(Clone)]
pub(crate) struct Reporter {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// The newest status of each task that some manager has to know.
    unacknowledged: BTreeMap<String, (u64, TaskStatus)>,
    /// Tasks that have not been sent in this session.
    unsent: BTreeMap<String, u64>,
    /// What each report had: task and revision.
    reports: HashMap<u64, Vec<(String, u64)>>,
    revision: u64,
    sequence: u64,
}

impl Reporter {
    pub(crate) fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                state: Mutex::default(),
                changed: Notify::new(),
            }),
        }
    }

    /// A task has a new status.
    pub(crate) fn report(&self, task_id: &str, status: TaskStatus) {
        let mut state = self.lock();
        state.revision += 1;
        let revision = state.revision;
        state
            .unacknowledged
            .insert(task_id.to_owned(), (revision, status));
        state.unsent.insert(task_id.to_owned(), revision);
        drop(state);
        self.inner.changed.notify_one();
    }

    /// A task is no longer this node's business: nobody wants its status.
    pub(crate) fn forget(&self, task_id: &str) {
        let mut state = self.lock();
        state.unacknowledged.remove(task_id);
        state.unsent.remove(task_id);
    }

    /// A new session: whatever was not acknowledged has to be sent again.
    pub(crate) fn begin_session(&self) {
        let mut state = self.lock();
        state.reports.clear();
        state.unsent = state
            .unacknowledged
            .iter()
            .map(|(id, (revision, _))| (id.clone(), *revision))
            .collect();
        drop(state);
        self.inner.changed.notify_one();
    }

    /// Waits until there is something to send, and a little longer for more of it.
    pub(crate) async fn wait(&self) {
        loop {
            let changed = self.inner.changed.notified();
            if !self.lock().unsent.is_empty() {
                break;
            }
            changed.await;
        }
        tokio::time::sleep(BATCH).await;
    }

    /// What is to be sent now; `None` if nothing.
    pub(crate) fn take(&self) -> Option<StatusReport> {
        let mut state = self.lock();
        let unsent = std::mem::take(&mut state.unsent);
        let updates: Vec<TaskStatusUpdate> = unsent
            .keys()
            .filter_map(|id| {
                let (_, status) = state.unacknowledged.get(id)?;
                Some(TaskStatusUpdate {
                    task_id: id.clone(),
                    status: Some(status.clone()),
                })
            })
            .collect();
        if updates.is_empty() {
            return None;
        }
        state.sequence += 1;
        let sequence = state.sequence;
        state.reports.insert(sequence, unsent.into_iter().collect());
        Some(StatusReport { sequence, updates })
    }

    /// The managers have committed a report. A task whose status has changed since stays.
    pub(crate) fn acknowledge(&self, sequence: u64) {
        let mut state = self.lock();
        for (id, revision) in state.reports.remove(&sequence).unwrap_or_default() {
            if state
                .unacknowledged
                .get(&id)
                .is_some_and(|(newest, _)| *newest == revision)
            {
                state.unacknowledged.remove(&id);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::TaskState;

    use super::*;

    fn status(state: TaskState) -> TaskStatus {
        TaskStatus {
            state: state.into(),
            ..TaskStatus::default()
        }
    }

    #[test]
    fn sends_until_acknowledged() {
        let reporter = Reporter::new();
        reporter.report("a", status(TaskState::Accepted));
        reporter.report("a", status(TaskState::Running));
        reporter.report("b", status(TaskState::Running));
        let first = reporter.take().unwrap();
        assert_eq!(first.updates.len(), 2, "only the newest of each");
        assert!(reporter.take().is_none());
        reporter.report("a", status(TaskState::Failed));
        reporter.acknowledge(first.sequence);
        reporter.begin_session();
        let again = reporter.take().unwrap();
        assert_eq!(again.updates.len(), 1, "b was acknowledged, a changed since");
        assert_eq!(
            again.updates[0].status.as_ref().unwrap().state(),
            TaskState::Failed
        );
        reporter.acknowledge(again.sequence);
        reporter.begin_session();
        assert!(reporter.take().is_none());
    }

    #[test]
    fn forgotten_tasks_are_not_sent() {
        let reporter = Reporter::new();
        reporter.report("a", status(TaskState::Running));
        reporter.forget("a");
        assert!(reporter.take().is_none());
    }
}
