//! [`Images`]: brings the images that this node's tasks run, from other nodes first, and gives other nodes what they may have.
//!
//! - here: what is shared, one flight for each image however many tasks wait for it, and what the leader is told;
//! - `fetch`: one flight: asks the leader, tries peers in turn, the registry where the leader says so;
//! - `transfer`: an image from one peer; `serve`: the service that gives blobs to peers, also of an image that is still arriving.
//!
//! Made by the daemon; called by the tasks' controllers, the session (which lends its channel to the leader) and the cluster port.

mod fetch;
mod serve;
mod transfer;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use pontoon_engine::Engine;
use pontoon_identity::Identity;
use pontoon_image::{Digest, ImageStore, Reference};
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::peers_server::PeersServer;
use pontoon_proto::v1::{ImageName, RegistryAuth, ReportImagesRequest};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Code;
use tonic::transport::Channel;

use crate::error::chain;
use crate::exec::Credentials;

/// Pause before the leader is told again what it did not take.
const AGAIN: Duration = Duration::from_millis(500);
/// The leader may take so long for a call; it holds one that has to wait for less.
const ANSWER: Duration = Duration::from_secs(10);

/// Image content between this node and others.
pub struct Images {
    engine: Arc<Engine>,
    identity: Arc<Identity>,
    leader: watch::Sender<Option<Channel>>,
    flights: Mutex<HashMap<Digest, Weak<Flight>>>,
    /// What is being fetched at this moment.
    under_way: Mutex<BTreeMap<Digest, Attempt>>,
    attempts: AtomicU64,
    /// Nodes that were allowed an image, and when.
    allowed: Mutex<HashMap<(String, Digest), Instant>>,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").finish_non_exhaustive()
    }
}

/// A fetch under way, shared by all who wait for its image; it ends with the last of them.
struct Flight {
    outcome: watch::Receiver<Option<Result<(), String>>>,
    /// What it asks the registry for, and with what.
    reference: Reference,
    credentials: Credentials,
    _stop: DropGuard,
}

/// One source of an image, while it is tried.
#[derive(Debug, Clone)]
struct Attempt {
    number: u64,
    /// The node; the registry if it is empty.
    from: String,
}

/// The session's channel to the leader, lent until this is dropped.
pub(crate) struct Link(Arc<Images>);

impl Drop for Link {
    fn drop(&mut self) {
        self.0.leader.send_replace(None);
    }
}

impl Images {
    /// Of this engine's store; peers are dialled with this identity.
    pub fn new(engine: Arc<Engine>, identity: Arc<Identity>) -> Arc<Self> {
        Arc::new(Self {
            engine,
            identity,
            leader: watch::Sender::new(None),
            flights: Mutex::default(),
            under_way: Mutex::default(),
            attempts: AtomicU64::new(0),
            allowed: Mutex::default(),
        })
    }

    /// The service that gives blobs to other nodes, for the cluster port.
    pub fn service(self: &Arc<Self>) -> PeersServer<serve::PeersService> {
        PeersServer::new(serve::PeersService::new(self.clone()))
    }

    /// Lends the channel of a session that was just opened.
    pub(crate) fn link(self: &Arc<Self>, channel: Channel) -> Link {
        self.leader.send_replace(Some(channel));
        Link(self.clone())
    }

