//! A fake agent: joins by token, keeps a session to whoever leads, runs its tasks by saying so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pontoon_identity::{Endpoint, Identity, JoinRequest, connect, renew_forever, request_certificate};
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::{
    AgentMessage, Assignments, Availability, Heartbeat, LogSubscription, ManagerMessage, NetworkCheck,
    NetworkCheckReport, NetworkDrift, NetworkFindings, Node, NodeDescription, Platform, PublishLogsMessage,
    Register, Resources, StatusReport, TaskAssignment, TaskLogEntry, TaskState, TaskStatus, TaskStatusUpdate,
    agent_message::Message as Outgoing, manager_message::Message as Incoming,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::Host;

/// What the agent was told.
#[derive(Default)]
pub struct Known {
    pub assigned: BTreeMap<String, TaskAssignment>,
    pub networks: BTreeMap<String, pontoon_proto::v1::OverlayNetwork>,
    pub managers: Vec<String>,
    pub node: Option<Node>,
    pub acked: u64,
    pub sessions: u32,
    pub last_error: Option<tonic::Status>,
}

pub struct FakeAgent {
    pub identity: Arc<Identity>,
    pub known: Arc<Mutex<Known>>,
    /// While false the agent keeps its session but says nothing.
    pub beats: Arc<AtomicBool>,
    pub dir: Arc<tempfile::TempDir>,
    task: tokio::task::JoinHandle<()>,
    renewal: tokio::task::JoinHandle<()>,
}

struct Worker {
    identity: Arc<Identity>,
    known: Arc<Mutex<Known>>,
    beats: Arc<AtomicBool>,
    name: String,
}

impl FakeAgent {
    /// Joins as a worker and begins its sessions.
    pub async fn join(at: &Host, name: &str) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        super::store::share(at.dir.path(), dir.path());
        let token = at.tokens().await.worker.parse().unwrap();
        let join = JoinRequest {
            addr: at.addr.clone(),
            token,
            availability: Availability::Active,
        };
        let issued = request_certificate(&join).await.unwrap();
        let identity = Identity::install(&dir.path().join("identity"), &issued.credentials).unwrap();
        Self::start(identity, dir, issued.manager_addrs, name)
    }

    /// The agent of a manager node.
    pub fn of(host: &Host, name: &str) -> Self {
        Self::start(
            host.identity.clone(),
            host.dir.clone(),
            vec![host.addr.clone()],
            name,
        )
    }

    fn start(
        identity: Arc<Identity>,
        dir: Arc<tempfile::TempDir>,
        managers: Vec<String>,
        name: &str,
    ) -> Self {
        let known = Arc::new(Mutex::new(Known {
            managers,
            ..Known::default()
        }));
        let beats = Arc::new(AtomicBool::new(true));
        let worker = Worker {
            identity: identity.clone(),
            known: known.clone(),
            beats: beats.clone(),
            name: name.to_owned(),
        };
        let task = tokio::spawn(worker.run());
        let (renewed, managers) = (identity.clone(), known.clone());
        let managers = move || managers.lock().unwrap().managers.clone();
        let renewal = tokio::spawn(renew_forever(renewed, managers, CancellationToken::new()));
        Self {
            identity,
            known,
            beats,
            dir,
            task,
            renewal,
        }
    }

    pub fn node_id(&self) -> String {
        self.identity.node_id()
    }

    /// Tasks that the agent is to run.
    pub fn wanted(&self) -> usize {
        let known = self.known.lock().unwrap();
        known
            .assigned
            .values()
            .filter(|task| task.desired_state() <= TaskState::Running)
            .count()
    }

    /// The agent and its connections die without a word.
    pub fn kill(&self) {
        self.task.abort();
        self.renewal.abort();
    }

    /// The same agent once more after its death.
    pub fn revive(self, name: &str) -> Self {
        self.kill();
        let managers = self.known.lock().unwrap().managers.clone();
        let identity = Identity::open(&self.dir.path().join("identity")).unwrap();
        Self::start(identity, self.dir.clone(), managers, name)
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Worker {
    async fn run(self) {
        loop {
            let managers = self.known.lock().unwrap().managers.clone();
            for addr in managers {
                if let Err(status) = self.session(&addr).await {
                    let leader = status
                        .metadata()
                        .get("pontoon-leader")
                        .and_then(|addr| addr.to_str().ok());
                    let leader = leader.map(str::to_owned);
                    self.known.lock().unwrap().last_error = Some(status);
                    if let Some(leader) = leader
                        && let Err(status) = self.session(&leader).await
                    {
                        self.known.lock().unwrap().last_error = Some(status);
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn session(&self, addr: &str) -> Result<(), tonic::Status> {
        let channel = connect(&self.identity, &Endpoint::manager(addr))
            .await
            .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let mut client = DispatcherClient::new(channel.clone());
        // From before the registration, which says which certificate this node has.
        let mut certificate = self.identity.changes();
        let (out, outgoing) = mpsc::channel(16);
        send(&out, Outgoing::Register(self.register())).await;
        let mut incoming = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
        let mut beat = tokio::time::interval(Duration::from_millis(150));
        let mut sequence = 0;
        loop {
            tokio::select! {
                message = incoming.message() => match message? {
                    Some(ManagerMessage { message: Some(message) }) => {
                        self.take(message, &out, &channel, &mut sequence).await;
                    }
                    _ => return Ok(()),
                },
                Ok(()) = certificate.changed() => {
                    send(&out, Outgoing::Description(self.register().description.unwrap())).await;
                }
                _ = beat.tick() => if self.beats.load(Ordering::Relaxed) {
                    send(&out, Outgoing::Heartbeat(Heartbeat {})).await;
                },
            }
        }
    }

    fn register(&self) -> Register {
        let description = NodeDescription {
            hostname: self.name.clone(),
            platform: Some(Platform {
                architecture: "amd64".to_owned(),
                os: "linux".to_owned(),
            }),
            resources: Some(Resources {
                nano_cpus: 8_000_000_000,
                memory_bytes: 1 << 34,
                pids: 0,
            }),
            tls_info: Some(self.identity.tls_info()),
            ..NodeDescription::default()
        };
        let known = self.known.lock().unwrap();
        let tasks = known.assigned.values().map(status_of).collect();
        Register {
            description: Some(description),
            tasks,
            assigned_version: 0,
            attachments: Vec::new(),
        }
    }

    async fn take(
        &self,
        message: Incoming,
        out: &mpsc::Sender<AgentMessage>,
        channel: &Channel,
        sequence: &mut u64,
    ) {
        match message {
            Incoming::Registered(_) => self.known.lock().unwrap().sessions += 1,
            Incoming::Assignments(assignments) => {
                let updates = self.assign(assignments);
                if self.beats.load(Ordering::Relaxed) && !updates.is_empty() {
                    *sequence += 1;
                    send(
                        out,
                        Outgoing::Status(StatusReport {
                            sequence: *sequence,
                            updates,
                        }),
                    )
                    .await;
                }
            }
            Incoming::StatusAck(ack) => self.known.lock().unwrap().acked = ack.sequence,
            Incoming::Node(node) => self.known.lock().unwrap().node = Some(node),
            Incoming::Managers(managers) => {
                let addrs: Vec<String> = managers.managers.into_iter().map(|peer| peer.addr).collect();
                if !addrs.is_empty() {
                    self.known.lock().unwrap().managers = addrs;
                }
            }
            Incoming::Trust(trust) => {
                let root = String::from_utf8(trust.root.to_vec()).unwrap();
                self.identity.trust(&root).unwrap();
                self.identity.order(&trust.issuer_public_key);
            }
            Incoming::NetworkCheck(check) => {
                tokio::spawn(look(check, channel.clone(), self.name.clone()));
            }
            Incoming::LogSubscription(subscription) => {
                tokio::spawn(publish(subscription, channel.clone(), self.name.clone()));
            }
        }
    }

    fn assign(&self, assignments: Assignments) -> Vec<TaskStatusUpdate> {
        let mut known = self.known.lock().unwrap();
        if assignments.full {
            known.assigned.clear();
            known.networks.clear();
        }
        for id in &assignments.removed_tasks {
            known.assigned.remove(id);
        }
        for id in &assignments.removed_networks {
            known.networks.remove(id);
        }
        for network in assignments.networks {
            known.networks.insert(network.id.clone(), network);
        }
        let mut updates = Vec::new();
        for task in assignments.tasks {
            updates.push(status_of(&task));
            known.assigned.insert(task.task_id.clone(), task);
        }
        updates
    }
}

/// A fake task is in the state that it should have at once.
fn status_of(task: &TaskAssignment) -> TaskStatusUpdate {
    let state = match task.desired_state() {
        TaskState::Ready => TaskState::Ready,
        TaskState::Running => TaskState::Running,
        _ => TaskState::Shutdown,
    };
    let status = TaskStatus {
        state: state.into(),
        message: "fake".to_owned(),
        ..TaskStatus::default()
    };
    TaskStatusUpdate {
        task_id: task.task_id.clone(),
        status: Some(status),
    }
}

async fn send(out: &mpsc::Sender<AgentMessage>, message: Outgoing) {
    // A session that ends drops the other end.
    let _ = out
        .send(AgentMessage {
            message: Some(message),
        })
        .await;
}

/// One drift, which says what was asked. An agent called `mute` is silent, one called `sick` can't look.
async fn look(check: NetworkCheck, channel: Channel, name: String) {
    if name == "mute" {
        return;
    }
    let drift = NetworkDrift {
        what: name.clone(),
        expected: check.network_ids.join(","),
        repaired: check.repair,
        ..NetworkDrift::default()
    };
    let report = NetworkCheckReport {
        check_id: check.id,
        findings: (name != "sick").then(|| NetworkFindings {
            drifts: vec![drift],
            probes: Vec::new(),
        }),
        error: if name == "sick" { "can't look" } else { "" }.to_owned(),
    };
    // The manager may be gone.
    let _ = DispatcherClient::new(channel).report_network_check(report).await;
}

/// One line for each task, then the end (unless the client follows).
async fn publish(subscription: LogSubscription, channel: Channel, name: String) {
    if subscription.close {
        return;
    }
    let follow = subscription
        .options
        .as_ref()
        .is_some_and(|options| options.follow);
    let line = |task_id: &String| TaskLogEntry {
        task_id: task_id.clone(),
        stream: 1,
        timestamp: 1,
        line: format!("hello from {name}").into_bytes().into(),
        ..TaskLogEntry::default()
    };
    let mut entries: Vec<TaskLogEntry> = subscription.task_ids.iter().map(line).collect();
    // Of a task that it was not asked for: must not get through.
    entries.push(line(&"stolen".to_owned()));
    let message = PublishLogsMessage {
        subscription_id: subscription.id,
        entries,
        end: !follow,
        error: String::new(),
    };
    let _ = DispatcherClient::new(channel)
        .publish_logs(tokio_stream::iter([message]))
        .await;
}
