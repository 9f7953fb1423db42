//! [`Attachments`]: containers of this node that are no tasks in networks of the cluster. Carries what the engine asks to the leader, and knows
//! what is held, so that each registration says all of it: what a registration does not name is given back by the managers.
//!
//! Made by the daemon for as long as the node is in the cluster; the session lends its channel and reads what is held, the executor says which
//! networks are programmed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use pontoon_engine::{ClusterError, ClusterNetworks, Engine};
use pontoon_net::NetworkSpec;
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::{
    AttachNetworkRequest, ContainerAttachment, DetachNetworkRequest, FindNetworkRequest, OverlayNetwork,
};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::exec::spec_of;

/// So long a container's start waits for a leader, and for the network to reach this node. Docker's time for requests to managers.
const PATIENCE: Duration = Duration::from_secs(20);
/// So long a name waits for a leader: it may be no network of the cluster at all.
const LOOK_UP: Duration = Duration::from_secs(8);
/// So long one call may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Pause before the same leader is asked again.
const AGAIN: Duration = Duration::from_millis(200);
/// So long a container's end waits until its address is given back; then that goes on without it.
const LEAVING: Duration = Duration::from_secs(2);

/// A container's place in a network: container, network.
type Key = (String, String);

/// How far a network is on this node.
#[derive(Debug, Clone)]
struct Programmed {
    /// Its newest state's number.
    number: u64,
    /// The addresses in it, or why it can't be programmed.
    addresses: Result<BTreeSet<IpAddr>, String>,
}

/// What containers that are no tasks have in the cluster's networks.
pub struct Attachments {
    leader: watch::Sender<Option<Channel>>,
    held: Mutex<BTreeMap<Key, ContainerAttachment>>,
    /// What is being given back.
    leaving: watch::Sender<BTreeSet<Key>>,
    networks: watch::Sender<BTreeMap<String, Programmed>>,
    /// Counts states of networks.
    count: std::sync::atomic::AtomicU64,
}

impl std::fmt::Debug for Attachments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachments").finish_non_exhaustive()
    }
}

/// The session's channel to the leader, lent until this is dropped.
pub(crate) struct Link(Arc<Attachments>);

impl Drop for Link {
    fn drop(&mut self) {
        self.0.leader.send_replace(None);
    }
}

fn key(attachment: &ContainerAttachment) -> Key {
    (attachment.container_id.clone(), attachment.network_id.clone())
}

/// Whether asking again may help: there was no leader, or it went.
fn may_pass(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::NotFound
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::InvalidArgument
            | Code::Unimplemented
    )
}

fn refusal(status: &Status) -> ClusterError {
    let text = status.message().to_owned();
    match status.code() {
        Code::NotFound => ClusterError::NotFound,
        Code::PermissionDenied => ClusterError::NotAttachable(text),
        Code::Unimplemented => ClusterError::Refused(
            "the managers know no containers in overlay networks: upgrade them".to_owned(),
        ),
        _ => ClusterError::Refused(text),
    }
}

impl Attachments {
    /// Those of this engine's containers. From now on its containers can join networks of the cluster.
    pub fn begin(engine: &Engine) -> Arc<Self> {
        let attachments = Arc::new(Self::new());
        engine.join_cluster(Arc::new(Carrier(attachments.clone())));
        // An end that comes meanwhile waits for the lock, and then takes away what was put here.
        let mut held = attachments.held();
        held.extend(
            engine
                .attachments()
                .into_iter()
                .map(|attachment| (key(&attachment), attachment)),
        );
        drop(held);
        attachments
    }

    fn new() -> Self {
        Self {
            leader: watch::Sender::new(None),
            held: Mutex::default(),
            leaving: watch::Sender::default(),
            networks: watch::Sender::default(),
            count: std::sync::atomic::AtomicU64::new(0),
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<Key, ContainerAttachment>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that is held or being asked for, for a registration.
    pub(crate) fn all(&self) -> Vec<ContainerAttachment> {
        self.held().values().cloned().collect()
    }

    /// Lends the channel of a session that was just opened.
    pub(crate) fn link(self: &Arc<Self>, channel: Channel) -> Link {
        self.leader.send_replace(Some(channel));
        Link(self.clone())
    }

    /// A network's state was programmed here, or could not be.
    pub(crate) fn programmed_now(&self, network: &OverlayNetwork, outcome: &Result<(), String>) {
        let number = 1 + self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let addresses = outcome.clone().map(|()| {
            let peers = network.peers.iter();
            peers.filter_map(|peer| peer.addr.parse().ok()).collect()
        });
        self.networks.send_modify(|networks| {
            networks.insert(network.id.clone(), Programmed { number, addresses });
        });
    }

    /// A network is no longer on this node.
    pub(crate) fn forgotten(&self, network: &str) {
        self.networks
            .send_modify(|networks| drop(networks.remove(network)));
    }

    /// Asks the leader, and the next one if that goes, until the deadline.
    async fn ask<T>(
        &self,
        patience: Duration,
        call: impl Fn(DispatcherClient<Channel>) -> BoxFuture<'static, Result<T, Status>> + Sync,
    ) -> Result<T, ClusterError> {
        let deadline = Instant::now() + patience;
        let mut leader = self.leader.subscribe();
        let mut why = "this node has no session with a manager".to_owned();
        loop {
            let channel = leader.borrow_and_update().clone();
            let pause = if channel.is_some() { AGAIN } else { patience };
            if let Some(channel) = channel {
                match timeout(ANSWER, call(DispatcherClient::new(channel))).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(status)) if !may_pass(&status) => return Err(refusal(&status)),
                    Ok(Err(status)) => status.message().clone_into(&mut why),
                    Err(_) => "the leader does not answer".clone_into(&mut why),
                }
            }
            let changed = timeout_at(deadline.min(Instant::now() + pause), leader.changed()).await;
            if Instant::now() >= deadline || matches!(changed, Ok(Err(_))) {
                return Err(ClusterError::Unreachable(format!(
                    "no manager of the swarm could be asked: {why}"
                )));
            }
        }
    }

