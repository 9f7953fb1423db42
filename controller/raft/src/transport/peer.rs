//! The stream of messages to one peer: connect, send in order, reconnect with back-off.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pontoon_proto::v1;
use pontoon_proto::v1::raft_client::RaftClient;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::PeerContext;
use crate::member::Member;
use crate::node::Event;
use crate::service::REMOVED_KEY;

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(2);
/// Time that the peer may take no data before its stream is given up.
const STALLED: Duration = Duration::from_secs(5);
/// Pauses between attempts: the first, and the longest. Short, because an election may wait for the connection.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// A stream that lasted this long was a good one: the next attempt comes soon.
const GOOD: Duration = Duration::from_secs(1);
/// Bytes and messages that go into one batch.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_MESSAGES: usize = 512;

/// Why a stream ended.
enum Ended {
    /// The peer left the membership, or the member stops.
    Closed,
    /// The peer says that this member was removed.
    Removed,
    /// The peer closed it because nothing came for long.
    Idle,
    Failed(String),
}

/// Runs until the queue is closed.
pub(super) async fn run(
    context: Arc<PeerContext>,
    member: Member,
    mut queue: mpsc::Receiver<Vec<u8>>,
    queued: Arc<AtomicUsize>,
) {
    let mut backoff = BACKOFF.0;
    let mut reported = false;
    loop {
        // Nothing to say, no connection: followers do not hold streams among each other.
        let Some(first) = queue.recv().await else { return };
        let started = Instant::now();
        let reason = match stream(&context, &member, first, &mut queue, &queued).await {
            Ended::Closed => return,
            Ended::Idle => continue,
            Ended::Removed => {
                tracing::warn!(
                    peer = member.id,
                    "a peer says that this member was removed from the cluster"
                );
                context.tell(Event::Removed);
                return;
            }
            Ended::Failed(reason) => reason,
        };
        if started.elapsed() > GOOD {
            backoff = BACKOFF.0;
            reported = false;
        }
        if !reported {
            tracing::info!(
                peer = member.id,
                addr = member.addr,
                reason,
                "lost the raft stream to a peer"
            );
            reported = true;
        }
        context.tell(Event::Unreachable { id: member.id });
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
        // What was queued meanwhile is old news by now.
        while let Ok(message) = queue.try_recv() {
            queued.fetch_sub(message.len(), Ordering::AcqRel);
        }
    }
}

async fn stream(
    context: &PeerContext,
    member: &Member,
    first: Vec<u8>,
    queue: &mut mpsc::Receiver<Vec<u8>>,
    queued: &AtomicUsize,
) -> Ended {
    let mut next = Some(first);
    let channel = match timeout(CONNECT, context.connector.connect(member)).await {
        Ok(Ok(channel)) => channel,
        failed => {
            queued.fetch_sub(next.map_or(0, |m| m.len()), Ordering::AcqRel);
            return Ended::Failed(match failed {
                Ok(Err(error)) => error.to_string(),
                _ => "connecting took too long".into(),
            });
        }
    };
    let (batches, outgoing) = mpsc::channel(2);
    let mut client = RaftClient::new(channel);
    let mut call = std::pin::pin!(client.messages(ReceiverStream::new(outgoing)));
    loop {
        let message = match next.take() {
            Some(message) => message,
            None => tokio::select! {
                biased;
                ended = &mut call => return explain(ended.map(drop)),
                message = queue.recv() => match message {
                    Some(message) => message,
                    None => return Ended::Closed,
                },
            },
        };
        let batch = gather(context, message, queue, queued);
        tokio::select! {
            biased;
            ended = &mut call => return explain(ended.map(drop)),
            sent = timeout(STALLED, batches.send(batch)) => match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return explain(call.await.map(drop)),
                Err(_) => return Ended::Failed("the peer takes no data".into()),
            },
        }
    }
}

/// One batch of what is queued.
fn gather(
    context: &PeerContext,
    first: Vec<u8>,
    queue: &mut mpsc::Receiver<Vec<u8>>,
    queued: &AtomicUsize,
) -> v1::RaftBatch {
    let mut size = first.len();
    let mut messages = vec![Bytes::from(first)];
    while size < BATCH_BYTES
        && messages.len() < BATCH_MESSAGES
        && let Ok(message) = queue.try_recv()
    {
        size += message.len();
        messages.push(message.into());
    }
    queued.fetch_sub(size, Ordering::AcqRel);
    v1::RaftBatch {
        messages,
        from: context.id,
        cluster_id: context.cluster_id.clone(),
        addr: context.own_addr(),
    }
}

fn explain(ended: Result<(), Status>) -> Ended {
    match ended {
        Ok(()) => Ended::Idle,
        Err(status) if status.metadata().contains_key(REMOVED_KEY) => Ended::Removed,
        Err(status) => Ended::Failed(reason(&status)),
    }
}

/// A failed call in few words: its message, and the first cause of it.
fn reason(status: &Status) -> String {
    let mut text = status.message().to_owned();
    if text.is_empty() {
        text = status.code().to_string();
    }
    let mut cause = status.source();
    while let Some(deeper) = cause.and_then(Error::source) {
        cause = Some(deeper);
    }
    match cause.map(ToString::to_string) {
        Some(cause) if !text.contains(&cause) => format!("{text}: {cause}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_short() {
        let plain = Status::permission_denied("for managers only");
        assert_eq!(reason(&plain), "for managers only");
        let refused = std::io::Error::other("connection refused");
        let failed = Status::from_error(Box::new(std::io::Error::new(
            std::io::ErrorKind::ConnectionRefused,
            refused,
        )));
        let text = reason(&failed);
        assert!(
            text.contains("connection refused") && !text.contains("code:"),
            "{text}"
        );
        assert_eq!(text.matches("connection refused").count(), 1, "{text}");
    }
}
