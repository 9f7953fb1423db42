//! The dispatcher's calls about containers that are no tasks in attachable networks. The certificate says which node calls, and a node asks for
//! itself only. What is decided is in `pontoon_reconcile::attachment` and its allocator; here is who is told what, and when.

use std::sync::Arc;

use pontoon_proto::v1::{
    AttachNetworkRequest, AttachNetworkResponse, ContainerAttachment, DetachNetworkRequest,
    FindNetworkRequest, FindNetworkResponse, Network,
};
use pontoon_reconcile::attachment::{self, Refusal};
use pontoon_store::Snapshot;
use tonic::Status;

use crate::core::Core;
use crate::leader::Leading;
use crate::status;

fn refused(refusal: Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::NoNetwork(_) | Refusal::NoNode(_) => Status::not_found(text),
        Refusal::NotAttachable(_) => Status::permission_denied(text),
        Refusal::TooMany { .. } => Status::resource_exhausted(text),
        Refusal::Invalid(_) => Status::invalid_argument(text),
    }
}

/// The network that a node's user names.
pub(super) fn find(snapshot: &Snapshot, request: &FindNetworkRequest) -> Result<FindNetworkResponse, Status> {
    let network = snapshot
        .find_network(&request.target)
        .map_err(status::from_store)?;
    attachment::check_attachable(network).map_err(refused)?;
    Ok(FindNetworkResponse {
        network: Some(Network::clone(network)),
    })
}

fn held<'a>(
    snapshot: &'a Snapshot,
    node_id: &str,
    (container, network): (&str, &str),
) -> Option<&'a ContainerAttachment> {
    let mut containers = snapshot.node(node_id)?.containers.iter();
    containers.find(|held| held.container_id == container && held.network_id == network)
}

/// Asks for an address and waits until it is given, which is mostly in the same entry.
pub(super) async fn attach(
    core: &Arc<Core>,
    leading: &Leading,
    node_id: &str,
    request: AttachNetworkRequest,
) -> Result<AttachNetworkResponse, Status> {
    let wish = request
        .wish
        .ok_or_else(|| Status::invalid_argument("the attachment is missing"))?;
    let (node, container, network) = (
        node_id.to_owned(),
        wish.container_id.clone(),
        wish.network_id.clone(),
    );
    let change = move |tx: &mut pontoon_store::Tx, _: &crate::writer::Scope| {
        attachment::attach(tx, &node, &wish).map_err(refused)
    };
    leading.writer.write(change).await?;
    let mut versions = core.replica.versions();
    let given = loop {
        versions.borrow_and_update();
        let snapshot = core.snapshot();
        let Some(found) = held(&snapshot, node_id, (&container, &network)) else {
            return Err(Status::aborted("the attachment was taken back meanwhile"));
        };
        if !found.addr.is_empty() || !found.allocation_error.is_empty() {
            break found.clone();
        }
        tokio::select! {
            biased;
            () = leading.stop.cancelled() => return Err(status::ask_leader(core.leader().as_ref())),
            changed = versions.changed() => {
                changed.map_err(|_| status::ask_leader(core.leader().as_ref()))?;
            }
        }
    };
    if given.addr.is_empty() {
        let request = DetachNetworkRequest {
            network_id: network,
            container_id: container,
        };
        detach(leading, node_id, request).await?;
        return Err(Status::resource_exhausted(given.allocation_error));
    }
    Ok(AttachNetworkResponse {
        attachment: Some(given),
    })
}

/// Gives an address back.
pub(super) async fn detach(
    leading: &Leading,
    node_id: &str,
    request: DetachNetworkRequest,
) -> Result<(), Status> {
    let node = node_id.to_owned();
    let change = move |tx: &mut pontoon_store::Tx, _: &crate::writer::Scope| {
        attachment::detach(tx, &node, &request.container_id, &request.network_id);
        Ok(())
    };
    leading.writer.write(change).await
}
