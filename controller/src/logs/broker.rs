//! The open subscriptions: made by ServiceLogs calls, fed by the agents' PublishLogs calls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use pontoon_proto::v1::{LogSelector, PublishLogsMessage, ServiceLogEntry};
use pontoon_store::Snapshot;
use tokio::sync::mpsc;
use tonic::Status;

use super::feed::Feeds;
use super::subscription::Subscription;
use crate::core::Core;
use crate::dispatcher::Sessions;
use crate::ids;

/// Lines to one client that may wait.
const BUFFER: usize = 256;

/// All subscriptions of a leader.
pub(crate) struct Broker {
    pub(super) sessions: Arc<Sessions>,
    open: Mutex<HashMap<String, Arc<Feeds>>>,
}

impl Broker {
    pub(crate) fn new(sessions: Arc<Sessions>) -> Self {
        Self {
            sessions,
            open: Mutex::default(),
        }
    }

    /// Begins to gather; the target must exist.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        core: &Arc<Core>,
        selector: LogSelector,
    ) -> Result<mpsc::Receiver<Result<ServiceLogEntry, Status>>, Status> {
        let Some(leading) = core.leading() else {
            return Err(crate::status::not_leader());
        };
        let (entries, receiver) = mpsc::channel(BUFFER);
        let id = ids::new_id(&core.host);
        let feeds = Arc::new(Feeds::new(entries.clone()));
        let subscription = Subscription::new(core, id.clone(), selector, entries, feeds.clone())?;
        self.lock().insert(id.clone(), feeds);
        let broker = self.clone();
        tokio::spawn(async move {
            subscription.run(&broker.sessions, leading.stop.clone()).await;
            broker.lock().remove(&id);
        });
        Ok(receiver)
    }

    /// Takes in what a node has published.
    pub(crate) async fn publish(
        &self,
        snapshot: &Snapshot,
        node_id: &str,
        message: PublishLogsMessage,
    ) -> Result<(), Status> {
        let feeds = self.lock().get(&message.subscription_id).cloned();
        let Some(feeds) = feeds else {
            return Err(Status::not_found(format!(
                "log subscription {} has ended",
                message.subscription_id
            )));
        };
        feeds.take(snapshot, node_id, message).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Feeds>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
