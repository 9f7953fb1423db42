//! How a member dials another: supplied by the controller, which owns certificates and keep-alive settings.

use crate::member::Member;

/// Why a member could not be dialled.
pub type ConnectError = Box<dyn std::error::Error + Send + Sync>;

/// Dials other members. Implementations do mutual TLS and set HTTP/2 keep-alive on the channel, so that a connection
/// that died without a word is noticed within about a second.
#[async_trait::async_trait]
pub trait Connector: Send + Sync + 'static {
    /// A channel to `member`; connecting lazily is fine.
    ///
    /// # Errors
    /// When the member can't be dialled; the caller retries with back-off.
    async fn connect(&self, member: &Member) -> Result<tonic::transport::Channel, ConnectError>;

    /// Whether something listens at a joiner's address, which is not served yet: asked before it is taken in, since a
    /// member that nobody reaches stays a burden until somebody removes it.
    ///
    /// # Errors
    /// When nothing answers there.
    async fn probe(&self, addr: &str) -> Result<(), ConnectError>;
}
