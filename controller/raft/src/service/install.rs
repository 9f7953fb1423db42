//! Receives a snapshot: to a file first, checked and durable, and only then does raft hear of it.

use bytes::Bytes;
use pontoon_proto::v1;
use raft::eraftpb::MessageType;
use tokio::sync::Mutex;
use tonic::{Status, Streaming};

use super::{PeerIdentity, RaftService, SILENT};
use crate::error::Error;
use crate::host::Host;
use crate::node::{Event, describe};
use crate::snapshot::{FileId, Incoming};
use crate::validate;
use crate::watch;

/// A transfer that broke off: what came before is kept in its file until the sender comes back, or sends another one.
struct Partial {
    incoming: Incoming,
    name: Name,
}

/// The transfers to this member, of which one goes on at a time.
#[derive(Default)]
pub(crate) struct Transfers {
    /// The one that broke off last; locked by the one that goes on.
    partial: Mutex<Option<Partial>>,
    /// Counts those who want to send: the newest is the one, a transfer that goes on is taken for dead.
    senders: watch::Sender<u64>,
}

/// Which snapshot file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name {
    index: u64,
    term: u64,
    id: FileId,
}

impl RaftService {
    /// How much of a snapshot file is here already. A transfer that still goes on is ended: its sender asks because it broke off.
    pub(super) async fn progress(
        &self,
        caller: &PeerIdentity,
        request: &v1::SnapshotProgressRequest,
    ) -> Result<v1::SnapshotProgressResponse, Status> {
        self.check_sender(Ok(caller), request.from, &request.cluster_id)?;
        let name = Name {
            index: request.index,
            term: request.term,
            id: FileId {
                total: request.total,
                crc: request.checksum,
            },
        };
        let transfers = &self.handle.shared.transfers;
        transfers.senders.send_modify(|count| *count += 1);
        let kept = transfers.partial.lock().await;
        let offset = kept.as_ref().filter(|partial| partial.name == name);
        Ok(v1::SnapshotProgressResponse {
            offset: offset.map_or(0, |partial| partial.incoming.offset()),
        })
    }

    /// The file that a transfer goes on with from `offset`, or a new one.
    async fn begin(&self, kept: Option<Partial>, name: Name, offset: u64) -> Result<Incoming, Status> {
        match kept.filter(|partial| partial.name == name && partial.incoming.offset() == offset) {
            Some(partial) if offset > 0 => Ok(partial.incoming),
            _ if offset > 0 => Err(Status::aborted(
                "the first part of this snapshot is not here any more",
            )),
            _ => {
                let store = self.handle.shared.snapshots.clone();
                blocking(&self.handle.shared.host, move || store.receive()).await
            }
        }
    }

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
        self.check_sender(Ok(caller), first.from, &first.cluster_id)?;
        let message = validate::decode(&first.message, first.from, shared.id).map_err(|reason| {
            Status::invalid_argument(format!("snapshot from {:x}: {reason}", first.from))
        })?;
        if message.get_msg_type() != MessageType::MsgSnapshot {
            return Err(Status::invalid_argument("the first chunk announces no snapshot"));
        }
        let metadata = message.get_snapshot().get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        let id = FileId {
            total: first.total,
            crc: first.checksum,
        };
        let name = Name { index, term, id };
        shared.transfers.senders.send_modify(|count| *count += 1);
        let mut newer = shared.transfers.senders.subscribe();
        let mut kept = shared.transfers.partial.lock().await;
        let mut incoming = self.begin(kept.take(), name, first.offset).await?;
        loop {
            let chunk = tokio::select! {
                biased;
                _ = newer.changed() => Err(Status::aborted("a newer transfer has replaced this one")),
                chunk = next(&mut chunks) => chunk,
            };
            let chunk = match chunk {
                Ok(Some(chunk)) if crc32fast::hash(&chunk.data) == chunk.crc => chunk,
                Ok(None) if incoming.offset() >= id.total => break,
                broken => {
                    // What is here stays for the next try. Senders of an older version don't come back to it.
                    if id.total > 0 {
                        *kept = Some(Partial { incoming, name });
                    }
                    broken?;
                    return Err(Status::data_loss("the snapshot was damaged or cut on its way"));
                }
            };
            incoming = write(&shared.host, incoming, chunk.data).await?;
        }
        blocking(&shared.host, move || incoming.finish(index, term)).await?;
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

async fn write(host: &Host, mut incoming: Incoming, data: Bytes) -> Result<Incoming, Status> {
    blocking(host, move || incoming.write(&data).map(|()| incoming)).await
}

async fn blocking<T: Send + 'static>(
    host: &Host,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Status> {
    let result = host.blocking(work).await.map_err(Status::internal)?;
    result.map_err(|error| {
        tracing::warn!(error = describe(&error), "could not receive a snapshot");
        Status::aborted(describe(&error))
    })
}
