//! Containers on the wire.

use std::sync::Arc;

use pontoon_proto::v1::{ListContainersRequest, ListContainersResponse};

use super::{Answer, answer};
use crate::Engine;

pub(super) async fn list(
    engine: &Arc<Engine>,
    request: ListContainersRequest,
) -> Answer<ListContainersResponse> {
    let containers = engine.list(&request).await;
    answer(containers.map(|containers| ListContainersResponse { containers }))
}
