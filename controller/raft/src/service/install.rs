//! Receives a snapshot: to a file first, checked and durable, and only then does raft hear of it.

use bytes::Bytes;
use pontoon_proto::v1;
use raft::eraftpb::MessageType;
use tokio::task::spawn_blocking;
use tonic::{Status, Streaming};

use super::{PeerIdentity, RaftService, SILENT};
use crate::error::Error;
use crate::node::{Event, describe};
use crate::snapshot::Incoming;
use crate::validate;

impl RaftService {
    /// Takes one snapshot from the leader.
    pub(super) async fn receive_snapshot(
        &self,
        caller: &PeerIdentity,
        mut chunks: Streaming<v1::SnapshotChunk>,
    ) -> Result<v1::SnapshotAck, Status> {
        let shared = &self.handle.shared;
        let first = next(&mut chunks)
            .await?
            .ok_or_else(|| Status::invalid_argument("the snapshot has no header"))?;
        self.check_sender(caller, first.from, &first.cluster_id)?;
        let message = validate::decode(&first.message, first.from, shared.id).map_err(|reason| {
            Status::invalid_argument(format!("snapshot from {:x}: {reason}", first.from))
        })?;
        if message.get_msg_type() != MessageType::MsgSnapshot {
            return Err(Status::invalid_argument("the first chunk announces no snapshot"));
        }
        let metadata = message.get_snapshot().get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        let store = shared.snapshots.clone();
        let mut incoming = blocking(move || store.receive()).await?;
        while let Some(chunk) = next(&mut chunks).await? {
            if crc32fast::hash(&chunk.data) != chunk.crc {
                return Err(Status::data_loss(
                    "the checksum of a snapshot chunk does not match",
                ));
            }
            incoming = write(incoming, chunk.data).await?;
        }
        blocking(move || incoming.finish(index, term)).await?;
        tracing::info!(index, from = first.from, "received a snapshot");
        shared
            .events
            .send(Event::Peer {
                messages: vec![message],
                bytes: 0,
            })
            .map_err(|_| Status::unavailable("this manager's log has stopped"))?;
        Ok(v1::SnapshotAck { index })
    }
}

async fn next(chunks: &mut Streaming<v1::SnapshotChunk>) -> Result<Option<v1::SnapshotChunk>, Status> {
    let chunk = tokio::time::timeout(SILENT, chunks.message()).await;
    chunk.map_err(|_| Status::deadline_exceeded("the snapshot stopped coming"))?
}

async fn write(mut incoming: Incoming, data: Bytes) -> Result<Incoming, Status> {
    blocking(move || incoming.write(&data).map(|()| incoming)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Status> {
    let result = spawn_blocking(work)
        .await
        .map_err(|error| Status::internal(error.to_string()))?;
    result.map_err(|error| {
        tracing::warn!(error = describe(&error), "could not receive a snapshot");
        Status::aborted(describe(&error))
    })
}
