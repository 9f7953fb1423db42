//! The open sessions by node: one a node, the newest counts.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pontoon_proto::v1::{ManagerMessage, manager_message::Message};
use pontoon_raft::Host;
use pontoon_raft::watch;
use pontoon_reconcile::assignments::Changes;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::fanout::Concern;
use super::reports::Reports;
use crate::ids;

/// What goes out to an agent.
pub(crate) type Outbound = mpsc::Sender<Result<ManagerMessage, Status>>;

/// One agent's session.
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) node_id: String,
    /// Fires when the session must end: alone, or with the leadership.
    pub(crate) stop: CancellationToken,
    /// What the agent has reported and the log has not yet, or the agent does not know.
    pub(super) reports: Reports,
    /// The agent may have to be told something that it was not yet.
    news: AtomicBool,
    woken: Notify,
    out: Outbound,
    /// What the node has not been looked at for yet.
    changes: Mutex<Changes>,
    /// Overlay networks whose changes the node must know.
    networks: Mutex<HashSet<String>>,
}

impl Session {
    /// Sends; false when the agent is gone.
    pub(crate) async fn send(&self, message: Message) -> bool {
        self.out
            .send(Ok(ManagerMessage {
                message: Some(message),
            }))
            .await
            .is_ok()
    }

    /// Ends the stream with a reason, if the agent still listens.
    pub(crate) fn refuse(&self, status: Status) {
        // A full channel has an agent that does not read; it sees the stream end.
        let _ = self.out.try_send(Err(status));
    }

    /// The agent may have to be told something.
    pub(crate) fn wake(&self) {
        if !self.news.swap(true, Ordering::AcqRel) {
            self.woken.notify_one();
        }
    }

    /// Waits for `wake`.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// To be called before it is looked at what the agent must be told: who wakes from now on may come too late for that.
    pub(super) fn begin_telling(&self) {
        self.news.store(false, Ordering::Release);
    }

    /// Something may have changed for the node.
    pub(crate) fn tell(&self, changes: Changes) {
        self.changes().merge(changes);
        self.wake();
    }

    /// What may have changed since the last call.
    pub(crate) fn take_changes(&self) -> Changes {
        std::mem::take(&mut *self.changes())
    }

    fn changes(&self) -> std::sync::MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the networks; true if there are new ones.
    pub(crate) fn set_networks(&self, networks: HashSet<String>) -> bool {
        let mut current = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let grown = !networks.is_subset(&current);
        *current = networks;
        grown
    }

    fn has_network_of(&self, networks: &BTreeSet<String>) -> bool {
        let current = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        current.iter().any(|network| networks.contains(network))
    }
}

/// All open sessions of a leader.
pub(crate) struct Sessions {
    host: Host,
    by_node: Mutex<BTreeMap<String, Arc<Session>>>,
    changed: watch::Sender<u64>,
}

impl Sessions {
    pub(crate) fn new(host: Host) -> Self {
        Self {
            host,
            by_node: Mutex::default(),
            changed: watch::channel(0).0,
        }
    }

    /// Opens a session, which ends with `stop`; an older one of the node ends.
    pub(crate) fn open(&self, node_id: &str, out: Outbound, stop: &CancellationToken) -> Arc<Session> {
        let session = Arc::new(Session {
            id: ids::new_id(&self.host),
            node_id: node_id.to_owned(),
            stop: stop.child_token(),
            reports: Reports::default(),
            news: AtomicBool::new(false),
            woken: Notify::new(),
            out,
            changes: Mutex::default(),
            networks: Mutex::default(),
        });
        if let Some(older) = self.lock().insert(node_id.to_owned(), session.clone()) {
            older.stop.cancel();
        }
        self.changed.send_modify(|count| *count += 1);
        session
    }

    /// Takes out a session that has ended, unless a newer one has its place; true if it was taken out.
    pub(crate) fn close(&self, session: &Session) -> bool {
        let current = {
            let mut sessions = self.lock();
            let current = sessions
                .get(&session.node_id)
                .is_some_and(|current| current.id == session.id);
            if current {
                sessions.remove(&session.node_id);
            }
            current
        };
        self.changed.send_modify(|count| *count += 1);
        current
    }

    /// Makes the node's session end.
    pub(crate) fn end(&self, node_id: &str) {
        if let Some(session) = self.get(node_id) {
            session.stop.cancel();
        }
    }

    /// The node's session.
    pub(crate) fn get(&self, node_id: &str) -> Option<Arc<Session>> {
        self.lock().get(node_id).cloned()
    }

    /// Nodes that have one.
    pub(crate) fn nodes(&self) -> BTreeSet<String> {
        self.lock().keys().cloned().collect()
    }

    /// Wakes when sessions open or close.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Wakes the sessions of these nodes; their tasks and networks are as they were.
    pub(crate) fn wake(&self, nodes: &BTreeSet<String>) {
        let sessions = self.lock();
        for session in nodes.iter().filter_map(|node| sessions.get(node)) {
            session.wake();
        }
    }

    /// Tells the sessions of the nodes concerned what may have changed for them. `version` is that of the state that has it all.
    pub(crate) fn tell(&self, concern: Concern, version: u64) {
        let sessions = self.lock();
        let networks = || Changes {
            networks: true,
            version,
            ..Changes::default()
        };
        // Most entries are about no network, and there are thousands of sessions.
        let some = !concern.legs.is_empty() || !concern.networks.is_empty();
        for (node, session) in sessions.iter().filter(|_| some) {
            if concern.legs.contains(node) || session.has_network_of(&concern.networks) {
                session.tell(networks());
            }
        }
        for (node, tasks) in concern.nodes {
            if let Some(session) = sessions.get(&node) {
                session.tell(Changes {
                    tasks,
                    version,
                    ..Changes::default()
                });
            }
        }
    }

    /// Lets all look whether there is something else to tell than what has changed for them.
    pub(crate) fn wake_each(&self) {
        self.lock().values().for_each(|session| session.wake());
    }

    /// Lets all look at everything.
    pub(crate) fn wake_all(&self) {
        for session in self.lock().values() {
            session.tell(Changes {
                all: true,
                ..Changes::default()
            });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Session>>> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
