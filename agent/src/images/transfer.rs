//! An image from one peer: manifest and configuration first, then the layers that are lacking, some at a time; the peer may be getting them
//! itself, and from then on others may have them from here. What arrives before it breaks off is kept, and the next peer goes on from
//! there. Digests are checked here: the peer is not trusted with content.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use pontoon_identity::Endpoint;
use pontoon_image::oci::{Descriptor, Document};
use pontoon_image::{
    BlobWriter, Digest, ImageStore, Ingest, Ingested, Limits, Platform, Reference, Transfer,
};
use pontoon_proto::v1::peers_client::PeersClient;
use pontoon_proto::v1::{BlobChunk, FetchBlobRequest, ImagePeer};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{Images, blocking};
use crate::error::chain;

/// What a peer must bring to be waited for.
const PACE: Pace = Pace {
    silence: Duration::from_secs(10),
    window: Duration::from_secs(30),
    least: 64 << 10,
};
/// Layers that are fetched at the same time.
const AT_ONCE: usize = 3;
/// Chunks that wait to be written.
const WAITING: usize = 8;

/// How fast a peer must be.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// One that says nothing for so long, not even that it waits itself, has failed.
    silence: Duration,
    /// So long is one that trickles listened to.
    window: Duration,
    /// So much must arrive in each window.
    least: u64,
}

/// Why a peer did not give an image.
#[derive(Debug)]
pub(super) struct Failure {
    /// For logs and for a task's error.
    pub(super) reason: String,
    /// The peer itself is well: what it was getting has broken off, or is slow.
    pub(super) is_passing: bool,
    /// Something has come all the same.
    pub(super) any: bool,
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self {
            reason,
            is_passing: false,
            any: false,
        }
    }
}

impl From<&str> for Failure {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self {
            is_passing: status.code() == Code::Aborted,
            ..status.message().into()
        }
    }
}

/// One image of one peer.
#[derive(Clone)]
struct Source {
    client: PeersClient<Channel>,
    image: Digest,
    pace: Pace,
    /// Blobs and bytes that came over the wire.
    blobs: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

/// Brings the image from this peer, under the name `name@digest`.
///
/// # Errors
/// What went wrong, and whether the peer is to blame.
pub(super) async fn from_peer(
    images: &Images,
    peer: &ImagePeer,
    reference: &Reference,
    digest: &Digest,
) -> Result<(), Failure> {
    if peer.addr.is_empty() {
        return Err(format!("node {} has no cluster port", peer.node_id).into());
    }
    let endpoint = Endpoint::node(&peer.addr, &peer.node_id);
    let channel = pontoon_identity::connect(&images.identity, &endpoint)
        .await
        .map_err(|error| chain(&error))?;
    let source = Source::new(channel, *digest, PACE);
    source.bring(images.engine.images(), reference).await?;
    tracing::info!(
        image = reference.familiar(),
        node = peer.node_id,
        blobs = source.blobs.load(Ordering::Relaxed),
        bytes = source.bytes.load(Ordering::Relaxed),
        "fetched an image from a node"
    );
    images.engine.tell_pulled(reference);
    Ok(())
}

fn parse(text: &[u8]) -> Result<Document, String> {
    Document::parse("", text, &Limits::default()).map_err(|error| chain(&error))
}

impl Source {
    fn new(channel: Channel, image: Digest, pace: Pace) -> Self {
        Self {
            client: PeersClient::new(channel),
            image,
            pace,
            blobs: Arc::default(),
            bytes: Arc::default(),
        }
    }

    /// Brings the image into a store.
    async fn bring(&self, store: &Arc<ImageStore>, reference: &Reference) -> Result<(), Failure> {
        self.bring_all(store, reference).await.map_err(|failure| Failure {
            any: self.bytes.load(Ordering::Relaxed) > 0,
            ..failure
        })
    }

    async fn bring_all(&self, store: &Arc<ImageStore>, reference: &Reference) -> Result<(), Failure> {
        let pinned = self.document(&self.image).await?;
        let (manifest, index) = match parse(&pinned)? {
            Document::Manifest(_) => (pinned, None),
            Document::Index(index) => {
                let platform = Platform::host();
                let chosen = index.select(&platform).ok_or_else(|| {
                    format!(
                        "no image for {platform} in it, only for {}",
                        index.platforms().join(", ")
                    )
                })?;
                (self.document(&chosen.digest).await?, Some(pinned))
            }
        };
        let Document::Manifest(parsed) = parse(&manifest)? else {
            return Err("an index within an index is not supported".into());
        };
        let configuration = self.document(&parsed.config.digest).await?;
        let (store, digest, whole) = (store.clone(), self.image, index.clone());
        let (ingest, image) = blocking(move || {
            let ingest = Ingest::begin(&store).map_err(|error| chain(&error))?;
            let image = ingest
                .image(&manifest, &configuration)
                .map_err(|error| chain(&error))?;
            ingest.offer(&digest, &image, whole.as_deref());
            Ok((Arc::new(ingest), image))
        })
        .await?;
        let layers: Vec<Descriptor> = image.layers.iter().map(|layer| layer.blob.clone()).collect();
        stream::iter(layers.into_iter().map(|layer| self.layer(&ingest, layer)))
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        let ingest = Arc::into_inner(ingest).ok_or("the image is still being written")?;
        let ingested = Ingested {
            image,
            index,
            references: vec![reference.with_digest(self.image)],
        };
        let committed = move || {
            let committed = ingest.commit(vec![ingested], &mut |_| {});
            committed.map(drop).map_err(|error| chain(&error))
        };
        Ok(blocking(committed).await?)
    }

