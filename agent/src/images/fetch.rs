//! One flight: an image that is pinned to a digest, from wherever the leader says, until it is here or there is nowhere left to ask.
//!
//! ```text
//! ask the leader ─► PEERS: each in turn ──────┐ here: done (meanwhile given on, as far as it has come)
//!       ▲        ─► REGISTRY: this node's turn ┤
//!       │        ─► LATER: others bring it     │ not here
//!       └──────────────────────────────────────┘    NOWHERE, several times: an error
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pontoon_image::{Digest, Reference};
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::find_image_response::Answer;
use pontoon_proto::v1::{FetchFromRegistry, FetchNowhere, FindImageRequest, ReportFetchRequest};
use tonic::Code;
use tonic::transport::Channel;

use super::transfer::{self, Failure};
use super::{ANSWER, Images};
use crate::exec::Credentials;

/// How often the leader hears that a fetch goes on; it gives one up after five times that.
const BEAT: Duration = Duration::from_secs(2);
/// Pause after a source broke off.
const SOON: Duration = Duration::from_millis(50);
/// Pause after an answer that helps nobody.
const PAUSE: Duration = Duration::from_millis(500);
/// So often "nowhere" is not believed: a node that has it may be about to come back, or to say so.
const HOPES: u32 = 5;
/// So often in a row it is no fault of a node that what it gives breaks off.
const EXCUSES: u32 = 20;
/// Nodes whose reasons a task's error has.
const NAMED: usize = 3;

/// Where this flight has been.
#[derive(Default)]
struct Tried {
    /// Nodes that are not to be asked again before the others were.
    avoided: BTreeSet<String>,
    /// How often in a row a node's own source broke off.
    excused: BTreeMap<String, u32>,
    /// What each node that was asked said last.
    peers: BTreeMap<String, String>,
    registry: Option<String>,
    nowhere: u32,
}

