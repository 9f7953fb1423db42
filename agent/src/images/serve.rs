//! The service Peers: gives blobs of an image to a node that has a task which runs it, also of an image that is still arriving here.
//! Whether the node has such a task is asked of the leader: the assignment decides, not the one who asks and not this node. Called over
//! the cluster port by other nodes' agents.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pontoon_identity::ConnectionInfo;
use pontoon_image::{Digest, More, Tail};
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::peers_server::Peers;
use pontoon_proto::v1::{BlobChunk, CheckImageRequest, FetchBlobRequest};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{ANSWER, Images};
use crate::error::chain;

/// Bytes of a chunk.
const CHUNK: usize = 256 << 10;
/// Chunks that wait for a peer.
const WAITING: usize = 4;
/// A peer that waits for what is arriving hears so often that it is.
const BREATH: Duration = Duration::from_millis(500);
/// So many breaths long an image may be wanted here before it begins to arrive.
const BEGINNING: u32 = 20;
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

/// What is asked for: the image, one of its blobs, from which byte on.
fn wanted(request: &FetchBlobRequest) -> Result<(Digest, Digest, u64), Status> {
    Ok((digest(&request.image)?, digest(&request.blob)?, request.offset))
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
        let (image, blob, offset) = wanted(&request.into_inner())?;
        self.images.check(&node, &image).await?;
        let mut giving = Giving {
            images: self.images.clone(),
            image,
            attempt: None,
            breaths: 0,
        };
        let arrives = giving.arrives();
        let store = self.images.engine.images().clone();
        // Whether there is anything to give: known before the first chunk.
        let looked = super::blocking(move || {
            let mut tail = store.tail(&image, &blob, offset);
            let seen = tail
                .read(&mut [], Duration::ZERO)
                .map_err(|error| chain(&error))?;
            Ok((tail, seen))
        });
        let (tail, seen) = looked.await.map_err(Status::internal)?;
        if seen == More::Foreign || (seen == More::Absent && !arrives) {
            return Err(Status::not_found(format!(
                "this node has no blob {blob} of the image {image}"
            )));
        }
        let (chunks, stream) = mpsc::channel(WAITING);
        tokio::task::spawn_blocking(move || match giving.send(tail, &chunks) {
            Ok(Some(bytes)) => tracing::info!(node, %image, %blob, bytes, "gave a blob to a node"),
            Ok(None) => tracing::info!(node, %image, %blob, "a node broke off the transfer of a blob"),
            Err(status) => {
                tracing::info!(node, %image, %blob, reason = status.message(), "a blob could not be given to its end");
                // The peer sees the stream break in any case.
                let _ = chunks.blocking_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One blob on its way out.
struct Giving {
    images: Arc<Images>,
    image: Digest,
    /// By which attempt of this node the image arrives. When that has ended, so has the giving: the next one may come from the very node that
    /// is being given to.
    attempt: Option<u64>,
    breaths: u32,
}

impl Giving {
    /// Whether the image still arrives, or is about to.
    fn arrives(&mut self) -> bool {
        match (self.attempt, self.images.attempt(&self.image)) {
            (Some(before), now) => now == Some(before),
            (None, Some(now)) => {
                self.attempt = Some(now);
                true
            }
            (None, None) => {
                self.breaths += 1;
                self.breaths <= BEGINNING && self.images.is_wanted(&self.image)
            }
        }
    }

    /// Sends what is left of a blob, as it comes; `None` when the peer has gone.
    fn send(
        &mut self,
        mut tail: Tail,
        chunks: &mpsc::Sender<Result<BlobChunk, Status>>,
    ) -> Result<Option<u64>, Status> {
        let (mut bytes, mut arrives) = (0, true);
        loop {
            let mut data = vec![0; CHUNK];
            let more = tail.read(&mut data, BREATH).map_err(|error| {
                tracing::warn!(image = %self.image, error = chain(&error), "a blob can't be read");
                Status::data_loss(chain(&error))
            })?;
            match more {
                More::Bytes(count) => {
                    data.truncate(count);
                    bytes += count as u64;
                    arrives = true;
                }
                More::End => return Ok(Some(bytes)),
                More::Foreign => return Err(Status::not_found("it is no part of the image")),
                // It may have become complete in this moment: one more look then.
                More::Waiting | More::Absent if !arrives => {
                    return Err(Status::aborted("the image no longer arrives there"));
                }
                More::Waiting | More::Absent => {
                    data.clear();
                    arrives = self.arrives();
                }
            }
            let data = Bytes::from(data);
            if chunks.blocking_send(Ok(BlobChunk { data })).is_err() {
                return Ok(None);
            }
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

#[cfg(test)]
mod tests {
    use pontoon_fuzz::fuzz;
    use prost::Message;
    use tonic::Code;

    use super::*;

    #[test]
    fn fuzz_what_peers_ask_and_answer() {
        let (image, blob) = (
            format!("sha256:{}", "0a".repeat(32)),
            format!("sha256:{}", "ff".repeat(32)),
        );
        let request = FetchBlobRequest {
            image,
            blob,
            offset: 1 << 40,
        };
        fuzz("request of a peer", &[&request.encode_to_vec()], |input| {
            let Ok(request) = FetchBlobRequest::decode(input) else {
                return;
            };
            match wanted(&request) {
                Ok((image, blob, _)) => {
                    assert_eq!(
                        (image.to_string(), blob.to_string()),
                        (request.image, request.blob)
                    );
                }
                Err(refused) => assert_eq!(refused.code(), Code::InvalidArgument),
            }
        });
        let chunk = BlobChunk {
            data: Bytes::from_static(b"some of a layer"),
        };
        fuzz("chunk of a peer", &[&chunk.encode_to_vec()], |input| {
            if let Ok(chunk) = BlobChunk::decode(input) {
                assert!(chunk.data.len() <= input.len());
            }
        });
    }
}
