//! The walk of one task through its states, driven by what the managers want and what its container does.
//!
//! ```text
//! ACCEPTED → PREPARING → READY ──desired RUNNING──► STARTING → RUNNING → COMPLETE | FAILED
//!               │REJECTED                              │FAILED      ├─desired SHUTDOWN─► (drains) → SHUTDOWN
//!                                                                   └─unhealthy────────► (drains) → FAILED
//! ```
//! A task that leaves gets no new connections from the moment on in which the managers want it to leave: all nodes are told together.
//! This one waits for the task's drain period, so that they have heard of it and what was begun may end, before it stops the program.
//!
//! States only move forward. A task found on disk goes on from what its container is; one that had ended stays so.

use std::sync::Arc;
use std::time::Duration;

use pontoon_proto::v1::{TaskAssignment, TaskState, TaskStatus};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::exec::{Controller, Credentials, Exit, Progress, StepError};
use crate::reporter::Reporter;
use crate::storage::Storage;

/// How long a task drains that others reach by the network, where its spec does not say.
const DRAIN_PERIOD: Duration = Duration::from_secs(1);

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
    /// What the program that failed said last: goes with the next status.
    output: Vec<String>,
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
        output: Vec::new(),
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
        match self.until_over().await? {
            Ok(exit) => self.exited(exit).await,
            Err(error) => self.end_with(error).await,
        }
        Ok(())
    }

    /// Waits for the end of the program that runs, and ends it when its health check fails.
    async fn until_over(&mut self) -> Result<Result<Exit, StepError>, Interrupt> {
        let controller = &self.controller;
        let serving = async {
            tokio::select! {
                exit = controller.wait_exit() => Some(exit),
                () = controller.wait_unhealthy() => None,
            }
        };
        if let Some(exit) = interruptible(&mut self.assignment, &self.remove, serving).await? {
            return Ok(exit);
        }
        self.withdraw("unhealthy container");
        self.drain().await;
        Ok(self.controller.end_unhealthy().await)
    }

    /// Waits for what others have begun with the program. It may end by itself meanwhile.
    async fn drain(&self) {
        let period = drain_period(&self.assignment.borrow());
        if period.is_zero() || self.state() != TaskState::Running {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            _ = self.controller.wait_exit() => {}
            () = self.remove.cancelled() => {}
        }
    }

    /// The managers want the task to end.
    async fn leave(&mut self) {
        self.drain().await;
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
        self.output = exit.output;
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
            leaving: false,
            output: std::mem::take(&mut self.output),
        };
        let task = self.id();
        if error.is_empty() {
            tracing::debug!(task, state = state.name(), "task state");
        } else {
            tracing::warn!(task, state = state.name(), error, "the task has ended");
        }
        self.tell(status);
    }

    /// Asks the managers to send nothing more to the program, which is about to be ended.
    fn withdraw(&self, why: &str) {
        let mut status = self.status.borrow().clone();
        status.leaving = true;
        why.clone_into(&mut status.err);
        self.tell(status);
    }

    fn tell(&self, status: TaskStatus) {
        let assignment = self.assignment.borrow().clone();
        if let Err(error) = self.storage.put_task(&assignment, &status) {
            tracing::warn!(
                task = assignment.task_id,
                error = error.chain(),
                "could not write down a task's state"
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

/// How long a task has between its last new connection and its stop signal. One that was told to leave with its whole service has
/// no spec any more: nobody can find it, so nothing is waited for.
fn drain_period(task: &TaskAssignment) -> Duration {
    let Some(spec) = &task.spec else {
        return Duration::ZERO;
    };
    match spec.drain_period {
        Some(period) => Duration::from_nanos(u64::try_from(period).unwrap_or(0)),
        None if task.networks.iter().any(|network| !network.addr.is_empty()) => DRAIN_PERIOD,
        // In the host's network, or in none of its own, it has no place in VIP and DNS to leave.
        None => Duration::ZERO,
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
