//! Statuses on their way to the managers: the newest of each task, sent again in a new session until acknowledged.
//!
//! One report is on its way at a time. What comes meanwhile gathers until it is acknowledged, so a manager that has much to do gets fewer
//! reports with more in each, and no more of them than it can write; one that has little to do acknowledges at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pontoon_proto::v1::{StatusReport, TaskStatus, TaskStatusUpdate};
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long statuses are gathered at least before they are sent.
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
    /// Since when there are such tasks.
    since: Option<Instant>,
    /// The report that is not acknowledged yet.
    sent: Option<Sent>,
    revision: u64,
    sequence: u64,
}

/// A report on its way.
struct Sent {
    sequence: u64,
    /// What it had: task and revision.
    tasks: BTreeMap<String, u64>,
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
        state.since.get_or_insert_with(Instant::now);
        drop(state);
        self.inner.changed.notify_one();
    }

    /// A task is no longer this node's business: nobody wants its status.
    pub(crate) fn forget(&self, task_id: &str) {
        let mut state = self.lock();
        state.unacknowledged.remove(task_id);
        state.unsent.remove(task_id);
        if state.unsent.is_empty() {
            state.since = None;
        }
    }

    /// A new session: whatever was not acknowledged has to be sent again.
    pub(crate) fn begin_session(&self) {
        let mut state = self.lock();
        state.sent = None;
        state.since = Some(Instant::now());
        state.unsent = state
            .unacknowledged
            .iter()
            .map(|(id, (revision, _))| (id.clone(), *revision))
            .collect();
        drop(state);
        self.inner.changed.notify_one();
    }

    /// Waits until there is something to send and the report before it is acknowledged; a little longer for what comes together.
    pub(crate) async fn wait(&self) {
        loop {
            let changed = self.inner.changed.notified();
            let since = {
                let state = self.lock();
                let may_send = state.sent.is_none() && !state.unsent.is_empty();
                state.since.filter(|_| may_send)
            };
            match since {
                Some(since) => return tokio::time::sleep_until(since + BATCH).await,
                None => changed.await,
            }
        }
    }

    /// What is to be sent now; `None` if nothing, or while another report is on its way.
    pub(crate) fn take(&self) -> Option<StatusReport> {
        let mut state = self.lock();
        if state.sent.is_some() {
            return None;
        }
        state.since = None;
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
        state.sent = Some(Sent {
            sequence,
            tasks: unsent,
        });
        Some(StatusReport { sequence, updates })
    }

    /// The managers have committed a report, and all before it. A task whose status has changed since stays.
    pub(crate) fn acknowledge(&self, sequence: u64) {
        let mut state = self.lock();
        let Some(sent) = state.sent.take_if(|sent| sent.sequence <= sequence) else {
            return;
        };
        for (id, revision) in sent.tasks {
            if state
                .unacknowledged
                .get(&id)
                .is_some_and(|(newest, _)| *newest == revision)
            {
                state.unacknowledged.remove(&id);
            }
        }
        drop(state);
        self.inner.changed.notify_one();
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
    fn one_report_is_on_its_way_at_a_time() {
        let reporter = Reporter::new();
        reporter.report("a", status(TaskState::Preparing));
        let first = reporter.take().unwrap();
        reporter.report("a", status(TaskState::Starting));
        reporter.report("b", status(TaskState::Running));
        reporter.report("a", status(TaskState::Running));
        assert!(reporter.take().is_none(), "the first is not acknowledged");
        reporter.acknowledge(first.sequence - 1);
        assert!(reporter.take().is_none(), "an older one was acknowledged");
        reporter.acknowledge(first.sequence);
        let second = reporter.take().unwrap();
        let states = second
            .updates
            .iter()
            .map(|update| update.status.as_ref().unwrap().state());
        assert_eq!(states.collect::<Vec<_>>(), [TaskState::Running; 2]);
        // The acknowledgement was lost with the session.
        reporter.begin_session();
        let again = reporter.take().unwrap();
        assert_eq!(again.updates, second.updates);
        // A manager may acknowledge all at once.
        reporter.acknowledge(again.sequence + 1);
        reporter.begin_session();
        assert!(reporter.take().is_none());
    }

    #[tokio::test]
    async fn what_comes_meanwhile_waits_for_the_acknowledgement() {
        let reporter = Reporter::new();
        reporter.report("a", status(TaskState::Preparing));
        reporter.wait().await;
        let first = reporter.take().unwrap();
        reporter.report("a", status(TaskState::Running));
        let waited = tokio::time::timeout(BATCH * 3, reporter.wait()).await;
        assert!(waited.is_err(), "the first is not acknowledged");
        reporter.acknowledge(first.sequence);
        reporter.wait().await;
        assert!(reporter.take().is_some());
    }

    #[test]
    fn forgotten_tasks_are_not_sent() {
        let reporter = Reporter::new();
        reporter.report("a", status(TaskState::Running));
        reporter.forget("a");
        assert!(reporter.take().is_none());
    }
}
