//! Volumes on the wire.

use std::sync::Arc;

use pontoon_proto::v1::{ListVolumesRequest, ListVolumesResponse};

use super::{Answer, answer};
use crate::Engine;

pub(super) fn list(engine: &Arc<Engine>, request: &ListVolumesRequest) -> Answer<ListVolumesResponse> {
    let volumes = engine.list_volumes(&request.filters);
    answer(volumes.map(|volumes| ListVolumesResponse {
        volumes,
        warnings: Vec::new(),
    }))
}
