//! The writer's loop: gather, apply, reconcile, propose, answer; wake by inputs, by time, or because there is more.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pontoon_raft::ProposeError;
use pontoon_reconcile::ReconcileState;
use pontoon_store::ApplyOutcome;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Inbox;
use super::batch::{Batch, Ready};
use super::input::{Input, WriteError};
use super::time::Time;
use crate::core::Core;
use crate::dispatcher::Pace;

/// A log that is busy is asked again after this time.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// Timers are set no longer than this; then the reconciler is asked again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Why the loop woke.
enum Wake {
    Input(Box<dyn Input>),
    Time,
    Stop,
}

/// Runs until `stop`. What waits then is dropped; its callers hear that this manager does not lead.
pub(crate) async fn run(core: Arc<Core>, mut inbox: Inbox, pace: Arc<Pace>, stop: CancellationToken) {
    let mut state = ReconcileState::default();
    let budget = core.log.entry_budget().unwrap_or(usize::MAX);
    // The first run at once: what the former leader left undone.
    let mut time = Time::new(&core.host, core.replica.newest());
    let mut wake_at = Some(time.now());
    loop {
        let first = match wait(&mut time, &mut inbox, wake_at, &stop).await {
            Wake::Stop => return,
            Wake::Time => None,
            Wake::Input(input) => Some(input),
        };
        let now = time.now();
        let mut batch = Batch::new(&core.snapshot(), &core.host, now, budget);
        if let Some(input) = first {
            batch.add(input);
        }
        inbox.fill(&mut batch);
        let mut ready = batch.finish(&mut state);
        pace.set_behind(ready.more || inbox.waits());
        wake_at = if ready.more { Some(now) } else { ready.next_wake };
        let outcome = tokio::select! {
            biased;
            // The log answers all proposals when leadership goes; this only ends waits for a busy log.
            () = stop.cancelled() => Err(WriteError::OutcomeUnknown),
            outcome = commit(&core, &mut ready) => outcome,
        };
        if let Err(error) = &outcome {
            debug!(%error, "a batch was not written");
            core.replica.expect_nothing();
            // The caches saw edits that never came to be.
            state = ReconcileState::default();
            wake_at = Some(now);
        }
        ready.answer(&outcome);
    }
}

async fn wait(time: &mut Time, inbox: &mut Inbox, wake_at: Option<i64>, stop: &CancellationToken) -> Wake {
    let rest = wake_at.map_or(LONGEST_WAIT, |at| {
        Duration::from_nanos(u64::try_from(at.saturating_sub(time.now())).unwrap_or(0)).min(LONGEST_WAIT)
    });
    tokio::select! {
        biased;
        () = stop.cancelled() => Wake::Stop,
        input = inbox.requests.recv() => input.map_or(Wake::Stop, Wake::Input),
        input = inbox.reports.recv() => input.map_or(Wake::Stop, Wake::Input),
        () = tokio::time::sleep(rest) => Wake::Time,
    }
}

/// Brings a batch into the log and waits until it is applied here.
async fn commit(core: &Core, ready: &mut Ready) -> Result<(), WriteError> {
    let Some(mut made) = ready.made.take() else {
        if ready.needs_confirmation {
            // "No such service" must not be the answer of a leader that was deposed and does not know it yet.
            core.log.read_barrier().await.map_err(|_| WriteError::NotLeader)?;
        }
        return Ok(());
    };
    let entry = Bytes::from(std::mem::take(&mut made.entry));
    #[cfg(feature = "planted-bugs")]
    if pontoon_proto::planted::is_planted(pontoon_proto::planted::Bug::AnswerBeforeCommit) {
        let log = core.log.clone();
        tokio::spawn(async move { log.propose(entry).await });
        return Ok(());
    }
    core.replica.expect(entry.clone(), made);
    loop {
        let index = match core.log.propose(entry.clone()).await {
            Ok(index) => index,
            Err(ProposeError::Busy) => {
                tokio::time::sleep(BUSY_PAUSE).await;
                continue;
            }
            Err(ProposeError::NotLeader { .. } | ProposeError::ShuttingDown) => {
                return Err(WriteError::NotLeader);
            }
            Err(ProposeError::OutcomeUnknown) => return Err(WriteError::OutcomeUnknown),
            Err(
                error @ (ProposeError::TooLarge { .. }
                | ProposeError::Storage { .. }
                | ProposeError::Refused { .. }),
            ) => {
                warn!(%error, "the log refuses an entry");
                return Err(WriteError::Refused(error.to_string()));
            }
        };
        return match core.replica.outcome(index) {
            Some(ApplyOutcome::Applied { .. }) => Ok(()),
            // Made on a state that a former leader's entry changed after all: it is void, nothing was done.
            Some(ApplyOutcome::Stale { .. }) => Err(WriteError::NotLeader),
            None => Err(WriteError::OutcomeUnknown),
        };
    }
}
