//! One agent's session: register, then both ways until it breaks.
//!
//! ```text
//! agent:   Register | Heartbeat, StatusReport, NodeDescription …
//! manager: Registered, ManagerList, Node, Assignments(full) | Assignments, StatusAck, Node, ManagerList, LogSubscription …
//! ```
//! The session ends when a newer one of the node begins, the node is declared down or removed, or leadership is lost.
//! Its end alone does not make the node down: the heartbeat's time runs on, and the agent may come back before.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_proto::v1::manager_message::Message as Outgoing;
use pontoon_proto::v1::{
    AgentMessage, Assignments, ManagerList, ManagerPeer, Node, NodeDescription, Register, Registered,
    StatusAck, Trust, agent_message::Message as Incoming,
};
use pontoon_raft::{Member, watch};
use pontoon_reconcile::assignments::{self, Changes, Told};
use pontoon_reconcile::{attachment, observe};
use pontoon_store::{Snapshot, Tx};
use tokio::time::Instant;
use tonic::{Status, Streaming};
use tracing::{debug, info};

use super::beats::{period, wished};
use super::sessions::{Outbound, Session};
use super::{bounds, reports};
use crate::core::Core;
use crate::leader::Leading;
use crate::status;

/// An agent that has opened a stream must register within this time.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Changes that follow each other within this time go out together.
const DEBOUNCE: Duration = Duration::from_millis(5);

/// A stream that was just opened.
pub(super) struct Start {
    pub(super) core: Arc<Core>,
    pub(super) leading: Arc<Leading>,
    /// The node of the certificate.
    pub(super) node_id: String,
    /// Where it comes from.
    pub(super) addr: String,
    pub(super) out: Outbound,
}

impl Start {
    /// Registers the node and serves it to the end.
    pub(super) async fn run(self, mut incoming: Streaming<AgentMessage>) {
        let registered = tokio::select! {
            biased;
            () = self.leading.stop.cancelled() => Err(status::ask_leader(self.core.leader().as_ref())),
            registered = self.register(&mut incoming) => registered,
        };
        let session = match registered {
            Ok(session) => session,
            Err(refusal) => {
                debug!(node = self.node_id, %refusal, "session refused");
                // The agent may be gone.
                let _ = self.out.send(Err(refusal)).await;
                return;
            }
        };
        info!(node = self.node_id, session = session.id, "session begins");
        let leading = self.leading.clone();
        let core = self.core.clone();
        let period = period(&core.snapshot());
        let mut members = core.log.members_watch();
        members.mark_changed();
        let mut live = Live {
            period,
            told: period,
            core: self.core,
            leading: self.leading,
            session: session.clone(),
            sent: Told::default(),
            node: None,
            trust: None,
            members,
            last_push: None,
        };
        // One token, and not the leadership's besides: it would be one lock for all sessions, taken at each step of each.
        let reason = tokio::select! {
            biased;
            () = session.stop.cancelled() => match leading.stop.is_cancelled() {
                true => status::ask_leader(core.leader().as_ref()),
                false => Status::aborted("the session has ended: register again"),
            },
            reason = live.serve(incoming) => reason,
        };
        info!(
            node = session.node_id,
            session = session.id,
            reason = reason.message(),
            "session ends"
        );
        if leading.sessions.close(&session) {
            leading.sources.forget(&session.node_id);
        }
        session.refuse(reason);
    }

