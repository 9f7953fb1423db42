//! The way to a daemon: turns `--host` into a gRPC channel. Used by every client command.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use pontoon_proto::v1::{
    control_client::ControlClient, engine_client::EngineClient, swarm_client::SwarmClient,
};
use tonic::transport::{Channel, Endpoint};

use crate::error::Failure;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/pontoon/pontoon.sock";

/// Largest message either side accepts: listings of big clusters, not archives (those are streamed).
const MESSAGE_LIMIT: usize = 64 << 20;

/// A daemon's address and the services it offers.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to the daemon at `host` (`unix:///path`), or at the default socket.
    ///
    /// # Errors
    /// When the address has another form, or nobody answers there.
    pub async fn connect(host: Option<&str>) -> Result<Self, Failure> {
        let path = socket_path(host)?;
        let shown = path.display().to_string();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://pontoon.local")
            .connect_with_connector(connector)
            .await
            .map_err(|error| {
                let reason = root_cause(&error);
                Failure::new(format!(
                    "Cannot connect to the Pontoon daemon at unix://{shown} ({reason}). Is `pontoon daemon` running?"
                ))
            })?;
        Ok(Self { channel })
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

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

fn socket_path(host: Option<&str>) -> Result<PathBuf, Failure> {
    let Some(host) = host.filter(|host| !host.is_empty()) else {
        return Ok(PathBuf::from(DEFAULT_SOCKET));
    };
    match host.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(Path::new(path).to_owned()),
        Some(_) => Err(Failure::new(format!(
            "invalid host {host:?}: unix:// needs an absolute path"
        ))),
        None => Err(Failure::new(format!(
            "invalid host {host:?}: this version connects to unix:///path/to/pontoon.sock only"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        assert_eq!(socket_path(None).unwrap(), PathBuf::from(DEFAULT_SOCKET));
        assert_eq!(socket_path(Some("")).unwrap(), PathBuf::from(DEFAULT_SOCKET));
        assert_eq!(
            socket_path(Some("unix:///a/b.sock")).unwrap(),
            PathBuf::from("/a/b.sock")
        );
        assert!(
            socket_path(Some("unix://a"))
                .unwrap_err()
                .message
                .contains("absolute")
        );
        assert!(
            socket_path(Some("tcp://1.2.3.4:2377"))
                .unwrap_err()
                .message
                .contains("unix://")
        );
    }
}