    /// Tells each leader what is here, and again whenever that changes.
    pub(crate) async fn run(self: Arc<Self>, cancelled: CancellationToken) {
        let mut leader = self.leader.subscribe();
        let mut changes = self.engine.image_changes();
        let report = async {
            loop {
                let channel = leader.borrow_and_update().clone();
                changes.borrow_and_update();
                if let Some(channel) = channel
                    && let Err(reason) = self.report(channel).await
                {
                    tracing::debug!(reason, "the leader was not told which images are here");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                let changed = tokio::select! {
                    changed = leader.changed() => changed,
                    changed = changes.changed() => changed,
                };
                if changed.is_err() {
                    return;
                }
            }
        };
        cancelled.run_until_cancelled(report).await;
    }

    /// Tells first what is being fetched: a new leader waits for the reports before it sends anybody to a registry.
    async fn report(&self, channel: Channel) -> Result<(), String> {
        let under_way = self.under_way().clone();
        for (image, attempt) in under_way {
            fetch::goes_on(self, &image, &attempt.from).await;
        }
        let (images, tags) = self.store(|store| Ok((store.pinnable(), store.tags()))).await?;
        let names = tags.into_iter().map(|(name, image)| ImageName {
            name,
            image: image.to_string(),
        });
        let request = ReportImagesRequest {
            images: images.iter().map(ToString::to_string).collect(),
            names: names.collect(),
        };
        let mut client = DispatcherClient::new(channel);
        let told = tokio::time::timeout(ANSWER, client.report_images(request)).await;
        match told {
            Ok(Ok(_)) => Ok(()),
            // A leader of an older version wants to know nothing of images.
            Ok(Err(status)) if status.code() == Code::Unimplemented => Ok(()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err("no answer".to_owned()),
        }
    }

    /// Sees to it that a task's image is here. May take long; dropping it ends what only it waits for.
    ///
    /// # Errors
    /// What a user is told: there is no such image, and why it could not be brought.
    pub(crate) async fn provide(
        self: &Arc<Self>,
        image: &str,
        credentials: Credentials,
    ) -> Result<(), String> {
        let Ok(reference) = Reference::parse(image) else {
            // An id, or nonsense: making the container tells.
            return Ok(());
        };
        let reference = reference.with_default_tag();
        let name = image.to_owned();
        if self.store(move |store| Ok(store.get(&name).is_ok())).await? {
            return Ok(());
        }
        let Some(digest) = reference.digest().copied() else {
            return self.pull(&reference, credentials.get().await).await;
        };
        let named = reference.clone();
        if self
            .store(move |store| store.name_pinned(&named, &digest))
            .await?
        {
            return Ok(());
        }
        loop {
            let (flight, is_own) = self.flight(&reference, digest, &credentials);
            let mut outcome = flight.outcome.clone();
            let fetched = match outcome.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
                Err(_) => return Err("the daemon stops".to_owned()),
            };
            // Another task has tried it with its name and what it has for the registry; this one may have more luck.
            let same = flight.reference == reference && flight.credentials.now() == credentials.now();
            match fetched {
                Ok(()) if !is_own => {
                    let work = move |store: &Arc<ImageStore>| store.name_pinned(&reference, &digest);
                    return self.store(work).await.map(drop);
                }
                Err(_) if !is_own && !same => {}
                fetched => return fetched,
            }
        }
    }

    /// The flight for an image: the one under way, or a new one; whether it is a new one.
    fn flight(
        self: &Arc<Self>,
        reference: &Reference,
        digest: Digest,
        credentials: &Credentials,
    ) -> (Arc<Flight>, bool) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        if let Some(flight) = flights.get(&digest).and_then(Weak::upgrade)
            && flight.outcome.borrow().is_none()
        {
            return (flight, false);
        }
        let stop = CancellationToken::new();
        let (sender, outcome) = watch::channel(None);
        let flight = Arc::new(Flight {
            outcome,
            reference: reference.clone(),
            credentials: credentials.clone(),
            _stop: stop.clone().drop_guard(),
        });
        flights.insert(digest, Arc::downgrade(&flight));
        let (images, reference, credentials) = (self.clone(), reference.clone(), credentials.clone());
        tokio::spawn(async move {
            let fetching = Box::pin(fetch::run(&images, &reference, digest, &credentials));
            let fetched = stop.run_until_cancelled(fetching).await;
            fetch::ended(&images, &digest, matches!(fetched, Some(Ok(())))).await;
            sender.send_replace(fetched);
        });
        (flight, true)
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeMap<Digest, Attempt>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a source of an image is tried now.
    fn try_from(&self, image: Digest, from: &str) -> u64 {
        let number = self.attempts.fetch_add(1, Ordering::Relaxed);
        let from = from.to_owned();
        self.under_way().insert(image, Attempt { number, from });
        number
    }

    /// The number of what is tried now to get an image.
    fn attempt(&self, image: &Digest) -> Option<u64> {
        self.under_way().get(image).map(|attempt| attempt.number)
    }

    /// Whether tasks wait for the image here.
    fn is_wanted(&self, image: &Digest) -> bool {
        let flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights
            .get(image)
            .and_then(Weak::upgrade)
            .is_some_and(|flight| flight.outcome.borrow().is_none())
    }

    /// From the registry, for a name without a digest: every node for itself, since only a digest says that two nodes mean the same.
    async fn pull(&self, reference: &Reference, auth: RegistryAuth) -> Result<(), String> {
        let name = match reference.digest() {
            Some(digest) => reference.with_digest(*digest),
            None => reference.clone(),
        };
        match self.engine.pull_quietly(&name.to_string(), "", auth).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!(
                "No such image: {}: {}",
                reference.familiar(),
                error.chain()
            )),
        }
    }

    /// Work on the store, in a thread where it may block.
    async fn store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<ImageStore>) -> pontoon_image::Result<T> + Send + 'static,
    ) -> Result<T, String> {
        let store = self.engine.images().clone();
        blocking(move || work(&store).map_err(|error| chain(&error))).await
    }
}

/// Runs what blocks in a thread for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err("the daemon stops".to_owned()))
}
