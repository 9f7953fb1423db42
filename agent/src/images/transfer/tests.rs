//! Peers that stall, drip, wait themselves, break off or lie, in the middle of a layer: what is made of it, and where the next one goes on.

use std::collections::BTreeMap;
use std::sync::Mutex;

use pontoon_proto::v1::peers_server::{Peers, PeersServer};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint as Address, Server};
use tonic::{Request, Response};

use super::*;

/// So short that a test need not wait long for what never comes.
const SHORT: Pace = Pace {
    silence: Duration::from_millis(300),
    window: Duration::from_millis(500),
    least: 64 << 10,
};
/// Between two signs of life.
const TICK: Duration = Duration::from_millis(5);

/// What a peer does when it is asked for the layer.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Gives,
    /// Does not even answer.
    Mute,
    /// Gives so much, then nothing, and keeps the stream.
    Stalls(usize),
    /// A byte at a time.
    Drips,
    /// Says again and again that it waits itself.
    Waits,
    /// Says so a few times, then gives.
    WaitsThenGives,
    /// Gives so much, then it no longer arrives there.
    Aborts(usize),
    /// Gives so much, and fails.
    Breaks(usize),
    /// Gives something else of the same size.
    Lies,
}

struct Fake {
    blobs: BTreeMap<Digest, Vec<u8>>,
    layer: Digest,
    manner: Manner,
    /// From where on the layer was asked for.
    offsets: Arc<Mutex<Vec<u64>>>,
}

type Sink = mpsc::Sender<Result<BlobChunk, Status>>;

async fn give(sink: &Sink, data: &[u8]) -> bool {
    let data = Bytes::copy_from_slice(data);
    sink.send(Ok(BlobChunk { data })).await.is_ok()
}

async fn answer(sink: Sink, rest: Vec<u8>, manner: Manner) {
    match manner {
        Manner::Gives | Manner::Mute => drop(give(&sink, &rest).await),
        Manner::Lies => drop(give(&sink, &vec![7; rest.len()]).await),
        Manner::Stalls(count) => {
            give(&sink, &rest[..count]).await;
            sink.closed().await;
        }
        Manner::Drips => {
            for byte in rest.chunks(1) {
                if !give(&sink, byte).await {
                    return;
                }
                tokio::time::sleep(TICK).await;
            }
        }
        Manner::Waits => {
            while give(&sink, &[]).await {
                tokio::time::sleep(TICK).await;
            }
        }
        Manner::WaitsThenGives => {
            for _ in 0..10 {
                give(&sink, &[]).await;
            }
            give(&sink, &rest).await;
        }
        Manner::Aborts(count) => {
            give(&sink, &rest[..count]).await;
            let _ = sink.send(Err(Status::aborted("no longer arrives"))).await;
        }
        Manner::Breaks(count) => {
            give(&sink, &rest[..count]).await;
            let _ = sink.send(Err(Status::data_loss("read: broken disk"))).await;
        }
    }
}

