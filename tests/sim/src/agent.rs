//! A fake agent: joins by token, keeps a session to whoever leads, walks its tasks through their states.
//!
//! Its tasks outlive its sessions and the managers, as real containers do; in each new session it reports all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_identity::PeerIdentity;
use pontoon_proto::v1::agent_message::Message as Outgoing;
use pontoon_proto::v1::ca_client::CaClient;
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::manager_message::Message as Incoming;
use pontoon_proto::v1::{
    AgentMessage, Assignments, Availability, GenericResource, Heartbeat, IssueCertificateRequest,
    NodeDescription, NodeRole, Platform, Register, Resources, StatusReport, TaskState, TaskStatus,
    TaskStatusUpdate,
};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::net::Net;
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::trace::Trace;

/// The states that a task goes through.
const WALK: [TaskState; 5] = [
    TaskState::Accepted,
    TaskState::Preparing,
    TaskState::Ready,
    TaskState::Starting,
    TaskState::Running,
];
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: (u64, u64) = (100, 400);

/// A task as the agent has it.
#[derive(Debug, Clone, Copy)]
struct Local {
    state: TaskState,
    desired: TaskState,
    /// State that a manager has confirmed.
    confirmed: TaskState,
    /// Its program comes to an end: a job's.
    ends: bool,
    /// Its health check has failed: it is out of service and about to be ended.
    leaving: bool,
}

/// What outlives sessions.
#[derive(Default)]
struct Known {
    node_id: Option<String>,
    managers: Vec<String>,
    tasks: BTreeMap<String, Local>,
    /// In thousandths: how often a running task fails at a step.
    failing: u64,
    /// In thousandths: how often a running task gets unhealthy at a step.
    sickly: u64,
}

/// A fake agent; clones are the same.
#[derive(Clone)]
pub struct Agent {
    /// Its machine.
    pub name: String,
    /// Where a session is from: the manager's own agent shares its place.
    place: String,
    role: NodeRole,
    known: Arc<Mutex<Known>>,
    net: Net,
    rng: Rng,
    oracle: Oracle,
    trace: Trace,
}

/// What all agents share.
pub struct Surroundings {
    /// The network.
    pub net: Net,
    /// Chance.
    pub rng: Rng,
    /// The oracle.
    pub oracle: Oracle,
    /// The trace.
    pub trace: Trace,
}

impl Agent {
    /// An agent that knows these managers; `node_id` when it has joined already.
    pub fn new(
        name: &str,
        around: &Surroundings,
        role: NodeRole,
        node_id: Option<String>,
        managers: Vec<String>,
    ) -> Self {
        let known = Known {
            node_id,
            managers,
            ..Known::default()
        };
        Self {
            name: name.to_owned(),
            place: name.to_owned(),
            role,
            known: Arc::new(Mutex::new(known)),
            net: around.net.clone(),
            rng: around.rng.clone(),
            oracle: around.oracle.clone(),
            trace: around.trace.clone(),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its node, once it has joined.
    pub fn node_id(&self) -> Option<String> {
        self.known().node_id.clone()
    }

    /// How often, in thousandths, a running task fails at a step, and how often it gets unhealthy.
    pub fn set_failing(&self, failing: u64, sickly: u64) {
        let mut known = self.known();
        (known.failing, known.sickly) = (failing, sickly);
    }

    /// Joins if it must, then keeps a session for ever.
    pub async fn run(self, token: String, csr: String) {
        while self.node_id().is_none() {
            self.join(&token, &csr).await;
            tokio::time::sleep(self.rng.millis(PAUSE.0, PAUSE.1)).await;
        }
        loop {
            let managers = self.known().managers.clone();
            let Some(mut addr) = self.rng.pick(&managers).cloned() else {
                return;
            };
            // The one that was asked may name the leader.
            for _ in 0..2 {
                let Err(status) = self.session(&addr).await else {
                    break;
                };
                let leader = status
                    .metadata()
                    .get("pontoon-leader")
                    .and_then(|addr| addr.to_str().ok());
                match leader {
                    Some(leader) => leader.clone_into(&mut addr),
                    None => break,
                }
            }
            tokio::time::sleep(self.rng.millis(PAUSE.0, PAUSE.1)).await;
        }
    }

    async fn join(&self, token: &str, csr: &str) {
        let managers = self.known().managers.clone();
        let Some(addr) = self.rng.pick(&managers) else {
            return;
        };
        let request = IssueCertificateRequest {
            csr: csr.as_bytes().to_vec().into(),
            token: token.to_owned(),
            availability: Availability::Active.into(),
        };
        let call = async {
            let channel = self.net.connect(&self.place, addr, None).await.ok()?;
            CaClient::new(channel).issue_certificate(request).await.ok()
        };
        if let Ok(Some(answer)) = tokio::time::timeout(CALL_TIMEOUT, call).await {
            let node_id = answer.into_inner().node_id;
            self.trace
                .event(format_args!("{} has joined as {node_id}", self.name));
            self.known().node_id = Some(node_id);
        }
    }

    async fn session(&self, addr: &str) -> Result<(), Status> {
        let node_id = self.node_id().unwrap_or_default();
        let peer = PeerIdentity {
            node_id: node_id.clone(),
            role: self.role,
            cluster_id: crate::CLUSTER.to_owned(),
        };
        let opening = async {
            let channel = self.net.connect(&self.place, addr, Some(peer)).await;
            let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
            let (out, outgoing) = mpsc::channel(16);
            // There is room for the first.
            let _ = out.try_send(message(Outgoing::Register(self.register())));
            let incoming = DispatcherClient::new(channel)
                .session(ReceiverStream::new(outgoing))
                .await?
                .into_inner();
            Ok::<_, Status>((out, incoming))
        };
        let opened = tokio::time::timeout(CALL_TIMEOUT, opening).await;
        let (out, mut incoming) = opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("slow")))?;
        let mut beat = tokio::time::interval(Duration::from_millis(900));
        let mut walk = tokio::time::interval(Duration::from_millis(150));
        let mut sent: BTreeMap<u64, Vec<(String, TaskState)>> = BTreeMap::new();
        let mut sequence = 0;
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                biased;
                received = incoming.message() => {
                    let Some(received) = received? else { return Ok(()) };
                    heard = Instant::now();
                    match received.message {
                        Some(Incoming::Registered(_)) => {
                            self.trace.event(format_args!("{} has a session at {addr}", self.name));
                        }
                        Some(Incoming::Assignments(assignments)) => self.assign(&node_id, assignments),
                        Some(Incoming::StatusAck(ack)) => {
                            self.confirm(sent.remove(&ack.sequence).unwrap_or_default());
                        }
                        Some(Incoming::Managers(list)) => {
                            let addrs: Vec<String> = list.managers.into_iter().map(|peer| peer.addr).collect();
                            if !addrs.is_empty() {
                                self.known().managers = addrs;
                            }
                        }
                        _ => {}
                    }
                },
                _ = beat.tick() => if out.send(message(Outgoing::Heartbeat(Heartbeat {}))).await.is_err() {
                    return Ok(());
                },
                _ = walk.tick() => {
                    let moved = self.walk();
                    if !moved.is_empty() {
                        sequence += 1;
                        let updates = moved.iter().map(|(id, task)| update(id, task)).collect();
                        let states = moved.into_iter().map(|(id, task)| (id, task.state)).collect();
                        sent.insert(sequence, states);
                        let report = StatusReport { sequence, updates };
                        if out.send(message(Outgoing::Status(report))).await.is_err() {
                            return Ok(());
                        }
                    }
                    if heard.elapsed() > Duration::from_secs(60) {
                        return Ok(());
                    }
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
            generic_resources: vec![GenericResource {
                kind: "gpu".to_owned(),
                count: 32,
                ..GenericResource::default()
            }],
            ..NodeDescription::default()
        };
        let known = self.known();
        Register {
            description: Some(description),
            tasks: known.tasks.iter().map(|(id, task)| update(id, task)).collect(),
            assigned_version: 0,
            attachments: Vec::new(),
        }
    }

