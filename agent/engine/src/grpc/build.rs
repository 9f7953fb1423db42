//! Builds on the wire: the first message starts one, the others are what the client lends it.

use std::sync::Arc;

use pontoon_proto::v1::{BuildRequest, BuildResponse, build_request};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::{Answer, BoxStream};
use crate::Engine;

/// Requests that wait for the build.
const REQUESTS: usize = 8;

pub(super) async fn build(
    engine: &Arc<Engine>,
    mut requests: Streaming<BuildRequest>,
) -> Answer<BoxStream<BuildResponse>> {
    let first = requests.message().await?.and_then(|message| message.request);
    let Some(build_request::Request::Start(start)) = first else {
        return Err(Status::invalid_argument(
            "the first message of a build must start it",
        ));
    };
    let (sender, receiver) = mpsc::channel(REQUESTS);
    tokio::spawn(async move {
        while let Ok(Some(message)) = requests.message().await {
            if sender.send(message).await.is_err() {
                return;
            }
        }
    });
    let events = ReceiverStream::new(engine.build(start, receiver));
    Ok(Response::new(Box::pin(events.map(Ok))))
}
