//! Loss, repetition and disorder of the log's messages: what streams hide between their bytes, but not across
//! reconnects. A layer in front of a manager's cluster port that takes the batches of `Raft/Messages` apart.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use pontoon_proto::v1::RaftBatch;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::rng::Rng;

const MESSAGES: &str = "/pontoon.v1.Raft/Messages";
/// A gRPC message's flag and length.
const HEADER: usize = 5;

/// How often, in thousandths, something happens to a message; shared by all managers.
#[derive(Clone)]
pub struct Disorder {
    rng: Rng,
    per_mille: Arc<AtomicU64>,
}

impl Disorder {
    /// None at first.
    pub fn new(rng: &Rng) -> Self {
        Self {
            rng: rng.clone(),
            per_mille: Arc::default(),
        }
    }

    /// Sets how often.
    pub fn set(&self, per_mille: u64) {
        self.per_mille.store(per_mille, Ordering::Relaxed);
    }

    /// Does to a batch what the network might; `held` are messages that come later than they should.
    fn disturb(&self, batch: RaftBatch, held: &mut Vec<Bytes>) -> RaftBatch {
        let rate = self.per_mille.load(Ordering::Relaxed);
        if rate == 0 && held.is_empty() {
            return batch;
        }
        let mut messages = Vec::new();
        for message in batch.messages {
            if self.rng.chance(rate) {
                match self.rng.below(3) {
                    0 => continue,
                    1 => held.push(message.clone()),
                    _ => {
                        held.push(message);
                        continue;
                    }
                }
            }
            messages.push(message);
        }
        if self.rng.chance(500) {
            for late in held.drain(..) {
                let at = usize::try_from(self.rng.below(messages.len() as u64 + 1)).unwrap_or(0);
                messages.insert(at, late);
            }
        }
        RaftBatch { messages, ..batch }
    }
}

impl<S> Layer<S> for Disorder {
    type Service = Disturbed<S>;

    fn layer(&self, inner: S) -> Disturbed<S> {
        Disturbed {
            inner,
            disorder: self.clone(),
        }
    }
}

/// A service behind the layer.
#[derive(Clone)]
pub struct Disturbed<S> {
    inner: S,
    disorder: Disorder,
}

impl<S> Service<Request<Body>> for Disturbed<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let request = if request.uri().path() == MESSAGES {
            request.map(|body| disturbed(body, self.disorder.clone()))
        } else {
            request
        };
        Box::pin(self.inner.call(request))
    }
}

fn disturbed(mut body: Body, disorder: Disorder) -> Body {
    let (frames, out) = mpsc::channel(1);
    tokio::spawn(async move {
        let (mut buffer, mut held) = (BytesMut::new(), Vec::new());
        while let Some(frame) = body.frame().await {
            let data = match frame.map(http_body::Frame::into_data) {
                Ok(Ok(data)) => data,
                Ok(Err(_)) => continue,
                Err(status) => {
                    // The service may be gone.
                    let _ = frames.send(Err(status)).await;
                    return;
                }
            };
            buffer.extend_from_slice(&data);
            while let Some(batch) = next_batch(&mut buffer) {
                let batch = disorder.disturb(batch, &mut held);
                let mut bytes = BytesMut::new();
                bytes.put_u8(0);
                bytes.put_u32(u32::try_from(batch.encoded_len()).expect("batches are small"));
                bytes.extend_from_slice(&batch.encode_to_vec());
                if frames
                    .send(Ok(http_body::Frame::data(bytes.freeze())))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
    });
    Body::new(StreamBody::new(ReceiverStream::new(out)))
}

fn next_batch(buffer: &mut BytesMut) -> Option<RaftBatch> {
    let length = u32::from_be_bytes(buffer.get(1..HEADER)?.try_into().ok()?) as usize;
    if buffer.len() < HEADER + length {
        return None;
    }
    buffer.advance(HEADER);
    let message = buffer.split_to(length);
    Some(RaftBatch::decode(message.freeze()).expect("managers send sound batches"))
}
