//! Sends one snapshot file to a peer, in chunks, on a stream of its own so that heartbeats pass it.

use std::sync::Arc;
use std::time::Duration;

use pontoon_proto::v1;
use pontoon_proto::v1::raft_client::RaftClient;
use prost_raft::Message as _;
use raft::eraftpb::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

use super::PeerContext;
use crate::host::Host;
use crate::member::Member;
use crate::node::{Event, describe};
use crate::snapshot::{FileId, SnapshotFile};

/// Time for one chunk, and for the peer to check and sync the whole.
const CHUNK: Duration = Duration::from_secs(10);
const FINISH: Duration = Duration::from_secs(120);

/// Sends the snapshot that `message` speaks of, and reports how it went: raft waits for that.
pub(super) async fn send(context: Arc<PeerContext>, member: Member, message: Message) {
    /// Reports also when the task is aborted: a peer without a report stays in snapshot state for ever.
    struct Report<'a>(&'a PeerContext, u64, bool);
    impl Drop for Report<'_> {
        fn drop(&mut self) {
            self.0.tell(Event::SnapshotSent {
                to: self.1,
                ok: self.2,
            });
        }
    }
    let index = message.get_snapshot().get_metadata().index;
    let mut report = Report(&context, member.id, false);
    match try_send(&context, &member, message).await {
        Ok(()) => {
            tracing::info!(peer = member.id, index, "sent a snapshot");
            report.2 = true;
        }
        Err(reason) => tracing::warn!(
            peer = member.id,
            index,
            reason,
            "could not send a snapshot; it will be tried again"
        ),
    }
}

async fn try_send(context: &PeerContext, member: &Member, message: Message) -> Result<(), String> {
    let metadata = message.get_snapshot().get_metadata();
    let (index, term) = (metadata.index, metadata.term);
    let store = context.snapshots.clone();
    let file = context.host.blocking(move || store.open(index, term)).await?;
    let file = Arc::new(file.map_err(|error| describe(&error))?);
    let channel = timeout(CHUNK, context.connector.connect(member)).await;
    let channel = channel
        .map_err(|_| "connecting took too long")?
        .map_err(|error| error.to_string())?;
    let (chunks, outgoing) = mpsc::channel(2);
    let mut client = RaftClient::new(channel);
    let start = progress(&mut client, context, (index, term), file.id()).await?;
    if start > 0 {
        tracing::info!(
            peer = member.id,
            index,
            start,
            "going on with a snapshot that broke off"
        );
    }
    let call = client.install_snapshot(ReceiverStream::new(outgoing));
    let header = v1::SnapshotChunk {
        message: message.encode_to_vec().into(),
        from: context.id,
        cluster_id: context.cluster_id.clone(),
        offset: start,
        total: file.id().total,
        checksum: file.id().crc,
        ..v1::SnapshotChunk::default()
    };
    let feed = async {
        let mut next = header;
        let mut offset = start;
        // A peer that ends the call drops its end; its answer says why.
        while let Ok(Ok(())) = timeout(CHUNK, chunks.send(next)).await {
            let data = read(&context.host, file.clone(), offset).await?;
            if data.is_empty() {
                drop(chunks);
                return Ok(());
            }
            offset += data.len() as u64;
            let crc = crc32fast::hash(&data);
            next = v1::SnapshotChunk {
                data: data.into(),
                crc,
                ..v1::SnapshotChunk::default()
            };
        }
        Err("the peer takes no data".to_owned())
    };
    let (mut call, mut feed) = (std::pin::pin!(call), std::pin::pin!(feed));
    let answer = tokio::select! {
        biased;
        answer = &mut call => answer,
        fed = &mut feed => {
            let answer = timeout(FINISH, call).await;
            fed?;
            answer.map_err(|_| "the peer did not confirm the snapshot in time")?
        }
    };
    answer.map(drop).map_err(|status| status.to_string())
}

/// How much of the file the peer has from an earlier try; a peer of an older version has nothing.
async fn progress(
    client: &mut RaftClient<Channel>,
    context: &PeerContext,
    (index, term): (u64, u64),
    id: FileId,
) -> Result<u64, String> {
    let request = v1::SnapshotProgressRequest {
        from: context.id,
        cluster_id: context.cluster_id.clone(),
        index,
        term,
        total: id.total,
        checksum: id.crc,
    };
    match timeout(CHUNK, client.snapshot_progress(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner().offset.min(id.total)),
        Ok(Err(status)) if status.code() == Code::Unimplemented => Ok(0),
        Ok(Err(status)) => Err(status.to_string()),
        Err(_) => Err("the peer does not answer".to_owned()),
    }
}

async fn read(host: &Host, file: Arc<SnapshotFile>, offset: u64) -> Result<Vec<u8>, String> {
    let chunk = host.blocking(move || file.chunk(offset)).await?;
    chunk.map_err(|error| describe(&error))
}