    fn assign(&self, node_id: &str, assignments: Assignments) {
        let mut known = self.known();
        if assignments.full {
            let kept: Vec<&str> = assignments
                .tasks
                .iter()
                .map(|task| task.task_id.as_str())
                .collect();
            known.tasks.retain(|id, _| kept.contains(&id.as_str()));
        }
        for id in &assignments.removed_tasks {
            known.tasks.remove(id);
        }
        for task in assignments.tasks {
            let desired = task.desired_state();
            let container = task.spec.as_ref().and_then(|spec| spec.container.as_ref());
            let ends = container.is_some_and(|container| container.image.starts_with("job:"));
            self.oracle.assigned(&task.task_id, node_id);
            let local = known.tasks.entry(task.task_id).or_insert(Local {
                state: TaskState::Assigned,
                desired,
                confirmed: TaskState::New,
                ends,
                leaving: false,
            });
            local.desired = desired;
        }
    }

    fn confirm(&self, reported: Vec<(String, TaskState)>) {
        let state = self.oracle.state();
        let mut known = self.known();
        for (id, reported) in reported {
            if let Some(local) = known.tasks.get_mut(&id) {
                local.confirmed = local.confirmed.max(reported);
            }
            // A task that is gone was finished and reaped.
            if let Some(task) = state.task(&id)
                && crate::invariants::state(task) < reported
            {
                self.oracle.complain(format!(
                    "{} was told that task {id} is {reported:?}, but it is {:?}",
                    self.name,
                    crate::invariants::state(task)
                ));
            }
        }
    }

    /// Each task makes a step, perhaps; those that did.
    fn walk(&self) -> Vec<(String, Local)> {
        let mut known = self.known();
        let (failing, sickly) = (known.failing, known.sickly);
        let mut moved = Vec::new();
        for (id, task) in &mut known.tasks {
            if task.state.is_terminal() {
                continue;
            }
            let next = if task.desired > TaskState::Running {
                Some(TaskState::Shutdown)
            } else if task.leaving || (task.state >= TaskState::Starting && self.rng.chance(failing)) {
                Some(TaskState::Failed)
            } else if task.state == TaskState::Running && self.rng.chance(sickly) {
                task.leaving = true;
                moved.push((id.clone(), *task));
                None
            } else if task.state == TaskState::Running && task.ends {
                Some(TaskState::Complete)
            } else {
                WALK.into_iter()
                    .find(|state| *state > task.state && *state <= task.desired)
            };
            if let Some(next) = next
                && self.rng.chance(700)
            {
                task.state = next;
                moved.push((id.clone(), *task));
            }
        }
        moved
    }
}

fn update(id: &str, task: &Local) -> TaskStatusUpdate {
    let err = if task.leaving {
        "unhealthy container".to_owned()
    } else {
        String::new()
    };
    TaskStatusUpdate {
        task_id: id.to_owned(),
        status: Some(TaskStatus {
            state: task.state.into(),
            message: "simulated".to_owned(),
            leaving: task.leaving && task.state == TaskState::Running,
            err,
            ..TaskStatus::default()
        }),
    }
}

fn message(message: Outgoing) -> AgentMessage {
    AgentMessage {
        message: Some(message),
    }
}
