//! The way to a daemon: turns `--host` into a gRPC channel. Used by every client command.

mod address;
mod ssh;

use hyper_util::rt::TokioIo;
use pontoon_proto::v1::{
    VersionRequest, control_client::ControlClient, engine_client::EngineClient, swarm_client::SwarmClient,
};
use tonic::transport::{Channel, Endpoint};

use crate::error::Failure;

pub use address::Address;
use ssh::SshStream;

/// Largest message either side accepts: listings of big clusters, not archives (those are streamed).
const MESSAGE_LIMIT: usize = 64 << 20;

/// A daemon's address and the services it offers.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to the daemon at `host` (`unix:///path`, `ssh://host`), or at the default socket.
    ///
    /// # Errors
    /// When the address has another form, or nobody answers there.
    pub async fn connect(host: Option<&str>) -> Result<Self, Failure> {
        let address = Address::parse(host)?;
        let endpoint = Endpoint::from_static("http://pontoon.local");
        let connected = match &address {
            Address::Unix(path) => {
                let path = path.clone();
                let connector = tower::service_fn(move |_| {
                    let path = path.clone();
                    async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
                });
                endpoint.connect_with_connector(connector).await
            }
            Address::Ssh {
                destination,
                port,
                socket,
            } => {
                let (destination, port, socket) = (destination.clone(), *port, socket.clone());
                let connector = tower::service_fn(move |_| {
                    let opened = SshStream::open(&destination, port, socket.as_deref()).map(TokioIo::new);
                    async move { opened }
                });
                endpoint.connect_with_connector(connector).await
            }
        };
        let failed = |reason: String, advice: &str| {
            Failure::new(format!(
                "Cannot connect to the Pontoon daemon at {address} ({reason}). {advice}"
            ))
        };
        let channel = connected.map_err(|error| failed(root_cause(&error), advice(&error)))?;
        let client = Self { channel };
        if let Address::Ssh { .. } = address {
            // ssh runs at once; only an answer shows that it has come through.
            let answered = client.engine().version(VersionRequest {}).await;
            answered.map_err(|status| {
                failed(status.message().to_owned(), "ssh or the far side said why above.")
            })?;
        }
        Ok(client)
    }

    /// Containers, images and networks of the daemon's host.
    pub fn engine(&self) -> EngineClient<Channel> {
        EngineClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// The cluster's objects.
    pub fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// The node's place in a cluster.
    pub fn swarm(&self) -> SwarmClient<Channel> {
        SwarmClient::new(self.channel.clone())
    }
}

/// What to do about a failed connection.
fn advice(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && error.kind() == std::io::ErrorKind::PermissionDenied
        {
            return "Run the command as root, or join the group that owns the socket.";
        }
        cause = error.source();
    }
    "Is `pontoon daemon` running?"
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
