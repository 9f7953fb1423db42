//! One flight: an image that is pinned to a digest, from wherever the leader says, until it is here or there is nowhere left to ask.
//!
//! ```text
//! ask the leader ─► PEERS: each in turn ──────┐ here: done
//!       ▲        ─► REGISTRY: this node's turn ┤
//!       │        ─► LATER: others bring it     │ not here
//!       └──────────────────────────────────────┘    NOWHERE, several times: an error
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use pontoon_image::{Digest, Reference};
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::find_image_response::Answer;
use pontoon_proto::v1::{FindImageRequest, RegistryAuth, ReportFetchRequest};
use tonic::Code;
use tonic::transport::Channel;

use super::{ANSWER, Images, transfer};

/// How often the leader hears that a fetch goes on; it gives one up after five times that.
const BEAT: Duration = Duration::from_secs(2);
/// Pause after an answer that helps nobody.
const PAUSE: Duration = Duration::from_millis(500);
/// So often "nowhere" is not believed: a node that has it may be about to come back, or to say so.
const HOPES: u32 = 5;

/// Where this flight has been.
#[derive(Default)]
struct Tried {
    peers: BTreeSet<String>,
    registry: Option<String>,
    last: String,
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
    auth: &RegistryAuth,
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
            Answer::Peers(list) => {
                for peer in list.peers {
                    let from = transfer::from_peer(images, &peer, reference, &digest);
                    match beating(images, &digest, from).await {
                        Ok(()) => return Ok(()),
                        Err(reason) => {
                            tracing::warn!(image = %digest, node = peer.node_id, reason, "a node could not give an image");
                            tried.last = reason;
                            tried.peers.insert(peer.node_id);
                        }
                    }
                }
            }
            Answer::Registry(_) => match beating(images, &digest, images.pull(reference, auth.clone())).await
            {
                Ok(()) => return Ok(()),
                Err(reason) => {
                    tracing::warn!(image = %digest, reason, "the registry could not give an image");
                    tried.registry = Some(reason);
                }
            },
            Answer::Later(_) => {}
            Answer::Nowhere(_) => {
                tried.nowhere += 1;
                if tried.nowhere >= HOPES {
                    return Err(tried.error(reference));
                }
                // Peers that failed may be well again.
                tried.peers.clear();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Tried {
    fn error(self, reference: &Reference) -> String {
        let nothing = format!("No such image: {}", reference.familiar());
        let registry = self.registry.map(|reason| {
            let detail = reason.strip_prefix(&nothing);
            detail
                .map(|detail| detail.trim_start_matches(": ").to_owned())
                .unwrap_or(reason)
        });
        let reasons: Vec<String> = [Some(self.last), registry]
            .into_iter()
            .flatten()
            .filter(|reason| !reason.is_empty())
            .collect();
        if reasons.is_empty() {
            return nothing;
        }
        format!("{nothing}: {}", reasons.join("; "))
    }
}

async fn ask(channel: Channel, digest: &Digest, tried: &Tried) -> Result<Answer, String> {
    let request = FindImageRequest {
        image: digest.to_string(),
        failed_nodes: tried.peers.iter().cloned().collect(),
        registry_failed: tried.registry.is_some(),
    };
    let mut client = DispatcherClient::new(channel);
    match tokio::time::timeout(ANSWER, client.find_image(request)).await {
        Ok(Ok(response)) => response
            .into_inner()
            .answer
            .ok_or_else(|| "an answer that this version does not know".to_owned()),
        Ok(Err(status)) if status.code() == Code::Unimplemented => {
            Err("the leader is of an older version".to_owned())
        }
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Tells the leader that the fetch goes on, as long as it does.
async fn beating<T>(images: &Images, digest: &Digest, work: impl Future<Output = T>) -> T {
    let beats = async {
        loop {
            tokio::time::sleep(BEAT).await;
            tell(images, digest, false, false).await;
        }
    };
    tokio::select! {
        outcome = work => outcome,
        () = beats => unreachable!("beats never end"),
    }
}

/// Tells the leader that this node's fetch has ended.
pub(super) async fn ended(images: &Images, digest: &Digest, complete: bool) {
    tell(images, digest, true, complete).await;
}

async fn tell(images: &Images, digest: &Digest, ended: bool, complete: bool) {
    let channel = images.leader.borrow().clone();
    let Some(channel) = channel else { return };
    let request = ReportFetchRequest {
        image: digest.to_string(),
        ended,
        complete,
    };
    let mut client = DispatcherClient::new(channel);
    // The leader finds out by itself when this does not reach it.
    if let Ok(Err(status)) = tokio::time::timeout(ANSWER, client.report_fetch(request)).await {
        tracing::debug!(reason = status.message(), "the leader was not told of a fetch");
    }
}