    async fn register(&self, incoming: &mut Streaming<AgentMessage>) -> Result<Arc<Session>, Status> {
        let first = tokio::time::timeout(REGISTER_TIMEOUT, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no registration came"))??;
        let Some(AgentMessage {
            message: Some(Incoming::Register(register)),
        }) = first
        else {
            return Err(Status::invalid_argument(
                "the first message of a session must be a registration",
            ));
        };
        let Register {
            description,
            mut tasks,
            attachments,
            ..
        } = register;
        let mut description = description.unwrap_or_default();
        bounds::check(&description)?;
        bounds::cut(&mut tasks);
        if description.data_path_addr.is_empty() {
            description.data_path_addr.clone_from(&self.addr);
        }
        let (node_id, addr) = (self.node_id.clone(), self.addr.clone());
        let exists = self.core.snapshot().node(&node_id).is_some();
        if exists {
            // Before the write: a node that registers is not late any more.
            let period = period(&self.core.snapshot());
            self.leading.beats.beat(&node_id, period, Instant::now());
        }
        let write = self.leading.writer.write(move |tx, scope| {
            if tx.node(&node_id).is_none() {
                return Err(removed(&node_id));
            }
            observe::node_ready(tx, &node_id, Some(description), &addr, scope.now);
            observe::task_status(tx, &node_id, &tasks, scope.now);
            attachment::report(tx, &node_id, &attachments);
            Ok(())
        });
        write.await?;
        let (sessions, stop) = (&self.leading.sessions, &self.leading.stop);
        Ok(sessions.open(&self.node_id, self.out.clone(), stop))
    }
}

fn removed(node_id: &str) -> Status {
    Status::not_found(format!(
        "node {node_id} is not part of the swarm: it was removed; let it leave and join again"
    ))
}

/// Computes nodes' assignments; the records of networks are shared by all sessions.
#[derive(Default)]
pub(crate) struct Assigner(Mutex<assignments::Records>);

impl Assigner {
    /// The newest state, and what the session's node must be told by it.
    fn of(&self, core: &Core, session: &Session, told: &mut Told) -> (Arc<Snapshot>, Option<Assignments>) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What may have changed before the state, so that the state has it all; the state under the lock, so that the records only
        // ever advance.
        let changes = session.take_changes();
        let snapshot = core.snapshot();
        let message = told.advance(&snapshot, &mut records, &session.node_id, &changes);
        (snapshot, message)
    }
}

/// A registered session.
struct Live {
    core: Arc<Core>,
    leading: Arc<Leading>,
    session: Arc<Session>,
    /// In which the agent has to beat.
    period: Duration,
    /// What it was told of that last.
    told: Duration,
    /// What the agent has been told.
    sent: Told,
    node: Option<Arc<Node>>,
    trust: Option<Trust>,
    /// The managers, of which it is told when it is woken: to wait for each change of them in each session would be one lock for all.
    members: watch::Receiver<Arc<Vec<Member>>>,
    last_push: Option<Instant>,
}

impl Live {
    /// Serves until the stream breaks or something ends it; tells the reason.
    async fn serve(&mut self, mut incoming: Streaming<AgentMessage>) -> Status {
        self.leading
            .beats
            .beat(&self.session.node_id, self.period, Instant::now());
        let mut alive = self.session.send(Outgoing::Registered(self.registered())).await;
        self.session.wake();
        let session = self.session.clone();
        // Whether it has asked for its turn to send, which comes with the timer.
        let mut waits = false;
        let turn = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(turn);
        while alive {
            let step = tokio::select! {
                biased;
                message = incoming.message(), if session.reports.has_room() => match message {
                    Ok(Some(message)) => self.receive(message).await,
                    Ok(None) => Err(Status::cancelled("the agent has closed the session")),
                    Err(status) => Err(status),
                },
                () = session.woken(), if !waits => {
                    waits = true;
                    turn.as_mut().reset(self.turn());
                    Ok(true)
                }
                () = &mut turn, if waits => {
                    waits = false;
                    self.push().await
                }
            };
            match step {
                Ok(still_alive) => alive = still_alive,
                Err(reason) => return reason,
            }
        }
        Status::cancelled("the agent is gone")
    }

    /// When it may send, having something to say now.
    fn turn(&self) -> Instant {
        let now = Instant::now();
        let turn = self.leading.pace.turn(now);
        self.last_push.map_or(turn, |last| turn.max(last + DEBOUNCE))
    }

    async fn receive(&mut self, message: AgentMessage) -> Result<bool, Status> {
        let now = Instant::now();
        if self.leading.beats.beat(&self.session.node_id, self.period, now) {
            self.reachable().await;
        }
        match message.message {
            Some(Incoming::Heartbeat(_)) | None => {}
            Some(Incoming::Status(mut report)) => {
                bounds::cut(&mut report.updates);
                reports::take_in(&self.session, &self.leading.writer, report);
            }
            Some(Incoming::Description(description)) => {
                bounds::check(&description)?;
                self.describe(description).await;
            }
            Some(Incoming::Register(_)) => {
                return Err(Status::invalid_argument("a session registers once"));
            }
        }
        // An agent that has much to report does not beat besides.
        Ok(self.adapt().await)
    }

    /// The node was unreachable and is heard of again.
    async fn reachable(&self) {
        let node_id = self.session.node_id.clone();
        let edit = move |tx: &mut Tx, scope: &crate::writer::Scope| {
            observe::node_ready(tx, &node_id, None, "", scope.now);
        };
        drop(self.leading.writer.observe(edit).await);
    }