#[tonic::async_trait]
impl Peers for Fake {
    type FetchBlobStream = ReceiverStream<Result<BlobChunk, Status>>;

    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        let FetchBlobRequest { blob, offset, .. } = request.into_inner();
        let blob: Digest = blob.parse().unwrap();
        let is_layer = blob == self.layer;
        let manner = if is_layer { self.manner } else { Manner::Gives };
        if is_layer {
            self.offsets.lock().unwrap().push(offset);
        }
        if let Manner::Mute = manner {
            std::future::pending::<()>().await;
        }
        let rest = self.blobs[&blob][usize::try_from(offset).unwrap()..].to_vec();
        let (sink, stream) = mpsc::channel(1);
        tokio::spawn(answer(sink, rest, manner));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// An archive of one file.
fn archive(content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, "data");
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\0");
    put(263, "00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

struct Bed {
    _folder: tempfile::TempDir,
    store: Arc<ImageStore>,
    blobs: BTreeMap<Digest, Vec<u8>>,
    pinned: Digest,
    layer: Digest,
    size: usize,
    reference: Reference,
}

impl Bed {
    fn new() -> Self {
        let content: Vec<u8> = (0..300_000u32).map(|number| (number % 251) as u8).collect();
        let layer = archive(&content);
        let digest = Digest::of(&layer);
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},
            "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{}}}]}}"#,
            Digest::of(config.as_bytes()),
            config.len(),
            layer.len()
        );
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&folder.path().join("image")).unwrap();
        let (pinned, size) = (Digest::of(manifest.as_bytes()), layer.len());
        let blobs = [manifest.into_bytes(), config.into_bytes(), layer];
        Self {
            _folder: folder,
            store: Arc::new(store),
            blobs: blobs.map(|blob| (Digest::of(&blob), blob)).into(),
            pinned,
            layer: digest,
            size,
            reference: Reference::parse("app:1").unwrap(),
        }
    }

    /// Brings the image from a peer of this manner; also from where on the layer was asked for.
    async fn bring(&self, manner: Manner, pace: Pace) -> (Result<(), Failure>, Vec<u64>) {
        let offsets = Arc::new(Mutex::new(Vec::new()));
        let fake = Fake {
            blobs: self.blobs.clone(),
            layer: self.layer,
            manner,
            offsets: offsets.clone(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tokio::spawn(
            Server::builder()
                .add_service(PeersServer::new(fake))
                .serve_with_incoming(incoming),
        );
        let channel = Address::from_shared(address).unwrap().connect().await.unwrap();
        let source = Source::new(channel, self.pinned, pace);
        let brought = source.bring(&self.store, &self.reference).await;
        server.abort();
        let offsets = offsets.lock().unwrap().clone();
        (brought, offsets)
    }

    async fn fails(&self, manner: Manner) -> Failure {
        let (brought, _) = self.bring(manner, SHORT).await;
        assert!(self.store.get("app:1").is_err() && self.store.pinnable().is_empty());
        brought.expect_err("it is brought")
    }

    fn partial(&self) -> u64 {
        Ingest::begin(&self.store).unwrap().partial(&self.layer)
    }

    fn is_here(&self) -> bool {
        let name = self.reference.with_digest(self.pinned).to_string();
        self.store.get(&name).is_ok()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stalls_is_left_and_the_next_one_goes_on_there() {
    let bed = Bed::new();
    let failure = bed.fails(Manner::Mute).await;
    assert_eq!(failure.reason, "it sent nothing for 300ms");
    assert!(!failure.is_passing);
    let failure = bed.fails(Manner::Stalls(100_000)).await;
    assert_eq!(failure.reason, "it sent nothing for 300ms");
    assert!(!failure.is_passing && failure.any, "{failure:?}");
    assert_eq!(bed.partial(), 100_000);
    let (brought, offsets) = bed.bring(Manner::Gives, PACE).await;
    assert!(brought.is_ok(), "{brought:?}");
    assert_eq!(offsets, [100_000]);
    assert!(bed.is_here() && bed.partial() == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_drips_is_left() {
    let bed = Bed::new();
    let failure = bed.fails(Manner::Drips).await;
    let reason = &failure.reason;
    assert!(
        reason.starts_with("it sent ") && reason.ends_with(" bytes in 500ms"),
        "{reason}"
    );
    assert!(!failure.is_passing && failure.any, "{failure:?}");
    assert!(bed.partial() > 0, "what came is thrown away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_waits_itself_is_not_to_blame() {
    let bed = Bed::new();
    let failure = bed.fails(Manner::Waits).await;
    assert_eq!(failure.reason, "it sent 0 bytes in 500ms");
    assert!(failure.is_passing, "{failure:?}");
    let failure = bed.fails(Manner::Aborts(70_000)).await;
    assert!(failure.is_passing && failure.any, "{failure:?}");
    assert_eq!(
        (failure.reason.as_str(), bed.partial()),
        ("no longer arrives", 70_000)
    );
    let (brought, offsets) = bed.bring(Manner::WaitsThenGives, PACE).await;
    assert!(brought.is_ok(), "{brought:?}");
    assert_eq!(offsets, [70_000]);
    assert!(bed.is_here());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_breaks_or_lies_is_to_blame() {
    let bed = Bed::new();
    let failure = bed.fails(Manner::Breaks(50_000)).await;
    assert!(
        !failure.is_passing && failure.reason.contains("broken disk"),
        "{failure:?}"
    );
    assert_eq!(bed.partial(), 50_000);
    // What it gives after what was there is wrong, and so is all that it gives from the beginning.
    let (brought, offsets) = bed.bring(Manner::Lies, PACE).await;
    let failure = brought.expect_err("a lie is taken");
    assert!(
        !failure.is_passing && failure.reason.contains("what arrived is"),
        "{failure:?}"
    );
    assert_eq!((offsets, bed.partial()), (vec![50_000, 0], 0));
    assert!(!bed.is_here());
    let (brought, _) = bed.bring(Manner::Gives, PACE).await;
    assert!(
        brought.is_ok() && bed.is_here() && bed.size > 300_000,
        "{brought:?}"
    );
}
