//! Log subscriptions: lines of tasks' containers, sent to the manager that asked, in a stream of their own so that they can't
//! hold up a session. They end with the session.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::{
    LogSelector, LogSubscription, PublishLogsMessage, TaskLogEntry, TaskState, TaskStatus,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;

use crate::exec::Executor;
use crate::worker::Tasks;

/// Lines of one message.
const BATCH: usize = 128;
/// Lines that wait to be sent.
const WAITING: usize = 256;

/// The subscriptions of one session.
pub(crate) struct Subscriptions {
    channel: Channel,
    executor: Arc<dyn Executor>,
    tasks: Tasks,
    active: HashMap<String, (CancellationToken, DropGuard)>,
}

impl Subscriptions {
    pub(crate) fn new(channel: Channel, executor: Arc<dyn Executor>, tasks: Tasks) -> Self {
        Self {
            channel,
            executor,
            tasks,
            active: HashMap::new(),
        }
    }

    /// Begins or ends a subscription.
    pub(crate) fn handle(&mut self, subscription: LogSubscription) {
        if subscription.close {
            self.active.remove(&subscription.id);
            return;
        }
        // A further one with the same id adds tasks: what was asked for before goes on.
        let (cancelled, _) = self.active.entry(subscription.id.clone()).or_insert_with(|| {
            let token = CancellationToken::new();
            (token.clone(), token.drop_guard())
        });
        let cancelled = cancelled.clone();
        let publishing = publish(
            self.channel.clone(),
            self.executor.clone(),
            self.tasks.clone(),
            subscription,
        );
        tokio::spawn(async move { cancelled.run_until_cancelled(publishing).await });
    }
}

async fn publish(channel: Channel, executor: Arc<dyn Executor>, tasks: Tasks, subscription: LogSubscription) {
    let LogSubscription {
        id,
        task_ids,
        options,
        ..
    } = subscription;
    let selector = options.unwrap_or_default();
    let (lines, waiting) = mpsc::channel(WAITING);
    let mut readers = JoinSet::new();
    for task_id in task_ids {
        readers.spawn(read(
            executor.clone(),
            tasks.clone(),
            task_id,
            selector.clone(),
            lines.clone(),
        ));
    }
    drop(lines);
    let (ended, end) = mpsc::channel::<String>(1);
    let name = id.clone();
    let batches = ReceiverStream::new(waiting)
        .ready_chunks(BATCH)
        .map(move |entries| PublishLogsMessage {
            subscription_id: name.clone(),
            entries,
            ..PublishLogsMessage::default()
        });
    let name = id.clone();
    let last = ReceiverStream::new(end).map(move |error| PublishLogsMessage {
        subscription_id: name.clone(),
        end: true,
        error,
        ..PublishLogsMessage::default()
    });
    let send = async move {
        DispatcherClient::new(channel)
            .publish_logs(batches.chain(last))
            .await
    };
    let gather = async move {
        let mut errors = Vec::new();
        while let Some(outcome) = readers.join_next().await {
            if let Ok(Err(error)) = outcome {
                errors.push(error);
            }
        }
        // The stream may be gone: then nobody waits for its end.
        ended.send(errors.join("; ")).await.ok();
    };
    tokio::pin!(gather);
    tokio::pin!(send);
    let sent = tokio::select! {
        () = &mut gather => send.await,
        sent = &mut send => sent,
    };
    if let Err(status) = sent {
        tracing::info!(
            subscription = id,
            error = status.message(),
            "log subscription broken off"
        );
    }
}

/// Whether a task has ended without a container: it was rejected, or taken back before it was prepared.
fn has_no_log(status: &TaskStatus) -> bool {
    let state = status.state();
    state == TaskState::Rejected || (state.is_terminal() && status.container.is_none())
}

/// Reads one task's log into the common queue. Following waits for a task that has not started yet.
async fn read(
    executor: Arc<dyn Executor>,
    tasks: Tasks,
    task_id: String,
    selector: LogSelector,
    lines: mpsc::Sender<TaskLogEntry>,
) -> Result<(), String> {
    let Some(mut status) = tasks.watch(&task_id) else {
        return Ok(());
    };
    // STARTING may last until a health check passes, with lines in the log all the while.
    if selector.follow {
        let started = |status: &TaskStatus| status.state() >= TaskState::Starting;
        if status.wait_for(started).await.is_err() {
            return Ok(());
        }
    } else if status.borrow().state() < TaskState::Starting {
        return Ok(());
    }
    if has_no_log(&status.borrow()) {
        return Ok(());
    }
    let mut entries = executor.logs(&task_id, &selector).await?;
    while let Some(entry) = entries.recv().await {
        let entry = TaskLogEntry {
            task_id: task_id.clone(),
            stream: entry.stream,
            timestamp: entry.timestamp,
            line: entry.line,
            attributes: entry.attributes,
        };
        if lines.send(entry).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
