//! One ServiceLogs call: asks the nodes that have tasks of the target, follows new tasks and returning nodes.
//!
//! A further LogSubscription with the same id adds tasks to it. A node that comes back is asked for what is newer than
//! its last line. Without `follow` it ends when every node has said all or is found to be away.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use pontoon_proto::v1::manager_message::Message;
use pontoon_proto::v1::{LogSelector, LogSubscription, ServiceLogEntry, TaskState};
use pontoon_store::Snapshot;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::feed::{Feeds, hostname};
use crate::core::Core;
use crate::dispatcher::{Session, Sessions};
use crate::status;

/// What the target turned out to be.
enum Target {
    Service(String),
    Task(String),
}

/// A running ServiceLogs call.
pub(super) struct Subscription {
    core: Arc<Core>,
    id: String,
    target: Target,
    selector: LogSelector,
    entries: mpsc::Sender<Result<ServiceLogEntry, Status>>,
    feeds: Arc<Feeds>,
}

impl Subscription {
    pub(super) fn new(
        core: &Arc<Core>,
        id: String,
        selector: LogSelector,
        entries: mpsc::Sender<Result<ServiceLogEntry, Status>>,
        feeds: Arc<Feeds>,
    ) -> Result<Self, Status> {
        let snapshot = core.snapshot();
        let target = match snapshot.find_service(&selector.target) {
            Ok(service) => Target::Service(service.id.clone()),
            Err(ambiguous @ pontoon_store::Error::Ambiguous { .. }) => {
                return Err(status::from_store(ambiguous));
            }
            Err(_) => match snapshot.find_task(&selector.target) {
                Ok(task) => Target::Task(task.id.clone()),
                Err(pontoon_store::Error::NotFound { target, .. }) => {
                    return Err(Status::not_found(format!("no such task or service: {target}")));
                }
                Err(other) => return Err(status::from_store(other)),
            },
        };
        Ok(Self {
            core: core.clone(),
            id,
            target,
            selector,
            entries,
            feeds,
        })
    }

    /// Runs until all is said, the client is gone or leadership is lost.
    pub(super) async fn run(self, sessions: &Sessions, stop: CancellationToken) {
        let mut versions = self.core.replica.versions();
        let mut session_changes = sessions.changes();
        loop {
            versions.borrow_and_update();
            session_changes.borrow_and_update();
            self.ask(sessions).await;
            if !self.selector.follow && self.feeds.with(|feeds| feeds.values().all(|feed| feed.ended)) {
                break;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    // The client may be gone as well.
                    let lost = Status::unavailable("the leader has changed while logs were being followed; ask again");
                    let _ = self.entries.try_send(Err(lost));
                    break;
                }
                () = self.entries.closed() => break,
                () = self.feeds.changed.notified() => {}
                Ok(()) = session_changes.changed() => {}
                // New tasks matter to followers only.
                Ok(()) = versions.changed(), if self.selector.follow => {}
            }
        }
        self.close(sessions).await;
    }

    /// The tasks in question by node. Those that their agents don't know yet come later: asked for them, an agent would find nothing.
    fn tasks(&self, snapshot: &Snapshot) -> BTreeMap<String, HashSet<String>> {
        let mut by_node: BTreeMap<String, HashSet<String>> = BTreeMap::new();
        let mut add = |task: &pontoon_proto::v1::Task| {
            let state = task
                .status
                .as_ref()
                .map_or(TaskState::New, |status| status.state());
            if !task.node_id.is_empty() && state > TaskState::Assigned && state < TaskState::Remove {
                by_node
                    .entry(task.node_id.clone())
                    .or_default()
                    .insert(task.id.clone());
            }
        };
        match &self.target {
            Target::Service(id) => snapshot.tasks_by_service(id).for_each(|task| add(task)),
            Target::Task(id) => snapshot.task(id).into_iter().for_each(|task| add(task)),
        }
        by_node
    }

    /// Brings every node up to date: new tasks, new sessions, nodes that are away.
    async fn ask(&self, sessions: &Sessions) {
        let snapshot = self.core.snapshot();
        for (node_id, tasks) in self.tasks(&snapshot) {
            match sessions.get(&node_id) {
                Some(session) => self.ask_node(&session, &tasks).await,
                None => self.miss_node(&snapshot, &node_id, tasks).await,
            }
        }
    }

    async fn ask_node(&self, session: &Session, tasks: &HashSet<String>) {
        let follow = self.selector.follow;
        let wanted = self.feeds.with(|feeds| {
            let feed = feeds.entry(session.node_id.clone()).or_default();
            let mut options = self.selector.clone();
            if feed.session != session.id {
                if !feed.session.is_empty() || feed.warned {
                    // It lost its subscription with its session. What it has said stays said.
                    if !follow {
                        feed.ended = true;
                        return None;
                    }
                    options.since = options.since.max(feed.last.saturating_add(1));
                    options.tail = if feed.last > 0 { None } else { options.tail };
                }
                feed.session.clone_from(&session.id);
                feed.tasks.clear();
                feed.warned = false;
            }
            let new: Vec<String> = tasks.difference(&feed.tasks).cloned().collect();
            if new.is_empty() {
                return None;
            }
            feed.tasks.extend(new.iter().cloned());
            feed.ended = false;
            Some((new, options))
        });
        if let Some((task_ids, options)) = wanted {
            let message = LogSubscription {
                id: self.id.clone(),
                task_ids,
                options: Some(options),
                close: false,
            };
            // A session that ends now is seen as changed in the next round.
            session.send(Message::LogSubscription(message)).await;
        }
    }

    async fn miss_node(&self, snapshot: &Snapshot, node_id: &str, tasks: HashSet<String>) {
        let is_news = self.feeds.with(|feeds| {
            let feed = feeds.entry(node_id.to_owned()).or_default();
            feed.tasks.extend(tasks);
            let was_ended = std::mem::replace(&mut feed.ended, true);
            let was_warned = std::mem::replace(&mut feed.warned, true);
            feed.session.clear();
            !was_warned && (!was_ended || self.selector.follow)
        });
        if is_news {
            let text = format!(
                "node {} is not available: its logs are missing",
                hostname(snapshot, node_id)
            );
            self.feeds.warn(snapshot, node_id, text).await;
        }
    }

    async fn close(&self, sessions: &Sessions) {
        let nodes: Vec<(String, String)> = self.feeds.with(|feeds| {
            feeds
                .iter()
                .map(|(node, feed)| (node.clone(), feed.session.clone()))
                .collect()
        });
        for (node_id, session_id) in nodes {
            if let Some(session) = sessions.get(&node_id).filter(|session| session.id == session_id) {
                let message = LogSubscription {
                    id: self.id.clone(),
                    close: true,
                    ..LogSubscription::default()
                };
                session.send(Message::LogSubscription(message)).await;
            }
        }
    }
}