    /// Gives back what one container has in one network. A registration that does not name it does so as well.
    async fn give_back(self: Arc<Self>, gone: Key) {
        let mut leader = self.leader.subscribe();
        let channel = leader.borrow_and_update().clone();
        if let Some(channel) = channel {
            loop {
                let request = DetachNetworkRequest {
                    container_id: gone.0.clone(),
                    network_id: gone.1.clone(),
                };
                let mut client = DispatcherClient::new(channel.clone());
                let told = timeout(ANSWER, client.detach_network(request)).await;
                let again = match told {
                    Ok(Ok(_)) => false,
                    Ok(Err(status)) => may_pass(&status),
                    Err(_) => true,
                };
                // Another session has begun with a registration, or will.
                if !again || timeout(AGAIN, leader.changed()).await.is_ok() {
                    break;
                }
            }
        }
        self.leaving.send_if_modified(|leaving| leaving.remove(&gone));
    }
}

/// What the engine is given.
struct Carrier(Arc<Attachments>);

#[tonic::async_trait]
impl ClusterNetworks for Carrier {
    async fn find(&self, target: &str) -> Result<NetworkSpec, ClusterError> {
        let call = |mut client: DispatcherClient<Channel>| -> BoxFuture<'static, _> {
            let target = target.to_owned();
            Box::pin(async move { client.find_network(FindNetworkRequest { target }).await })
        };
        let found = self.0.ask(LOOK_UP, call).await?.into_inner().network;
        spec_of(&found.unwrap_or_default()).map_err(ClusterError::Refused)
    }

    async fn attach(&self, wish: ContainerAttachment) -> Result<ContainerAttachment, ClusterError> {
        let attachments = &self.0;
        let own = key(&wish);
        let mut leaving = attachments.leaving.subscribe();
        // What went before must not be taken for this one.
        let left = leaving.wait_for(|leaving| !leaving.contains(&own));
        if timeout(PATIENCE, left).await.is_err() {
            let text = "its address of before could not be given back: no manager answers".to_owned();
            return Err(ClusterError::Unreachable(text));
        }
        // Before the managers know: a registration in between names it. One that has an address keeps it in here.
        let is_new = {
            let mut held = attachments.held();
            let is_new = !held.contains_key(&own);
            if is_new {
                held.insert(own.clone(), wish.clone());
            }
            is_new
        };
        let call = |mut client: DispatcherClient<Channel>| -> BoxFuture<'static, _> {
            let wish = Some(wish.clone());
            Box::pin(async move { client.attach_network(AttachNetworkRequest { wish }).await })
        };
        let given = attachments.ask(PATIENCE, call).await;
        let given = given.map(|given| given.into_inner().attachment.unwrap_or_default());
        match &given {
            Ok(given) => {
                // It may have ended meanwhile.
                if let Some(held) = attachments.held().get_mut(&own) {
                    held.clone_from(given);
                }
            }
            // The outcome may be unknown.
            Err(_) if is_new => self.detach(&own.0, Some(&own.1)).await,
            Err(_) => {}
        }
        given
    }

    async fn detach(&self, container: &str, network: Option<&str>) {
        let attachments = &self.0;
        let gone: Vec<Key> = {
            let mut held = attachments.held();
            let of = |(id, net): &&Key| id == container && network.is_none_or(|network| net == network);
            let gone: Vec<Key> = held.keys().filter(of).cloned().collect();
            for key in &gone {
                held.remove(key);
            }
            gone
        };
        if gone.is_empty() {
            return;
        }
        attachments
            .leaving
            .send_modify(|leaving| leaving.extend(gone.iter().cloned()));
        for key in &gone {
            tokio::spawn(attachments.clone().give_back(key.clone()));
        }
        let mut leaving = attachments.leaving.subscribe();
        let left = leaving.wait_for(|leaving| gone.iter().all(|key| !leaving.contains(key)));
        // What takes longer goes on.
        timeout(LEAVING, left).await.ok();
    }

    async fn programmed(&self, network: &str, addr: IpAddr, newer: u64) -> Result<u64, ClusterError> {
        let mut networks = self.0.networks.subscribe();
        let is_here = |networks: &BTreeMap<String, Programmed>| {
            networks.get(network).is_some_and(|state| {
                let has = state
                    .addresses
                    .as_ref()
                    .map_or(true, |known| known.contains(&addr));
                state.number > newer && has
            })
        };
        let Ok(Ok(networks)) = timeout(PATIENCE, networks.wait_for(is_here)).await else {
            return Err(ClusterError::Unreachable(
                "the managers gave an address, but this node did not hear of the network from them"
                    .to_owned(),
            ));
        };
        match networks
            .get(network)
            .map(|state| (state.number, &state.addresses))
        {
            Some((number, Ok(_))) => Ok(number),
            Some((_, Err(reason))) => Err(ClusterError::Refused(format!(
                "this node can't program it: {reason}"
            ))),
            None => Err(ClusterError::NotFound),
        }
    }
}

#[cfg(test)]
mod tests;
