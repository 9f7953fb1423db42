//! Overlay networks.

use pontoon_proto::v1::{
    CreateClusterNetworkRequest, GetRequest, ListClusterNetworksResponse, ListRequest, Network, NetworkSpec,
    RemoveResponse,
};
use pontoon_reconcile::{edit, spec};
use tonic::Status;

use super::{filter, invalid, refused, vanished};
use crate::core::Core;
use crate::status;

pub(super) async fn create(core: &Core, request: CreateClusterNetworkRequest) -> Result<Network, Status> {
    let mut wish = request
        .spec
        .ok_or_else(|| Status::invalid_argument("the network's spec is missing"))?;
    if wish.driver.is_empty() {
        "overlay".clone_into(&mut wish.driver);
    }
    spec::validate_network(&wish).map_err(|problems| invalid(&problems))?;
    let create = move |tx: &mut pontoon_store::Tx, scope: &crate::writer::Scope| {
        let id = scope.new_id();
        edit::create_network(tx, id.clone(), wish).map_err(refused)?;
        Ok(id)
    };
    let id = core.writer()?.write(create).await?;
    core.snapshot()
        .network(&id)
        .map(|network| Network::clone(network))
        .ok_or_else(vanished)
}

pub(super) async fn list(core: &Core, request: ListRequest) -> Result<ListClusterNetworksResponse, Status> {
    let snapshot = core.read().await?;
    let fits = |network: &Network| {
        let annotations = network
            .spec
            .as_ref()
            .and_then(|spec: &NetworkSpec| spec.annotations.as_ref());
        let name = annotations.map_or("", |annotations| annotations.name.as_str());
        filter::matches(&request, &network.id, name, annotations)
    };
    let networks = snapshot.networks().filter(|network| fits(network));
    Ok(ListClusterNetworksResponse {
        networks: networks.map(|network| Network::clone(network)).collect(),
    })
}

pub(super) async fn get(core: &Core, request: GetRequest) -> Result<Network, Status> {
    let snapshot = core.read().await?;
    let network = snapshot
        .find_network(&request.target)
        .map_err(status::from_store)?;
    Ok(Network::clone(network))
}

pub(super) async fn remove(core: &Core, request: GetRequest) -> Result<RemoveResponse, Status> {
    let remove = move |tx: &mut pontoon_store::Tx, _: &crate::writer::Scope| {
        let id = tx
            .find_network(&request.target)
            .map_err(status::from_store)?
            .id
            .clone();
        edit::remove_network(tx, &id).map_err(refused)?;
        Ok(RemoveResponse { id })
    };
    core.writer()?.write(remove).await
}
