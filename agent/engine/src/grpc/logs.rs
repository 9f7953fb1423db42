//! Logs on the wire.

use std::sync::Arc;

use futures_util::StreamExt;
use pontoon_proto::v1::{LogEntry, LogsRequest};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Response;

use super::{Answer, BoxStream, status};
use crate::Engine;

pub(super) fn logs(engine: &Arc<Engine>, request: &LogsRequest) -> Answer<BoxStream<LogEntry>> {
    let entries = engine.logs(request).map_err(|error| status(&error))?;
    let entries = ReceiverStream::new(entries).map(|entry| entry.map_err(|error| status(&error)));
    Ok(Response::new(Box::pin(entries)))
}