    /// A small blob, whole and checked.
    async fn document(&self, digest: &Digest) -> Result<Vec<u8>, Failure> {
        let limit = Limits::default().json_bytes;
        let mut text = Vec::new();
        let mut chunks = self.open(digest, 0).await?;
        while let Some(chunk) = chunks.next().await? {
            text.extend_from_slice(&chunk);
            if text.len() as u64 > limit {
                return Err(format!("{digest} is larger than a manifest may be").into());
            }
        }
        self.count(text.len());
        if Digest::of(&text) != *digest {
            return Err(format!("{digest}: what arrived is {}", Digest::of(&text)).into());
        }
        Ok(text)
    }

    /// A layer, as far as it is lacking. One that goes on from what another source has left, and comes out damaged, is fetched once more
    /// from its beginning: the damage may have been there before.
    fn layer(
        &self,
        ingest: &Arc<Ingest>,
        layer: Descriptor,
    ) -> impl Future<Output = Result<(), Failure>> + Send + use<> {
        let (source, ingest) = (self.clone(), ingest.clone());
        async move {
            let mut damaged_before = false;
            loop {
                let (writing, blob) = (ingest.clone(), layer.clone());
                let begun = blocking(move || writing.blob(&blob).map_err(|error| chain(&error))).await?;
                let Transfer::Needed(writer) = begun else {
                    return Ok(());
                };
                let resumed = writer.offset() > 0;
                let writer = source.write(&layer.digest, writer).await?;
                let finishing = ingest.clone();
                let finished = blocking(move || Ok(finishing.finish(writer))).await?;
                match finished {
                    Err(pontoon_image::Error::Corrupt { .. }) if resumed && !damaged_before => {
                        damaged_before = true;
                    }
                    finished => return Ok(finished.map_err(|error| chain(&error))?),
                }
            }
        }
    }

    /// Receives and writes what a blob's writer lacks.
    async fn write(&self, digest: &Digest, writer: Box<BlobWriter>) -> Result<Box<BlobWriter>, Failure> {
        let offset = writer.offset();
        let (chunks, mut waiting) = mpsc::channel::<Bytes>(WAITING);
        let written = tokio::task::spawn_blocking(move || {
            let mut writer = writer;
            while let Some(chunk) = waiting.blocking_recv() {
                writer.write(&chunk).map_err(|error| chain(&error))?;
            }
            Ok::<_, String>(writer)
        });
        let received = self.receive(digest, offset, chunks).await;
        // The writer's error comes first: the receiver has stopped because of it.
        let writer = written
            .await
            .unwrap_or_else(|_| Err("the daemon stops".to_owned()))?;
        received.map(|()| writer)
    }

    async fn receive(&self, digest: &Digest, offset: u64, sink: mpsc::Sender<Bytes>) -> Result<(), Failure> {
        let mut chunks = self.open(digest, offset).await?;
        while let Some(chunk) = chunks.next().await? {
            self.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if sink.send(chunk).await.is_err() {
                return Err("it could not be written".into());
            }
        }
        self.blobs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn open(&self, digest: &Digest, offset: u64) -> Result<Chunks, Failure> {
        let request = FetchBlobRequest {
            image: self.image.to_string(),
            blob: digest.to_string(),
            offset,
        };
        let mut client = self.client.clone();
        let opened = tokio::time::timeout(self.pace.silence, client.fetch_blob(request)).await;
        let response = opened.map_err(|_| silent(&self.pace))??;
        Ok(Chunks {
            stream: response.into_inner(),
            pace: self.pace,
            since: Instant::now(),
            bytes: 0,
            waits: false,
        })
    }

    fn count(&self, bytes: usize) {
        self.blobs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A blob as it comes.
struct Chunks {
    stream: tonic::Streaming<BlobChunk>,
    pace: Pace,
    /// When this window began, and what has come in it.
    since: Instant,
    bytes: u64,
    /// The peer has said that it waits itself.
    waits: bool,
}

impl Chunks {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let chunk = tokio::time::timeout(self.pace.silence, self.stream.message()).await;
            let Some(chunk) = chunk.map_err(|_| silent(&self.pace))?? else {
                return Ok(None);
            };
            self.bytes += chunk.data.len() as u64;
            self.waits |= chunk.data.is_empty();
            if self.since.elapsed() >= self.pace.window {
                self.turn()?;
            }
            if !chunk.data.is_empty() {
                return Ok(Some(chunk.data));
            }
        }
    }

    /// Ends a window, and the transfer if too little came in it.
    fn turn(&mut self) -> Result<(), Failure> {
        if self.bytes < self.pace.least {
            let reason = format!("it sent {} bytes in {:?}", self.bytes, self.pace.window);
            return Err(Failure {
                is_passing: self.waits,
                ..reason.into()
            });
        }
        (self.since, self.bytes, self.waits) = (Instant::now(), 0, false);
        Ok(())
    }
}

fn silent(pace: &Pace) -> String {
    format!("it sent nothing for {:?}", pace.silence)
}

#[cfg(test)]
mod tests;
