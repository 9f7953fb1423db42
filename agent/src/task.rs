//! The walk of one task through its states, driven by what the managers want and what its container does.
//!
//! ```text
//! ACCEPTED → PREPARING → READY ──desired RUNNING──► STARTING → RUNNING → COMPLETE | FAILED
//!               │REJECTED                              │FAILED      └─desired SHUTDOWN─► SHUTDOWN
//! ```
//! States only move forward. A task found on disk goes on from what its container is; one that had ended stays so.

use std::sync::Arc;

use pontoon_proto::v1::{TaskAssignment, TaskState, TaskStatus};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::exec::{Controller, Credentials, Exit, Progress, StepError};
use crate::reporter::Reporter;
use crate::storage::Storage;

/// A running walk, as the worker holds it.
pub(crate) struct Handle {
    /// What the managers want; the walk follows it.
    pub assignment: watch::Sender<TaskAssignment>,
    /// Where the task is.
    pub status: watch::Receiver<TaskStatus>,
    /// Ends the walk, shuts the container down and removes it; resolves `done` then.
    pub remove: CancellationToken,
    /// Answered when everything of the task is gone.
    pub done: Option<oneshot::Receiver<()>>,
}

/// One task.
struct Walk {
    assignment: watch::Receiver<TaskAssignment>,
    status: watch::Sender<TaskStatus>,
    controller: Box<dyn Controller>,
    reporter: Reporter,
    storage: Arc<Storage>,
    remove: CancellationToken,
}

/// What ends a wait before its time.
enum Interrupt {
    /// The managers want it to end.
    Leave,
    /// It is no longer this node's business.
    Remove,
}

/// Begins the walk of a task, from `status` on. `stop` ends it without touching the container.
pub(crate) fn spawn(
    assignment: TaskAssignment,
    status: TaskStatus,
    controller: Box<dyn Controller>,
    reporter: &Reporter,
    storage: &Arc<Storage>,
    stop: &CancellationToken,
) -> Handle {
    let (assignment, assigned) = watch::channel(assignment);
    let (status, observed) = watch::channel(status);
    let remove = CancellationToken::new();
    let (done, finished) = oneshot::channel();
    let walk = Walk {
        assignment: assigned,
        status,
        controller,
        reporter: reporter.clone(),
        storage: storage.clone(),
        remove: remove.clone(),
    };
    let stop = stop.clone();
    tokio::spawn(async move {
        if stop.run_until_cancelled(walk.run()).await.is_some() {
            // The worker may have gone meanwhile.
            done.send(()).ok();
        }
    });
    Handle {
        assignment,
        status: observed,
        remove,
        done: Some(finished),
    }
}

impl Walk {
    async fn run(mut self) {
        let found = self.state();
        // What was observed last may not have reached the managers before the restart.
        if found >= TaskState::Accepted {
            let status = self.status.borrow().clone();
            let id = self.id();
            self.reporter.report(&id, status);
        }
        if found < TaskState::Accepted {
            self.advance(TaskState::Accepted, "accepted", "").await;
        }
        if !found.is_terminal() {
            match self.live(found).await {
                Ok(()) => {}
                Err(Interrupt::Leave) => self.leave().await,
                Err(Interrupt::Remove) => {}
            }
        }
        self.until_removed().await;
        self.clean_up().await;
    }

    /// From preparing to the end of the program; errors end the walk early.
    async fn live(&mut self, found: TaskState) -> Result<(), Interrupt> {
        self.check()?;
        if found < TaskState::Preparing {
            self.advance(TaskState::Preparing, "preparing", "").await;
        }
        if found < TaskState::Starting {
            let controller = &self.controller;
            let fetch = controller.fetch(Credentials::new(self.assignment.clone()));
            let fetched = interruptible(&mut self.assignment, &self.remove, fetch).await?;
            if let Err(error) = fetched {
                self.end_with(error).await;
                return Ok(());
            }
        }
        let progress = match self.controller.prepare().await {
            Ok(progress) => progress,
            Err(error) => {
                self.end_with(error).await;
                return Ok(());
            }
        };
        if progress == Progress::Prepared && found >= TaskState::Starting {
            // It was made anew, or never started although it was about to: its run is lost.
            self.advance(
                TaskState::Failed,
                "failed",
                "task: its container was lost while the agent was away",
            )
            .await;
            return Ok(());
        }
        if progress == Progress::Prepared {
            self.advance(TaskState::Ready, "prepared", "").await;
            self.until_desired(TaskState::Running).await?;
            self.advance(TaskState::Starting, "starting", "").await;
            if let Err(error) = self.controller.start().await {
                self.end_with(error).await;
                return Ok(());
            }
        }
        let controller = &self.controller;
        let ready = interruptible(&mut self.assignment, &self.remove, controller.wait_ready()).await?;
        match ready {
            Ok(None) => {}
            Ok(Some(exit)) => {
                self.exited(exit).await;
                return Ok(());
            }
            Err(error) => {
                self.end_with(error).await;
                return Ok(());
            }
        }
        self.advance(TaskState::Running, "started", "").await;
        let controller = &self.controller;
        match interruptible(&mut self.assignment, &self.remove, controller.wait_exit()).await? {
            Ok(exit) => self.exited(exit).await,
            Err(error) => self.end_with(error).await,
        }
        Ok(())
    }

