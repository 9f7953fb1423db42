//! Registries on the wire: transfers as streams of what there is to show, with the result last.

use std::sync::Arc;

use futures_util::StreamExt;
use pontoon_proto::v1::{PullImageRequest, PullImageResponse, PushImageRequest, PushImageResponse};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Response;

use super::{Answer, BoxStream, status};
use crate::Engine;

pub(super) fn pull(engine: &Arc<Engine>, request: PullImageRequest) -> Answer<BoxStream<PullImageResponse>> {
    let events = UnboundedReceiverStream::new(engine.pull_image(request));
    let events = events.map(|event| {
        event
            .map(|event| PullImageResponse { event: Some(event) })
            .map_err(|error| status(&error))
    });
    Ok(Response::new(Box::pin(events)))
}

pub(super) fn push(engine: &Arc<Engine>, request: PushImageRequest) -> Answer<BoxStream<PushImageResponse>> {
    let events = UnboundedReceiverStream::new(engine.push_image(request));
    let events = events.map(|event| {
        event
            .map(|event| PushImageResponse { event: Some(event) })
            .map_err(|error| status(&error))
    });
    Ok(Response::new(Box::pin(events)))
}