    /// Tells the agent when it should beat at another pace: the cluster's setting is another, or it has grown or shrunk by a quarter where that
    /// decides. Its deadline stays the longest that it was told in this session: one of an older version goes on as it began.
    async fn adapt(&mut self) -> bool {
        let snapshot = self.core.snapshot();
        let wanted = period(&snapshot);
        let is_near = wanted < self.told * 5 / 4 && wanted > self.told * 4 / 5;
        if wanted == self.told || (is_near && wanted != wished(&snapshot)) {
            return true;
        }
        self.told = wanted;
        self.period = self.period.max(wanted);
        self.session.send(Outgoing::Registered(self.registered())).await
    }

    fn registered(&self) -> Registered {
        Registered {
            session_id: self.session.id.clone(),
            heartbeat_period: i64::try_from(self.told.as_nanos()).unwrap_or(i64::MAX),
        }
    }

    async fn describe(&mut self, mut description: NodeDescription) {
        let node_id = self.session.node_id.clone();
        let edit = move |tx: &mut Tx, _: &crate::writer::Scope| {
            let Some(node) = tx.node(&node_id) else { return };
            if description.data_path_addr.is_empty()
                && let Some(old) = &node.description
            {
                description.data_path_addr.clone_from(&old.data_path_addr);
            }
            let node = Node {
                description: Some(description),
                ..Node::clone(node)
            };
            // Only an empty id is refused, and this one comes from the store.
            let _ = tx.put_node(node);
        };
        drop(self.leading.writer.observe(edit).await);
    }

    /// Tells the agent which of its reports are written.
    async fn acknowledge(&mut self) -> Result<bool, Status> {
        let Some(sequences) = self.session.reports.acknowledge() else {
            // The agent reports all of it again in its next session.
            return Err(Status::unavailable(
                "a status report could not be written: register again",
            ));
        };
        for sequence in sequences {
            if !self
                .session
                .send(Outgoing::StatusAck(StatusAck { sequence }))
                .await
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends what has changed for the node since the last time, and which reports were written meanwhile: one after the other, so that they
    /// travel together.
    async fn push(&mut self) -> Result<bool, Status> {
        self.session.begin_telling();
        if !self.acknowledge().await? || !self.tell_managers().await {
            return Ok(false);
        }
        let node_id = self.session.node_id.as_str();
        let leading = self.leading.clone();
        let (snapshot, message) = leading.assignments.of(&self.core, &self.session, &mut self.sent);
        let networks = self.sent.networks().map(str::to_owned).collect();
        // A network that is new to this session may have changed between the snapshot and now, unnoticed.
        if self.session.set_networks(networks) && snapshot.version() != self.core.snapshot().version() {
            self.session.tell(Changes {
                networks: true,
                version: snapshot.version(),
                ..Changes::default()
            });
        }
        let Some(node) = snapshot.node(node_id).cloned() else {
            return Err(removed(node_id));
        };
        if self
            .node
            .as_ref()
            .is_none_or(|known| known.spec != node.spec || known.role != node.role)
        {
            if !self.session.send(Outgoing::Node(Node::clone(&node))).await {
                return Ok(false);
            }
            self.node = Some(node);
        }
        let trust = self.leading.orders.of(&snapshot, node_id);
        if let Some(trust) = trust.filter(|trust| self.trust.as_ref() != Some(trust)) {
            if !self.session.send(Outgoing::Trust(trust.clone())).await {
                return Ok(false);
            }
            self.trust = Some(trust);
        }
        self.last_push = Some(Instant::now());
        match message {
            Some(message) => Ok(self.session.send(Outgoing::Assignments(message)).await),
            None => Ok(true),
        }
    }

    /// Tells who the managers are, if that has changed; false when the agent is gone.
    async fn tell_managers(&mut self) -> bool {
        // Gone: the log ends, and the session with it.
        if !self.members.has_changed().unwrap_or(false) {
            return true;
        }
        let peer = |member: &Member| ManagerPeer {
            node_id: member.node_id.clone(),
            addr: member.addr.clone(),
        };
        let managers = self.members.borrow_and_update().iter().map(peer).collect();
        self.session
            .send(Outgoing::Managers(ManagerList { managers }))
            .await
    }
}