    /// The managers want the task to end.
    async fn leave(&mut self) {
        match self.controller.shutdown().await {
            Ok(()) => self.advance(TaskState::Shutdown, "shutdown", "").await,
            Err(error) => {
                self.advance(TaskState::Failed, "shutdown failed", &error.to_string())
                    .await
            }
        }
    }

    /// Waits until nothing of the task is wanted any more. REMOVE takes the container already.
    async fn until_removed(&mut self) {
        tokio::select! {
            () = desired(&mut self.assignment, TaskState::Remove) => {}
            () = self.remove.cancelled() => return,
        }
        if let Err(error) = self.controller.remove().await {
            tracing::warn!(task = self.id(), %error, "could not remove a task's container");
        }
        self.remove.cancelled().await;
    }

    async fn clean_up(&self) {
        let id = self.id();
        if !self.state().is_terminal()
            && let Err(error) = self.controller.shutdown().await
        {
            tracing::warn!(task = id, %error, "could not shut down a task that is removed");
        }
        if let Err(error) = self.controller.remove().await {
            tracing::warn!(task = id, %error, "could not remove a task's container");
        }
        self.reporter.forget(&id);
        if let Err(error) = self.storage.remove_task(&id) {
            tracing::warn!(task = id, error = error.chain(), "could not forget a task");
        }
    }

    async fn exited(&mut self, exit: Exit) {
        if exit.code == 0 && exit.details.is_empty() {
            self.advance(TaskState::Complete, "finished", "").await;
            return;
        }
        let mut error = format!("task: non-zero exit ({})", exit.code);
        for detail in exit.details {
            error.push_str(": ");
            error.push_str(&detail);
        }
        self.advance(TaskState::Failed, "failed", &error).await;
    }

    async fn end_with(&mut self, error: StepError) {
        match error {
            StepError::Reject(text) => self.advance(TaskState::Rejected, "preparing", &text).await,
            StepError::Fail(text) => self.advance(TaskState::Failed, "failed", &text).await,
        }
    }

    /// Writes down and reports a state, unless it would be a step back.
    async fn advance(&mut self, state: TaskState, message: &str, error: &str) {
        if state < self.state() {
            return;
        }
        let container = match state {
            TaskState::Accepted | TaskState::Preparing | TaskState::Rejected => None,
            _ => self.controller.status().await,
        };
        let status = TaskStatus {
            state: state.into(),
            timestamp: now(),
            message: message.to_owned(),
            err: error.to_owned(),
            container,
            ports: if state >= TaskState::Running {
                self.assignment.borrow().host_ports.clone()
            } else {
                Vec::new()
            },
        };
        let assignment = self.assignment.borrow().clone();
        if let Err(error) = self.storage.put_task(&assignment, &status) {
            tracing::warn!(
                task = assignment.task_id,
                error = error.chain(),
                "could not write down a task's state"
            );
        }
        if error.is_empty() {
            tracing::debug!(task = assignment.task_id, state = state.name(), "task state");
        } else {
            tracing::warn!(
                task = assignment.task_id,
                state = state.name(),
                error,
                "the task has ended"
            );
        }
        self.status.send_replace(status.clone());
        self.reporter.report(&assignment.task_id, status);
    }

    fn state(&self) -> TaskState {
        self.status.borrow().state()
    }

    fn id(&self) -> String {
        self.assignment.borrow().task_id.clone()
    }

    fn check(&self) -> Result<(), Interrupt> {
        if self.remove.is_cancelled() {
            return Err(Interrupt::Remove);
        }
        if self.assignment.borrow().desired_state() > TaskState::Running {
            return Err(Interrupt::Leave);
        }
        Ok(())
    }

    async fn until_desired(&mut self, state: TaskState) -> Result<(), Interrupt> {
        tokio::select! {
            () = desired(&mut self.assignment, state) => {}
            () = self.remove.cancelled() => {}
        }
        self.check()
    }
}

/// Waits for something that may take for ever, unless the task is to leave.
async fn interruptible<T>(
    assignment: &mut watch::Receiver<TaskAssignment>,
    remove: &CancellationToken,
    wait: impl Future<Output = T>,
) -> Result<T, Interrupt> {
    tokio::select! {
        outcome = wait => Ok(outcome),
        () = desired(assignment, TaskState::Shutdown) => Err(Interrupt::Leave),
        () = remove.cancelled() => Err(Interrupt::Remove),
    }
}

/// Waits until the managers want at least this state. A worker that is gone (the daemon leaves) wants nothing any more:
/// its containers have to stay as they are, so that is no end of the wait.
async fn desired(assignment: &mut watch::Receiver<TaskAssignment>, state: TaskState) {
    if assignment
        .wait_for(|task| task.desired_state() >= state)
        .await
        .is_err()
    {
        std::future::pending::<()>().await;
    }
}

fn now() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
