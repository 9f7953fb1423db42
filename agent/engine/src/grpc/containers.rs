//! Containers on the wire.

use std::sync::Arc;

use futures_util::StreamExt;
use pontoon_proto::v1::{
    ContainerStatsRequest, ContainerStatsResponse, ListContainersRequest, ListContainersResponse,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Response;

use super::{Answer, BoxStream, answer, status};
use crate::Engine;

pub(super) async fn list(
    engine: &Arc<Engine>,
    request: ListContainersRequest,
) -> Answer<ListContainersResponse> {
    let containers = engine.list(&request).await;
    answer(containers.map(|containers| ListContainersResponse { containers }))
}

pub(super) fn stats(
    engine: &Arc<Engine>,
    request: &ContainerStatsRequest,
) -> Answer<BoxStream<ContainerStatsResponse>> {
    let samples = engine.stats(request).map_err(|error| status(&error))?;
    let samples = ReceiverStream::new(samples).map(|sample| sample.map_err(|error| status(&error)));
    Ok(Response::new(Box::pin(samples)))
}
