//! Channels to the other managers, for the log's transport and for forwarding: mTLS with the current certificate.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_identity::{Endpoint, Identity, connect_lazy};
use pontoon_raft::{ConnectError, Connector, Member};
use tonic::transport::Channel;

/// The log's streams to a dead manager are rebuilt as soon as it is back.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// One channel per manager address; each reconnects by itself.
pub(crate) struct Channels {
    identity: Arc<Identity>,
    by_addr: Mutex<HashMap<String, Channel>>,
}

impl Channels {
    pub(crate) fn new(identity: Arc<Identity>) -> Arc<Self> {
        Arc::new(Self {
            identity,
            by_addr: Mutex::default(),
        })
    }

    /// The channel to the manager at `addr`; made when first asked for.
    pub(crate) fn get(&self, addr: &str) -> Result<Channel, pontoon_identity::Error> {
        let mut channels = self.by_addr.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(addr) {
            return Ok(channel.clone());
        }
        let channel = connect_lazy(&self.identity, &Endpoint::manager(addr))?;
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
pub(crate) struct PeerConnector(pub(crate) Arc<Identity>);

#[tonic::async_trait]
impl Connector for PeerConnector {
    async fn connect(&self, member: &Member) -> Result<Channel, ConnectError> {
        let endpoint = Endpoint::manager(&member.addr).with_keep_alive(KEEP_ALIVE);
        Ok(connect_lazy(&self.0, &endpoint)?)
    }

    async fn probe(&self, addr: &str) -> Result<(), ConnectError> {
        // In one line: it goes to the operator of the joiner.
        let probed = pontoon_identity::probe(addr).await;
        probed.map_err(|error| pontoon_identity::describe(&error).into())
    }
}
