//! Sessions: one stream with the leader at a time, made anew whenever it breaks, for as long as the agent lives.
//!
//! ```text
//! CONNECTING ──registered──► ESTABLISHED ──broken──► CONNECTING (next manager, after a delay)
//! ```

mod backoff;
mod connector;
mod established;
mod managers;

use std::sync::Arc;
use std::time::Duration;

use pontoon_identity::Identity;
use pontoon_proto::v1::agent_message::Message as ToManager;
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::manager_message::Message as FromManager;
use pontoon_proto::v1::{AgentMessage, ManagerList, ManagerMessage, Node, NodeDescription, Register};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::exec::Executor;
use crate::reporter::Reporter;
use crate::storage::Storage;
use crate::worker::{Command, Tasks};
use crate::{AgentConfig, Error, Images, Result};
use backoff::Backoff;
use managers::Managers;

pub use connector::{BoxError, Connector, IdentityConnector};

/// Metadata with the leader's address in a refusal.
const LEADER: &str = "pontoon-leader";
/// How long a manager may take to answer a connection or a registration.
const ANSWER: Duration = Duration::from_secs(5);
/// Messages that wait to be sent.
const OUTBOX: usize = 64;
/// Largest message taken: a full set of a big node.
const MAX_MESSAGE: usize = 64 << 20;

/// How the session stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SessionState {
    /// There is none.
    #[default]
    Connecting,
    /// Registered with the manager at this address.
    Established {
        /// host:port.
        manager: String,
        /// The manager's name for the session.
        session_id: String,
    },
}

/// What a session needs from the rest of the agent.
pub(crate) struct Parts {
    pub node_id: String,
    pub storage: Arc<Storage>,
    pub executor: Arc<dyn Executor>,
    pub reporter: Reporter,
    pub worker: mpsc::Sender<Command>,
    pub tasks: Tasks,
    pub images: Option<Arc<Images>>,
    pub identity: Option<Arc<Identity>>,
    pub node: watch::Sender<Option<Node>>,
    pub state: watch::Sender<SessionState>,
}

impl Parts {
    /// What managers are told of this node.
    async fn describe(&self) -> NodeDescription {
        NodeDescription {
            tls_info: self.identity.as_ref().map(|identity| identity.tls_info()),
            ..self.executor.describe().await
        }
    }
}

/// Makes one session after the other.
pub(crate) struct Runner {
    parts: Arc<Parts>,
    connector: Arc<dyn Connector>,
    managers: Managers,
    backoff: Backoff,
}

impl Runner {
    pub(crate) fn new(
        config: AgentConfig,
        storage: Arc<Storage>,
        reporter: Reporter,
        worker: mpsc::Sender<Command>,
        tasks: Tasks,
    ) -> Self {
        let learned = storage.managers().unwrap_or_else(|error| {
            tracing::warn!(error = error.chain(), "could not read the list of managers");
            Default::default()
        });
        let mut peers = learned.managers;
        for peer in config.managers {
            if !peers.iter().any(|known| known.addr == peer.addr) {
                peers.push(peer);
            }
        }
        // Kept from the first: the daemon may be restarted before a manager has told of others.
        if let Err(error) = storage.put_managers(&ManagerList {
            managers: peers.clone(),
        }) {
            tracing::warn!(error = error.chain(), "could not keep the list of managers");
        }
        let managers = Managers::new(peers);
        let parts = Parts {
            node_id: config.node_id,
            storage,
            executor: config.executor,
            reporter,
            worker,
            tasks,
            images: config.images,
            identity: config.connector.identity(),
            node: watch::Sender::new(None),
            state: watch::Sender::new(SessionState::Connecting),
        };
        Self {
            parts: Arc::new(parts),
            connector: config.connector,
            managers,
            backoff: Backoff::default(),
        }
    }

    pub(crate) fn node(&self) -> watch::Receiver<Option<Node>> {
        self.parts.node.subscribe()
    }

    pub(crate) fn state(&self) -> watch::Receiver<SessionState> {
        self.parts.state.subscribe()
    }

