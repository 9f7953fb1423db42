//! The dispatcher's calls about images: who may have one, and where it is to be had.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pontoon_proto::v1::find_image_response::Answer as Told;
use pontoon_proto::v1::{
    FetchFromRegistry, FetchLater, FetchNowhere, FindImageRequest, FindImageResponse, ImagePeer, ImagePeers,
    NodeState, TaskState,
};
use pontoon_reconcile::image_of;
use pontoon_store::Snapshot;
use tokio::time::Instant;
use tonic::Status;

use super::sources::{Answer, Ask};
use crate::leader::Leading;

/// A call waits this long for others to bring an image; then the agent asks again, so that it sees the end of a reign.
const PATIENCE: Duration = Duration::from_secs(3);

/// The digest that an image's name is pinned to.
fn pinned(image: &str) -> Option<&str> {
    image.split_once('@').map(|(_, digest)| digest)
}

/// Whether a task that the node is to run has the image.
pub(crate) fn is_assigned(snapshot: &Snapshot, node_id: &str, image: &str) -> bool {
    // A removed node keeps its certificate, and for a while its tasks.
    snapshot.node(node_id).is_some()
        && snapshot.tasks_by_node(node_id).any(|task| {
            let state = task
                .status
                .as_ref()
                .map_or(TaskState::New, |status| status.state());
            task.desired_state() <= TaskState::Complete
                && !state.is_terminal()
                && image_of(snapshot, task).and_then(pinned) == Some(image)
        })
}

/// Answers an agent that needs an image. Waits a while when others are bringing it.
pub(crate) async fn find(
    snapshot: impl Fn() -> Arc<Snapshot>,
    leading: &Leading,
    node_id: &str,
    request: FindImageRequest,
) -> Result<FindImageResponse, Status> {
    if !is_assigned(&snapshot(), node_id, &request.image) {
        return Err(Status::permission_denied(format!(
            "no task of node {node_id} runs the image {}",
            request.image
        )));
    }
    let ask = Ask {
        image: request.image,
        node: node_id.to_owned(),
        failed: request.failed_nodes.into_iter().collect(),
        registry_failed: request.registry_failed,
    };
    let deadline = Instant::now() + PATIENCE;
    let mut changes = leading.sources.changes();
    loop {
        changes.mark_unchanged();
        let nodes: BTreeSet<String> = leading.sessions.nodes();
        let seen = snapshot();
        let answer = leading
            .sources
            .ask(&ask, &nodes, &expected(&seen), Instant::now());
        if answer != Answer::Later || Instant::now() >= deadline {
            let answer = Some(told(&seen, answer));
            return Ok(FindImageResponse { answer });
        }
        tokio::select! {
            biased;
            () = leading.stop.cancelled() => return Err(Status::unavailable("this manager no longer leads")),
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }
}

/// Nodes that should have a session.
fn expected(snapshot: &Snapshot) -> BTreeSet<String> {
    let is_up = |state: NodeState| matches!(state, NodeState::Ready | NodeState::Disconnected);
    snapshot
        .nodes()
        .filter(|node| node.status.as_ref().is_some_and(|status| is_up(status.state())))
        .map(|node| node.id.clone())
        .collect()
}

fn told(snapshot: &Snapshot, answer: Answer) -> Told {
    match answer {
        Answer::Registry => Told::Registry(FetchFromRegistry {}),
        Answer::Later => Told::Later(FetchLater {}),
        Answer::Nowhere => Told::Nowhere(FetchNowhere {}),
        Answer::Peers(nodes) => {
            let peer = |node_id: String| {
                let node = snapshot.node(&node_id)?;
                let addr = node.description.as_ref()?.peer_addr.clone();
                Some(ImagePeer { node_id, addr })
            };
            Told::Peers(ImagePeers {
                peers: nodes.into_iter().filter_map(peer).collect(),
            })
        }
    }
}
