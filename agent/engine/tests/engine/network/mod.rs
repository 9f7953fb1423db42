//! Networks: files in /etc, bridges, published ports, names. Here is what the cases share.

mod containers;
mod networks;
mod ports;

use pontoon_proto::v1::{
    ConnectNetworkRequest, ContainerNetwork, CreateContainerRequest, CreateNetworkRequest,
};

use crate::bed::{Bed, with};

pub fn cases() -> Vec<(&'static str, crate::Case)> {
    [containers::cases(), networks::cases(), ports::cases()].concat()
}

fn bridged(request: CreateContainerRequest) -> CreateContainerRequest {
    with(request, |_, host| host.network_mode.clear())
}

async fn make(bed: &Bed, name: &str, change: impl FnOnce(&mut CreateNetworkRequest)) -> String {
    let mut request = CreateNetworkRequest {
        name: name.into(),
        ..Default::default()
    };
    change(&mut request);
    let created = bed.engine.create_network(request).await;
    created.map_err(|e| e.chain()).unwrap().id
}

fn named(name: &str, network: &str, request: CreateContainerRequest) -> CreateContainerRequest {
    let mut request = with(request, |_, host| host.network_mode = network.into());
    request.name = name.into();
    request
}

fn connect(
    network: &str,
    container: &str,
    change: impl FnOnce(&mut ContainerNetwork),
) -> ConnectNetworkRequest {
    let mut endpoint = ContainerNetwork::default();
    change(&mut endpoint);
    ConnectNetworkRequest {
        network: network.into(),
        container: container.into(),
        endpoint: Some(endpoint),
    }
}

/// What a command prints in a running container.
async fn inside(bed: &Bed, id: &str, script: &str) -> String {
    bed.exec(id, &["sh", "-c", script]).await
}
