//! An image from one peer: manifest and configuration first, then the layers that are lacking, some at a time. What arrives before it
//! breaks off is kept, and the next peer goes on from there. Digests are checked here: the peer is not trusted with content.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use pontoon_identity::Endpoint;
use pontoon_image::oci::{Descriptor, Document};
use pontoon_image::{BlobWriter, Digest, Ingest, Ingested, Limits, Platform, Reference, Transfer};
use pontoon_proto::v1::peers_client::PeersClient;
use pontoon_proto::v1::{FetchBlobRequest, ImagePeer};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::{Images, blocking};
use crate::error::chain;

/// A peer that sends nothing for so long has failed.
const PROGRESS: Duration = Duration::from_secs(10);
/// So much must arrive in each window, that a peer which trickles does not hold up a task for ever.
const LEAST: u64 = 64 << 10;
/// See [`LEAST`].
const WINDOW: Duration = Duration::from_secs(30);
/// Layers that are fetched at the same time.
const AT_ONCE: usize = 3;
/// Chunks that wait to be written.
const WAITING: usize = 8;

/// One image of one peer.
#[derive(Clone)]
struct Source {
    client: PeersClient<Channel>,
    image: Digest,
    /// Blobs and bytes that came over the wire.
    blobs: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

/// Brings the image from this peer, under the name `name@digest`.
///
/// # Errors
/// What went wrong, for logs and for a task's error.
pub(super) async fn from_peer(
    images: &Images,
    peer: &ImagePeer,
    reference: &Reference,
    digest: &Digest,
) -> Result<(), String> {
    if peer.addr.is_empty() {
        return Err(format!("node {} has no cluster port", peer.node_id));
    }
    let endpoint = Endpoint::node(&peer.addr, &peer.node_id);
    let channel = pontoon_identity::connect(&images.identity, &endpoint)
        .await
        .map_err(|error| chain(&error))?;
    let source = Source {
        client: PeersClient::new(channel),
        image: *digest,
        blobs: Arc::default(),
        bytes: Arc::default(),
    };
    let pinned = source.document(digest).await?;
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
            (source.document(&chosen.digest).await?, Some(pinned))
        }
    };
    let Document::Manifest(parsed) = parse(&manifest)? else {
        return Err("an index within an index is not supported".to_owned());
    };
    let configuration = source.document(&parsed.config.digest).await?;
    let store = images.engine.images().clone();
    let (ingest, image) = blocking(move || {
        let ingest = Ingest::begin(&store).map_err(|error| chain(&error))?;
        let image = ingest
            .image(&manifest, &configuration)
            .map_err(|error| chain(&error))?;
        Ok((Arc::new(ingest), image))
    })
    .await?;
    let layers: Vec<Descriptor> = image.layers.iter().map(|layer| layer.blob.clone()).collect();
    stream::iter(layers.into_iter().map(|layer| source.layer(&ingest, layer)))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    let ingest = Arc::into_inner(ingest).ok_or("the image is still being written")?;
    let ingested = Ingested {
        image,
        index,
        references: vec![reference.with_digest(*digest)],
    };
    blocking(move || {
        ingest
            .commit(vec![ingested], &mut |_| {})
            .map_err(|error| chain(&error))
    })
    .await?;
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
    /// A small blob, whole and checked.
    async fn document(&self, digest: &Digest) -> Result<Vec<u8>, String> {
        let limit = Limits::default().json_bytes;
        let mut text = Vec::new();
        let mut chunks = self.open(digest, 0).await?;
        while let Some(chunk) = next(&mut chunks).await? {
            text.extend_from_slice(&chunk);
            if text.len() as u64 > limit {
                return Err(format!("{digest} is larger than a manifest may be"));
            }
        }
        self.count(text.len());
        if Digest::of(&text) != *digest {
            return Err(format!("{digest}: what arrived is {}", Digest::of(&text)));
        }
        Ok(text)
    }

    /// A layer, as far as it is lacking. One that goes on from what another source has left, and comes out damaged, is fetched once more
    /// from its beginning: the damage may have been there before.
    fn layer(
        &self,
        ingest: &Arc<Ingest>,
        layer: Descriptor,
    ) -> impl Future<Output = Result<(), String>> + Send + use<> {
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
                    finished => return finished.map_err(|error| chain(&error)),
                }
            }
        }
    }

    /// Receives and writes what a blob's writer lacks.
    async fn write(&self, digest: &Digest, writer: Box<BlobWriter>) -> Result<Box<BlobWriter>, String> {
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

    async fn receive(&self, digest: &Digest, offset: u64, sink: mpsc::Sender<Bytes>) -> Result<(), String> {
        let mut chunks = self.open(digest, offset).await?;
        let (mut since, mut bytes) = (Instant::now(), 0);
        while let Some(chunk) = next(&mut chunks).await? {
            bytes += chunk.len() as u64;
            self.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if sink.send(chunk).await.is_err() {
                return Err("it could not be written".to_owned());
            }
            if since.elapsed() >= WINDOW {
                if bytes < LEAST {
                    return Err(format!("it sent {bytes} bytes in {} seconds", WINDOW.as_secs()));
                }
                (since, bytes) = (Instant::now(), 0);
            }
        }
        self.blobs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn open(&self, digest: &Digest, offset: u64) -> Result<Chunks, String> {
        let request = FetchBlobRequest {
            image: self.image.to_string(),
            blob: digest.to_string(),
            offset,
        };
        let mut client = self.client.clone();
        match tokio::time::timeout(PROGRESS, client.fetch_blob(request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err(silent()),
        }
    }

    fn count(&self, bytes: usize) {
        self.blobs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

type Chunks = tonic::Streaming<pontoon_proto::v1::BlobChunk>;

async fn next(chunks: &mut Chunks) -> Result<Option<Bytes>, String> {
    match tokio::time::timeout(PROGRESS, chunks.message()).await {
        Ok(Ok(chunk)) => Ok(chunk.map(|chunk| chunk.data)),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(silent()),
    }
}

fn silent() -> String {
    format!("it sent nothing for {} seconds", PROGRESS.as_secs())
}
