//! What all parts of a manager share: the replicated state, the log, this node's identity, and what exists only while
//! this manager leads.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use pontoon_identity::{Connections, Identity};
use pontoon_raft::{Host, Leadership, Member, ReadError};
use pontoon_store::Snapshot;
use tonic::Status;

use crate::ca::limit::Attempts;
use crate::config::ImageResolver;
use crate::connector::Channels;
use crate::leader::Leading;
use crate::log::ReplicatedLog;
use crate::replica::Replica;
use crate::status;
use crate::writer::Writer;

/// Shared by all services of one manager.
pub(crate) struct Core {
    pub(crate) replica: Arc<Replica>,
    pub(crate) log: Arc<dyn ReplicatedLog>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) connections: Connections,
    pub(crate) channels: Arc<Channels>,
    /// How long to wait for a leader.
    pub(crate) leader_timeout: Duration,
    pub(crate) resolver: Option<Arc<dyn ImageResolver>>,
    /// Failed attempts to join.
    pub(crate) attempts: Attempts,
    pub(crate) host: Host,
    leading: ArcSwapOption<Leading>,
}

impl Core {
    pub(crate) fn new(
        replica: Arc<Replica>,
        log: Arc<dyn ReplicatedLog>,
        config: &crate::ManagerConfig,
        channels: Arc<Channels>,
    ) -> Arc<Self> {
        Arc::new(Self {
            replica,
            log,
            identity: config.identity.clone(),
            connections: config.connections.clone(),
            channels,
            leader_timeout: config.leader_timeout,
            resolver: config.resolver.clone(),
            attempts: Attempts::default(),
            host: config.host.clone(),
            leading: ArcSwapOption::empty(),
        })
    }

    /// The state as this manager has it, without asking whether it is the newest.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.replica.snapshot()
    }

    /// The state with everything that was committed anywhere before this call.
    pub(crate) async fn read(&self) -> Result<Arc<Snapshot>, Status> {
        #[cfg(feature = "planted-bugs")]
        if pontoon_proto::planted::is_planted(pontoon_proto::planted::Bug::ReadOldState) {
            return Ok(self.snapshot());
        }
        match tokio::time::timeout(self.leader_timeout, self.log.read_barrier()).await {
            Ok(Ok(())) => Ok(self.snapshot()),
            Ok(Err(ReadError::NoLeader)) | Err(_) => Err(self.no_leader()),
            Ok(Err(error)) => Err(status::from_read(&error)),
        }
    }

    /// Why nothing goes without a leader.
    pub(crate) fn no_leader(&self) -> Status {
        match self.log.keeps_quorum() {
            true => status::no_leader(),
            false => status::no_leader_in_store(),
        }
    }

    /// What exists while this manager leads.
    pub(crate) fn leading(&self) -> Option<Arc<Leading>> {
        self.leading.load_full()
    }

    pub(crate) fn set_leading(&self, leading: Option<Arc<Leading>>) {
        self.leading.store(leading);
    }

    /// The writer, or the status that makes the forwarding layer ask the leader.
    pub(crate) fn writer(&self) -> Result<Writer, Status> {
        self.leading()
            .map(|leading| leading.writer.clone())
            .ok_or_else(status::not_leader)
    }

    /// Who leads, as this manager sees it.
    pub(crate) fn leadership(&self) -> Leadership {
        self.log.leadership().borrow().clone()
    }

    /// The leader, if known.
    pub(crate) fn leader(&self) -> Option<Member> {
        self.leadership().leader
    }
}
