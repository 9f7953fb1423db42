//! What one subscription has asked of each node, and the entries that come back.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use pontoon_proto::v1::{PublishLogsMessage, ServiceLogEntry, TaskLogEntry};
use pontoon_store::Snapshot;
use tokio::sync::{Notify, mpsc};
use tonic::Status;

/// One node's part.
#[derive(Debug, Default)]
pub(super) struct Feed {
    /// Tasks asked for.
    pub(super) tasks: HashSet<String>,
    /// The session they were asked in; empty: the node could not be asked.
    pub(super) session: String,
    /// The node has said all.
    pub(super) ended: bool,
    /// Time of the newest line.
    pub(super) last: i64,
    /// The client was told that this node can't be read.
    pub(super) warned: bool,
}

/// All nodes' parts, and the way to the client.
pub(super) struct Feeds {
    by_node: Mutex<HashMap<String, Feed>>,
    entries: mpsc::Sender<Result<ServiceLogEntry, Status>>,
    /// A node has said all.
    pub(super) changed: Notify,
}

impl Feeds {
    pub(super) fn new(entries: mpsc::Sender<Result<ServiceLogEntry, Status>>) -> Self {
        Self {
            by_node: Mutex::default(),
            entries,
            changed: Notify::new(),
        }
    }

    pub(super) fn with<T>(&self, edit: impl FnOnce(&mut HashMap<String, Feed>) -> T) -> T {
        edit(&mut self.by_node.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Passes a node's lines on; only those of tasks that the node was asked for.
    pub(super) async fn take(
        &self,
        snapshot: &Snapshot,
        node_id: &str,
        message: PublishLogsMessage,
    ) -> Result<(), Status> {
        let allowed: Vec<TaskLogEntry> = self.with(|feeds| {
            let Some(feed) = feeds.get_mut(node_id) else {
                return Vec::new();
            };
            let mut allowed = message.entries;
            allowed.retain(|entry| feed.tasks.contains(&entry.task_id));
            feed.last = allowed
                .iter()
                .map(|entry| entry.timestamp)
                .fold(feed.last, i64::max);
            allowed
        });
        for entry in allowed {
            let entry = with_names(snapshot, node_id, entry);
            self.entries
                .send(Ok(entry))
                .await
                .map_err(|_| Status::cancelled("nobody reads these logs any more"))?;
        }
        if message.end {
            if !message.error.is_empty() {
                let text = format!(
                    "logs of node {} can't be read: {}",
                    hostname(snapshot, node_id),
                    message.error
                );
                self.warn(snapshot, node_id, text).await;
            }
            self.with(|feeds| {
                if let Some(feed) = feeds.get_mut(node_id) {
                    feed.ended = true;
                }
            });
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Tells the client of a node that can't be read.
    pub(super) async fn warn(&self, snapshot: &Snapshot, node_id: &str, warning: String) {
        let entry = ServiceLogEntry {
            node_id: node_id.to_owned(),
            node_hostname: hostname(snapshot, node_id),
            warning,
            ..ServiceLogEntry::default()
        };
        // The client may be gone, which the subscription notices.
        let _ = self.entries.send(Ok(entry)).await;
    }
}

/// A node's hostname, or its id.
pub(super) fn hostname(snapshot: &Snapshot, node_id: &str) -> String {
    let description = snapshot.node(node_id).and_then(|node| node.description.as_ref());
    description
        .map(|d| d.hostname.clone())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| node_id.to_owned())
}

fn with_names(snapshot: &Snapshot, node_id: &str, entry: TaskLogEntry) -> ServiceLogEntry {
    let task = snapshot.task(&entry.task_id);
    ServiceLogEntry {
        task_id: entry.task_id,
        service_name: task.map(|task| task.service_name.clone()).unwrap_or_default(),
        slot: task.map_or(0, |task| task.slot),
        node_id: node_id.to_owned(),
        node_hostname: hostname(snapshot, node_id),
        stream: entry.stream,
        timestamp: entry.timestamp,
        line: entry.line,
        attributes: entry.attributes,
        warning: String::new(),
    }
}
