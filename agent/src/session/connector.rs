//! How a manager is reached: mTLS in the daemon, plain connections in tests.

use std::sync::Arc;

use pontoon_identity::{Endpoint, Identity};
use tonic::transport::Channel;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Opens channels to managers.
#[tonic::async_trait]
pub trait Connector: Send + Sync + 'static {
    /// A connected channel to the manager at `addr` (host:port).
    async fn connect(&self, addr: &str) -> Result<Channel, BoxError>;

    /// The identity that it connects with, which follows what the cluster says of its root; none for connections without.
    fn identity(&self) -> Option<Arc<Identity>> {
        None
    }
}

/// Connects with this node's certificate.
#[derive(Clone, Debug)]
pub struct IdentityConnector {
    identity: Arc<Identity>,
}

impl IdentityConnector {
    /// With this identity, whose renewals take effect at the next connection.
    pub fn new(identity: Arc<Identity>) -> Self {
        Self { identity }
    }
}

#[tonic::async_trait]
impl Connector for IdentityConnector {
    async fn connect(&self, addr: &str) -> Result<Channel, BoxError> {
        Ok(pontoon_identity::connect(&self.identity, &Endpoint::manager(addr)).await?)
    }

    fn identity(&self) -> Option<Arc<Identity>> {
        Some(self.identity.clone())
    }
}
