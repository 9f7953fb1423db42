//! How this manager reaches the others: channels over mutual TLS with the node's current certificate, or whatever a
//! simulation puts in their place. Called by `forward`, `join` and, through [`PeerConnector`], by the log.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_identity::{Endpoint, Identity, connect_lazy};
use pontoon_raft::{ConnectError, Connector, Member};
use tonic::transport::Channel;

use crate::config::ManagerConfig;

/// The log's streams to a dead manager are rebuilt as soon as it is back.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// The way to other managers.
#[tonic::async_trait]
pub trait Network: Debug + Send + Sync + 'static {
    /// A channel that connects when it is first used, and again by itself; with a keep-alive other than the usual one.
    fn channel(&self, addr: &str, keep_alive: Option<Duration>) -> Result<Channel, ConnectError>;
    /// A channel that is connected; an error says, in one line, why it can't be.
    async fn connect(&self, addr: &str) -> Result<Channel, ConnectError>;
    /// Whether something accepts connections there.
    async fn probe(&self, addr: &str) -> Result<(), ConnectError>;
}

/// The network of these settings.
pub(crate) fn network(config: &ManagerConfig) -> Arc<dyn Network> {
    match &config.network {
        Some(network) => network.clone(),
        None => Arc::new(Mutual(config.identity.clone())),
    }
}

/// Mutual TLS over TCP.
#[derive(Debug)]
struct Mutual(Arc<Identity>);

#[tonic::async_trait]
impl Network for Mutual {
    fn channel(&self, addr: &str, keep_alive: Option<Duration>) -> Result<Channel, ConnectError> {
        let mut endpoint = Endpoint::manager(addr);
        if let Some(keep_alive) = keep_alive {
            endpoint = endpoint.with_keep_alive(keep_alive);
        }
        Ok(connect_lazy(&self.0, &endpoint)?)
    }

    async fn connect(&self, addr: &str) -> Result<Channel, ConnectError> {
        let connected = pontoon_identity::connect(&self.0, &Endpoint::manager(addr)).await;
        connected.map_err(|error| pontoon_identity::describe(&error).into())
    }

    async fn probe(&self, addr: &str) -> Result<(), ConnectError> {
        // In one line: it goes to the operator of the joiner.
        let probed = pontoon_identity::probe(addr).await;
        probed.map_err(|error| pontoon_identity::describe(&error).into())
    }
}

/// One channel per manager address; each reconnects by itself.
pub(crate) struct Channels {
    network: Arc<dyn Network>,
    by_addr: Mutex<HashMap<String, Channel>>,
}

impl Channels {
    pub(crate) fn new(network: Arc<dyn Network>) -> Arc<Self> {
        Arc::new(Self {
            network,
            by_addr: Mutex::default(),
        })
    }

    /// The channel to the manager at `addr`; made when first asked for.
    pub(crate) fn get(&self, addr: &str) -> Result<Channel, ConnectError> {
        let mut channels = self.by_addr.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(addr) {
            return Ok(channel.clone());
        }
        let channel = self.network.channel(addr, None)?;
        channels.insert(addr.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Forgets a channel whose peer went away, so that the next one is dialled anew.
    pub(crate) fn forget(&self, addr: &str) {
        self.by_addr
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(addr);
    }
}

/// The log's way to the other managers: a connection of its own, so that bulk forwards don't delay heartbeats.
pub(crate) struct PeerConnector(pub(crate) Arc<dyn Network>);

#[tonic::async_trait]
impl Connector for PeerConnector {
    async fn connect(&self, member: &Member) -> Result<Channel, ConnectError> {
        self.0.channel(&member.addr, Some(KEEP_ALIVE))
    }

    async fn probe(&self, addr: &str) -> Result<(), ConnectError> {
        self.0.probe(addr).await
    }
}
