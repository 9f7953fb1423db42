//! An established session: beats, reports, and hands what the manager says to whom it concerns.

use std::sync::Arc;
use std::time::Duration;

use pontoon_proto::v1::agent_message::Message as ToManager;
use pontoon_proto::v1::manager_message::Message as FromManager;
use pontoon_proto::v1::{AgentMessage, Heartbeat, ManagerMessage, Registered, Trust};
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};
use tonic::Streaming;
use tonic::transport::Channel;

use super::backoff::Backoff;
use super::{Managers, Parts, message, refusal};
use crate::checks::Checks;
use crate::logs::Subscriptions;
use crate::worker::Command;
use crate::{Error, Result};

/// Beat when the manager names no period.
const PERIOD: Duration = Duration::from_secs(1);
/// Shortest period that is believed.
const SHORTEST: Duration = Duration::from_millis(50);

/// In which the manager wants a beat.
fn period(registered: &Registered) -> Duration {
    match u64::try_from(registered.heartbeat_period) {
        Ok(nanoseconds) if nanoseconds > 0 => Duration::from_nanos(nanoseconds).max(SHORTEST),
        _ => PERIOD,
    }
}

/// When to beat; the first time at once.
fn beats(period: Duration) -> Interval {
    let mut beat = tokio::time::interval(period);
    // After a pause of the machine one beat is as good as many.
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

/// One session after its registration. Dropping it ends its log subscriptions and checks of networks.
pub(super) struct Session {
    parts: Arc<Parts>,
    outbox: mpsc::Sender<AgentMessage>,
    logs: Subscriptions,
    checks: Checks,
    addr: String,
    /// Wakes when the certificate, or the root that it is good under, has been replaced.
    certificate: Option<watch::Receiver<u64>>,
    /// Wakes when the node has become another than it was described as.
    described: Option<watch::Receiver<u64>>,
}

impl Session {
    pub(super) fn new(
        parts: &Arc<Parts>,
        channel: Channel,
        outbox: mpsc::Sender<AgentMessage>,
        addr: &str,
    ) -> Self {
        let checks = Checks::new(channel.clone(), parts.executor.clone());
        let logs = Subscriptions::new(channel, parts.executor.clone(), parts.tasks.clone());
        Self {
            parts: parts.clone(),
            outbox,
            logs,
            checks,
            addr: addr.to_owned(),
            certificate: None,
            described: None,
        }
    }

    /// Reports the certificate whenever this says that there is another.
    pub(super) fn renewed_by(mut self, certificate: Option<watch::Receiver<u64>>) -> Self {
        self.certificate = certificate;
        self
    }

    /// Describes the node anew whenever this says that it has become another.
    pub(super) fn described_by(mut self, described: Option<watch::Receiver<u64>>) -> Self {
        self.described = described;
        self
    }

    /// Runs the session to its end, which is always an error.
    pub(super) async fn run(
        mut self,
        mut inbox: Streaming<ManagerMessage>,
        registered: &Registered,
        managers: &mut Managers,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible> {
        self.parts.reporter.begin_session();
        backoff.set_period(period(registered));
        let mut beat = beats(period(registered));
        let reporter = self.parts.reporter.clone();
        // Reading does not stop while something is sent: the manager may wait for us to read.
        let (received, mut incoming) = mpsc::channel(16);
        let addr = self.addr.clone();
        let read = async move {
            loop {
                let next = match inbox.message().await {
                    Ok(Some(message)) => message,
                    Ok(None) => return Error::Ended { addr },
                    Err(status) => return refusal(&addr, status),
                };
                if received.send(next).await.is_err() {
                    return Error::Ended { addr };
                }
            }
        };
        tokio::pin!(read);
        // Kept over the turns of the loop: begun anew at each, it would never be due while messages come in.
        let due = reporter.wait();
        tokio::pin!(due);
        let mut certificate = self.certificate.take();
        let mut described = self.described.take();
        loop {
            tokio::select! {
                error = &mut read => return Err(error),
                Some(message) = incoming.recv() => match message.message {
                    // The cluster has grown or shrunk.
                    Some(FromManager::Registered(registered)) => {
                        backoff.set_period(period(&registered));
                        beat = beats(period(&registered));
                    }
                    content => self.handle(content, managers).await?,
                },
                () = changed(&mut certificate) => {
                    self.send(ToManager::Description(self.parts.describe().await)).await?;
                }
                () = changed(&mut described) => {
                    self.send(ToManager::Description(self.parts.describe().await)).await?;
                }
                _ = beat.tick() => self.send(ToManager::Heartbeat(Heartbeat {})).await?,
                () = &mut due => {
                    due.set(reporter.wait());
                    if let Some(report) = reporter.take() {
                        self.send(ToManager::Status(report)).await?;
                        // Whatever a manager hears of a node counts as its beat.
                        beat.reset();
                    }
                }
            }
        }
    }

    async fn send(&self, content: ToManager) -> Result<()> {
        let ended = |_| Error::Ended {
            addr: self.addr.clone(),
        };
        self.outbox.send(message(content)).await.map_err(ended)
    }

    async fn handle(&mut self, content: Option<FromManager>, managers: &mut Managers) -> Result<()> {
        match content {
            Some(FromManager::Assignments(assignments)) => {
                let command = Command::Assign(Box::new(assignments));
                if self.parts.worker.send(command).await.is_err() {
                    return Err(Error::Ended {
                        addr: self.addr.clone(),
                    });
                }
            }
            Some(FromManager::StatusAck(ack)) => self.parts.reporter.acknowledge(ack.sequence),
            Some(FromManager::Node(node)) if node.id == self.parts.node_id => {
                self.parts.node.send_replace(Some(node));
            }
            Some(FromManager::Node(node)) => {
                tracing::warn!(node = node.id, "the manager sent another node's object");
            }
            Some(FromManager::Managers(list)) => {
                managers.replace(&list.managers);
                if let Err(error) = self.parts.storage.put_managers(&list) {
                    tracing::warn!(error = error.chain(), "could not keep the list of managers");
                }
            }
            Some(FromManager::LogSubscription(subscription)) => self.logs.handle(subscription),
            Some(FromManager::NetworkCheck(check)) => self.checks.handle(check),
            Some(FromManager::Trust(trust)) => self.trust(&trust),
            // Taken before; an unknown message is from a newer manager.
            Some(FromManager::Registered(_)) | None => {}
        }
        Ok(())
    }

    /// Follows the cluster to another root: trusts it, and lets the renewal know whose certificate is wanted.
    fn trust(&self, trust: &Trust) {
        let Some(identity) = &self.parts.identity else {
            return;
        };
        let trusted = std::str::from_utf8(&trust.root)
            .map_err(|error| error.to_string())
            .and_then(|root| {
                identity
                    .trust(root)
                    .map_err(|error| pontoon_identity::describe(&error))
            });
        match trusted {
            Ok(true) => tracing::info!("this node trusts the cluster's new root from now on"),
            Ok(false) => {}
            Err(error) => tracing::warn!(error, "could not take the cluster's root"),
        }
        identity.order(&trust.issuer_public_key);
    }
}

async fn changed(changes: &mut Option<watch::Receiver<u64>>) {
    if let Some(changes) = changes
        && changes.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