    /// Keeps a session until cancelled.
    pub(crate) async fn run(mut self, cancelled: CancellationToken) -> Result<()> {
        while let Some(addr) = self.managers.next() {
            let attempt = self.attempt(&addr);
            let Some(Err(error)) = cancelled.run_until_cancelled(attempt).await else {
                return Ok(());
            };
            self.parts.state.send_replace(SessionState::Connecting);
            let delay = match error {
                Error::Redirect { leader, .. } if self.managers.redirect(leader.clone()) => {
                    tracing::debug!(manager = addr, leader, "following a redirect");
                    self.backoff.redirected(rand::random())
                }
                error => {
                    tracing::info!(error = error.chain(), "no session with the managers");
                    self.backoff.next(rand::random())
                }
            };
            if cancelled
                .run_until_cancelled(tokio::time::sleep(delay))
                .await
                .is_none()
            {
                return Ok(());
            }
        }
        Err(Error::NoManagers)
    }

    /// One session, from the connection to its end, which is always an error.
    async fn attempt(&mut self, addr: &str) -> Result<std::convert::Infallible> {
        let silent = || Error::Silent {
            addr: addr.to_owned(),
        };
        let channel = tokio::time::timeout(ANSWER, self.connector.connect(addr))
            .await
            .map_err(|_| silent())?
            .map_err(|source| Error::Connect {
                addr: addr.to_owned(),
                source,
            })?;
        // Both from before the registration, which says which certificate this node has, and what it is.
        let certificate = self.parts.identity.as_ref().map(|identity| identity.changes());
        let described = self.parts.executor.changes();
        let (outbox, inbox, registered) =
            tokio::time::timeout(ANSWER, register(&self.parts, channel.clone(), addr))
                .await
                .map_err(|_| silent())??;
        tracing::info!(manager = addr, session = registered.session_id, "registered");
        self.backoff.reset();
        self.managers.established();
        self.parts.state.send_replace(SessionState::Established {
            manager: addr.to_owned(),
            session_id: registered.session_id.clone(),
        });
        let _link = self
            .parts
            .images
            .as_ref()
            .map(|images| images.link(channel.clone()));
        let _attachments = self
            .parts
            .executor
            .attachments()
            .map(|attachments| attachments.link(channel.clone()));
        let session = established::Session::new(&self.parts, channel, outbox, addr)
            .renewed_by(certificate)
            .described_by(described);
        let Self {
            managers, backoff, ..
        } = self;
        session.run(inbox, &registered, managers, backoff).await
    }
}

type Opened = (
    mpsc::Sender<AgentMessage>,
    Streaming<ManagerMessage>,
    pontoon_proto::v1::Registered,
);

async fn register(parts: &Parts, channel: Channel, addr: &str) -> Result<Opened> {
    let mut client = DispatcherClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let (outbox, messages) = mpsc::channel(OUTBOX);
    let register = Register {
        description: Some(parts.describe().await),
        tasks: parts.tasks.statuses(),
        assigned_version: parts.tasks.version(),
        attachments: parts
            .executor
            .attachments()
            .map(|attachments| attachments.all())
            .unwrap_or_default(),
    };
    // The channel is new: it has room.
    outbox.try_send(message(ToManager::Register(register))).ok();
    let response = client
        .session(ReceiverStream::new(messages))
        .await
        .map_err(|status| refusal(addr, status))?;
    let mut inbox = response.into_inner();
    let first = inbox.message().await.map_err(|status| refusal(addr, status))?;
    match first.and_then(|first| first.message) {
        Some(FromManager::Registered(registered)) => Ok((outbox, inbox, registered)),
        Some(_) => Err(Error::Session {
            addr: addr.to_owned(),
            source: Box::new(Status::internal(
                "its first message is not the answer to a registration",
            )),
        }),
        None => Err(Error::Ended {
            addr: addr.to_owned(),
        }),
    }
}

fn message(message: ToManager) -> AgentMessage {
    AgentMessage {
        message: Some(message),
    }
}

/// A refusal may name whom to ask instead.
fn refusal(addr: &str, status: Status) -> Error {
    let leader = status
        .metadata()
        .get(LEADER)
        .and_then(|value| value.to_str().ok());
    match leader {
        Some(leader) if status.code() == Code::FailedPrecondition && !leader.is_empty() && leader != addr => {
            Error::Redirect {
                addr: addr.to_owned(),
                leader: leader.to_owned(),
            }
        }
        _ => Error::Session {
            addr: addr.to_owned(),
            source: Box::new(status),
        },
    }
}
