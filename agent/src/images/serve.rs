//! The service Peers: gives blobs of an image to a node that has a task which runs it. Whether it has is asked of the leader: the
//! assignment decides, not the one who asks and not this node. Called over the cluster port by other nodes' agents.

use std::io::{Read, Seek, SeekFrom};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pontoon_identity::ConnectionInfo;
use pontoon_image::Digest;
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::peers_server::Peers;
use pontoon_proto::v1::{BlobChunk, CheckImageRequest, FetchBlobRequest};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{ANSWER, Images};

/// Bytes of a chunk.
const CHUNK: usize = 256 << 10;
/// Chunks that wait for a peer.
const WAITING: usize = 4;
/// The leader's permission holds so long: the blobs of one image come in calls of their own.
const ALLOWED_FOR: Duration = Duration::from_secs(10);

/// The service.
#[derive(Debug, Clone)]
pub struct PeersService {
    images: Arc<Images>,
}

impl PeersService {
    pub(super) fn new(images: Arc<Images>) -> Self {
        Self { images }
    }
}

fn digest(text: &str) -> Result<Digest, Status> {
    text.parse()
        .map_err(|_| Status::invalid_argument(format!("{text:?} is no digest")))
}

#[tonic::async_trait]
impl Peers for PeersService {
    type FetchBlobStream = ReceiverStream<Result<BlobChunk, Status>>;

    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        let info = request.extensions().get::<ConnectionInfo>();
        let node = info
            .and_then(|info| info.peer.as_ref())
            .map(|peer| peer.node_id.clone())
            .ok_or_else(|| Status::unauthenticated("this call needs a node certificate"))?;
        let FetchBlobRequest { image, blob, offset } = request.into_inner();
        let (image, blob) = (digest(&image)?, digest(&blob)?);
        self.images.check(&node, &image).await?;
        let open = move |store: &Arc<pontoon_image::ImageStore>| {
            if !store.parts(&image).contains(&blob) {
                return Ok(None);
            }
            store.open_blob(&blob).map(Some)
        };
        let opened = self.images.store(open).await.map_err(Status::internal)?;
        let Some((mut file, size)) = opened else {
            return Err(Status::not_found(format!(
                "this node has no blob {blob} of the image {image}"
            )));
        };
        if offset > size {
            return Err(Status::out_of_range(format!("{blob} has {size} bytes")));
        }
        let (chunks, stream) = mpsc::channel(WAITING);
        tokio::task::spawn_blocking(move || {
            let sent = file
                .seek(SeekFrom::Start(offset))
                .and_then(|_| send(&mut file, &chunks));
            match sent {
                Ok(Some(bytes)) => tracing::info!(node, %image, %blob, bytes, "gave a blob to a node"),
                Ok(None) => tracing::info!(node, %image, %blob, "a node broke off the transfer of a blob"),
                Err(error) => {
                    tracing::warn!(%blob, %error, "a blob can't be read");
                    // The peer sees the stream break in any case.
                    let _ = chunks.blocking_send(Err(Status::data_loss(format!("read {blob}: {error}"))));
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Sends what is left of a file; `None` when the peer has gone.
fn send(
    file: &mut std::fs::File,
    chunks: &mpsc::Sender<Result<BlobChunk, Status>>,
) -> std::io::Result<Option<u64>> {
    let mut bytes = 0;
    loop {
        let mut data = vec![0; CHUNK];
        let mut filled = 0;
        while filled < CHUNK {
            match file.read(&mut data[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            return Ok(Some(bytes));
        }
        data.truncate(filled);
        bytes += filled as u64;
        let chunk = BlobChunk {
            data: Bytes::from(data),
        };
        if chunks.blocking_send(Ok(chunk)).is_err() {
            return Ok(None);
        }
    }
}

impl Images {
    /// Whether the node may have the image, by the leader's word.
    async fn check(&self, node: &str, image: &Digest) -> Result<(), Status> {
        let key = (node.to_owned(), *image);
        {
            let mut allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
            allowed.retain(|_, since| since.elapsed() < ALLOWED_FOR);
            if allowed.contains_key(&key) {
                return Ok(());
            }
        }
        let channel = self.leader.borrow().clone();
        let channel = channel.ok_or_else(|| {
            Status::unavailable("this node has no session with the leader to ask whether it may")
        })?;
        let request = CheckImageRequest {
            image: image.to_string(),
            node_id: node.to_owned(),
        };
        let mut client = DispatcherClient::new(channel);
        let answer = tokio::time::timeout(ANSWER, client.check_image(request))
            .await
            .map_err(|_| Status::unavailable("the leader does not say whether it may"))?
            .map_err(|status| Status::unavailable(status.message().to_owned()))?;
        if !answer.into_inner().allowed {
            tracing::warn!(node, %image, "refused a node that has no task with the image");
            return Err(Status::permission_denied(format!(
                "no task of node {node} runs the image {image}"
            )));
        }
        let mut allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        allowed.insert(key, Instant::now());
        Ok(())
    }
}
