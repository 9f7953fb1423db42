//! Networks on the wire.

use std::sync::Arc;

use pontoon_proto::v1::{ListNetworksRequest, ListNetworksResponse, NetworkRemoved};

use super::{Answer, answer};
use crate::Engine;

pub(super) async fn list(
    engine: &Arc<Engine>,
    request: &ListNetworksRequest,
) -> Answer<ListNetworksResponse> {
    let networks = engine.list_networks(&request.filters).await;
    answer(networks.map(|networks| ListNetworksResponse { networks }))
}

pub(super) async fn remove(engine: &Arc<Engine>, target: &str) -> Answer<NetworkRemoved> {
    answer(
        engine
            .remove_network(target)
            .await
            .map(|id| NetworkRemoved { id }),
    )
}