/// Brings the image.
///
/// # Errors
/// Docker's words for a missing image, and what the last one that was asked said.
pub(super) async fn run(
    images: &Images,
    reference: &Reference,
    digest: Digest,
    credentials: &Credentials,
) -> Result<(), String> {
    let mut tried = Tried::default();
    let mut leader = images.leader.subscribe();
    loop {
        let channel = match leader.wait_for(Option::is_some).await {
            Ok(channel) => channel.clone(),
            Err(_) => return Err("the daemon stops".to_owned()),
        };
        let Some(channel) = channel else { continue };
        let answer = match ask(channel, &digest, &tried).await {
            Ok(answer) => answer,
            Err(reason) => {
                tracing::debug!(image = %digest, reason, "the leader did not say where the image is");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match answer {
            // They have left the cluster in this moment.
            Answer::Peers(list) if list.peers.is_empty() => tokio::time::sleep(PAUSE).await,
            Answer::Peers(list) => {
                for peer in list.peers {
                    tracing::info!(image = %digest, node = peer.node_id, "fetches an image from a node");
                    let from = transfer::from_peer(images, &peer, reference, &digest);
                    match beating(images, &digest, &peer.node_id, from).await {
                        Ok(()) => return Ok(()),
                        Err(failure) if tried.excuses(&peer.node_id, &failure) => {
                            let reason = failure.reason;
                            tracing::info!(image = %digest, node = peer.node_id, reason, "a node no longer gets an image itself");
                            // The leader may have another by now.
                            tokio::time::sleep(SOON).await;
                            break;
                        }
                        Err(Failure { reason, .. }) => {
                            tracing::warn!(image = %digest, node = peer.node_id, reason, "a node could not give an image");
                            tried.avoided.insert(peer.node_id.clone());
                            tried.peers.insert(peer.node_id, reason);
                        }
                    }
                }
            }
            Answer::Registry(_) => {
                tracing::info!(image = %digest, "fetches an image from its registry, for all nodes");
                let pull = Box::pin(async { images.pull(reference, credentials.get().await).await });
                match beating(images, &digest, "", pull).await {
                    Ok(()) => return Ok(()),
                    Err(reason) => {
                        tracing::warn!(image = %digest, reason, "the registry could not give an image");
                        tried.registry = Some(reason);
                    }
                }
            }
            Answer::Later(_) => {}
            Answer::Nowhere(_) => {
                tried.nowhere += 1;
                if tried.nowhere >= HOPES {
                    return Err(tried.error(reference));
                }
                // Peers that failed may be well again.
                tried.avoided.clear();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Tried {
    /// Whether it was none of the node's own fault.
    fn excuses(&mut self, node: &str, failure: &Failure) -> bool {
        if !failure.is_passing {
            return false;
        }
        let excused = self.excused.entry(node.to_owned()).or_default();
        *excused = if failure.any { 1 } else { *excused + 1 };
        *excused <= EXCUSES
    }

    fn error(self, reference: &Reference) -> String {
        let nothing = format!("No such image: {}", reference.familiar());
        let registry = self.registry.map(|reason| {
            let detail = reason.strip_prefix(&nothing);
            detail
                .map(|detail| detail.trim_start_matches(": ").to_owned())
                .unwrap_or(reason)
        });
        let more = self.peers.len().saturating_sub(NAMED);
        let peers = self.peers.into_iter().take(NAMED);
        let mut reasons: Vec<String> = peers
            .map(|(node, reason)| format!("node {node}: {reason}"))
            .collect();
        if more > 0 {
            reasons.push(format!("{more} more nodes could not give it"));
        }
        reasons.extend(registry.filter(|reason| !reason.is_empty()));
        if reasons.is_empty() {
            return nothing;
        }
        format!("{nothing}: {}", reasons.join("; "))
    }
}

async fn ask(channel: Channel, digest: &Digest, tried: &Tried) -> Result<Answer, String> {
    let request = FindImageRequest {
        image: digest.to_string(),
        failed_nodes: tried.avoided.iter().cloned().collect(),
        registry_failed: tried.registry.is_some(),
    };
    let mut client = DispatcherClient::new(channel);
    match tokio::time::timeout(ANSWER, client.find_image(request)).await {
        Ok(Ok(response)) => response
            .into_inner()
            .answer
            .ok_or_else(|| "an answer that this version does not know".to_owned()),
        // A leader of an older version: each node for itself.
        Ok(Err(status)) if status.code() == Code::Unimplemented => Ok(if tried.registry.is_none() {
            Answer::Registry(FetchFromRegistry {})
        } else {
            Answer::Nowhere(FetchNowhere {})
        }),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Tells the leader that the fetch goes on, as long as it does.
async fn beating<T>(images: &Images, digest: &Digest, from: &str, work: impl Future<Output = T>) -> T {
    let _ends = UnderWay(images, *digest, images.try_from(*digest, from));
    let beats = async {
        loop {
            tokio::time::sleep(BEAT).await;
            goes_on(images, digest, from).await;
        }
    };
    tokio::select! {
        outcome = work => outcome,
        () = beats => unreachable!("beats never end"),
    }
}

/// The entry of what is being fetched; there is one flight an image.
struct UnderWay<'a>(&'a Images, Digest, u64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut under_way = self.0.under_way();
        if under_way
            .get(&self.1)
            .is_some_and(|attempt| attempt.number == self.2)
        {
            under_way.remove(&self.1);
        }
    }
}

/// Tells the leader that this node is fetching an image.
pub(super) async fn goes_on(images: &Images, digest: &Digest, from: &str) {
    let request = ReportFetchRequest {
        image: digest.to_string(),
        from_node: from.to_owned(),
        ..ReportFetchRequest::default()
    };
    tell(images, request).await;
}

/// Tells the leader that this node's fetch has ended.
pub(super) async fn ended(images: &Images, digest: &Digest, complete: bool) {
    let request = ReportFetchRequest {
        image: digest.to_string(),
        ended: true,
        complete,
        ..ReportFetchRequest::default()
    };
    tell(images, request).await;
}

async fn tell(images: &Images, request: ReportFetchRequest) {
    let channel = images.leader.borrow().clone();
    let Some(channel) = channel else { return };
    let mut client = DispatcherClient::new(channel);
    // The leader finds out by itself when this does not reach it.
    if let Ok(Err(status)) = tokio::time::timeout(ANSWER, client.report_fetch(request)).await {
        tracing::debug!(reason = status.message(), "the leader was not told of a fetch");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_what_was_tried() {
        let reference = Reference::parse("app:1").unwrap();
        let none = Tried::default();
        assert_eq!(none.error(&reference), "No such image: app:1");
        let tried = Tried {
            peers: ["a", "b", "c", "d"]
                .map(|node| (node.to_owned(), format!("{node} is silent")))
                .into(),
            registry: Some("No such image: app:1: connection refused".to_owned()),
            ..Tried::default()
        };
        assert_eq!(
            tried.error(&reference),
            "No such image: app:1: node a: a is silent; node b: b is silent; node c: c is silent; \
             1 more nodes could not give it; connection refused"
        );
    }
}
