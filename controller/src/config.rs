//! Settings of a manager, and what a new cluster starts with. Filled in by the daemon.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::external::ExternalStore;
use pontoon_identity::{Connections, Identity, RootCa, UnlockKey};
use pontoon_proto::v1::{ClusterSpec, NodeDescription, NodeSpec, RegistryAuth};
use pontoon_raft::Host;

use crate::connector::Network;

/// Timers of the replicated log.
#[derive(Debug, Clone, Copy)]
pub struct RaftTimers {
    /// Length of a tick; an election takes 10 to 20 of them without a leader.
    pub tick: Duration,
    /// Entries after which a snapshot is taken.
    pub snapshot_every: u64,
    /// Size at which the log goes on in a new segment.
    pub segment_bytes: u64,
    /// Entries kept behind a snapshot for followers that are a little late.
    pub keep_entries: u64,
}

impl Default for RaftTimers {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(50),
            snapshot_every: 10_000,
            segment_bytes: 64 << 20,
            keep_entries: 2_000,
        }
    }
}

/// Finds the digest that an image's name stands for: in the node's own store, at a registry. The daemon gives it.
#[tonic::async_trait]
pub trait ImageResolver: Send + Sync + std::fmt::Debug + 'static {
    /// The name as nodes report it, with the tag that may have been left out; none for what is no name.
    fn name(&self, image: &str) -> Option<String>;
    /// The digest, `sha256:…`; else why there is none.
    async fn resolve(&self, image: &str, auth: RegistryAuth) -> Result<String, String>;
}

/// Settings of one manager.
#[derive(Debug, Clone)]
pub struct ManagerConfig {
    /// Folder for `raft/` and the member's id; 0700.
    pub data_dir: PathBuf,
    /// This node's identity; a manager certificate.
    pub identity: Arc<Identity>,
    /// What the manager's keys in `data_dir` are sealed with, if they are.
    pub unlock_key: Option<UnlockKey>,
    /// Seals log and snapshots with data keys kept in `data_dir`.
    pub encrypt: bool,
    /// host:port where other managers and agents reach this one.
    pub advertise: String,
    /// The registry that the cluster port's listener fills.
    pub connections: Connections,
    /// Timers of the log.
    pub raft: RaftTimers,
    /// How long reads and forwarded writes wait for a leader before they fail.
    pub leader_timeout: Duration,
    /// Where the log is; without one on the managers themselves.
    pub store: Option<ExternalStore>,
    /// Pins services' images; without one they stay as they are.
    pub resolver: Option<Arc<dyn ImageResolver>>,
    /// The machine beneath.
    pub host: Host,
    /// The way to other managers; without one it is mutual TLS over TCP, by the identity.
    pub network: Option<Arc<dyn Network>>,
}

impl ManagerConfig {
    /// Settings with the usual timers.
    pub fn new(data_dir: impl Into<PathBuf>, identity: Arc<Identity>, advertise: impl Into<String>) -> Self {
        Self {
            data_dir: data_dir.into(),
            identity,
            unlock_key: None,
            encrypt: true,
            advertise: advertise.into(),
            connections: Connections::new(),
            raft: RaftTimers::default(),
            leader_timeout: Duration::from_secs(5),
            store: None,
            resolver: None,
            host: Host::default(),
            network: None,
        }
    }
}

/// What a new cluster starts with.
#[derive(Debug)]
pub struct InitOptions {
    /// The root that issued this node's certificate.
    pub root: RootCa,
    /// The cluster's settings; its name is set to "default" when empty.
    pub spec: ClusterSpec,
    /// Settings of this node; the role is made manager.
    pub node: NodeSpec,
    /// What is known of this node before its agent registers.
    pub description: Option<NodeDescription>,
}
