//! Events on the wire.

use std::sync::Arc;

use futures_util::StreamExt;
use pontoon_proto::v1::{Event, EventsRequest};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Response;

use super::{Answer, BoxStream, status};
use crate::Engine;

pub(super) fn events(engine: &Arc<Engine>, request: &EventsRequest) -> Answer<BoxStream<Event>> {
    let events = engine.watch_events(request).map_err(|error| status(&error))?;
    Ok(Response::new(Box::pin(ReceiverStream::new(events).map(Ok))))
}
