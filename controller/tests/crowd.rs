//! Thousands of agents, and the pace of their heartbeats. Five thousand (or as many as `CROWD` says) lose their leader in one moment: they
//! find the new one with a bounded number of calls, each has one session more, the log grows by entries and not by agents, and no
//! node is declared anything meanwhile. The agents' calls go straight into the managers' services: no sockets, no TLS.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::join_all;
use pontoon_identity::{CertificateRequest, ConnectionInfo, PeerIdentity};
use pontoon_proto::v1::ca_client::CaClient;
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::{
    AgentMessage, GetClusterRequest, Heartbeat, IssueCertificateRequest, ListRequest, Node, NodeRole,
    NodeState, Register, UpdateClusterRequest, agent_message::Message as Outgoing,
    manager_message::Message as Incoming,
};
use support::{Host, eventually};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;

const AGENTS: usize = 5000;
/// Names another number of agents.
const CROWD: &str = "CROWD";
/// Longer than the test: what counts here is who comes back, not who is late.
const PERIOD: Duration = Duration::from_secs(600);
/// Calls of a session that an agent may need, on average, to be with the new leader.
const CALLS: usize = 6;
/// How long thousands of agents may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// Joins at the same time.
const AT_ONCE: usize = 250;

/// A manager's services, as the cluster port has them after TLS.
#[derive(Clone)]
struct Door {
    routes: Routes,
    info: ConnectionInfo,
}

impl Service<http::Request<Body>> for Door {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = <Routes as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        request.extensions_mut().insert(self.info.clone());
        self.routes.call(request)
    }
}

/// One manager as agents see it.
struct Gate {
    addr: String,
    routes: Mutex<Routes>,
    alive: AtomicBool,
}

impl Gate {
    fn of(host: &Host) -> Self {
        Self {
            addr: host.addr.clone(),
            routes: Mutex::new(host.manager.cluster_routes()),
            alive: AtomicBool::new(true),
        }
    }

    fn door(&self, node: Option<&str>) -> Door {
        let peer = node.map(|node_id| PeerIdentity {
            node_id: node_id.to_owned(),
            role: NodeRole::Worker,
            cluster_id: "cluster1".to_owned(),
        });
        let info = ConnectionInfo {
            peer,
            issued_at: None,
            remote_addr: "127.0.0.1:1".parse().unwrap(),
        };
        let routes = self.routes.lock().unwrap().clone();
        Door { routes, info }
    }
}

/// What happened to the agents.
struct World {
    gates: Vec<Gate>,
    calls: AtomicUsize,
    /// Sessions of each agent, and with which manager it has one.
    sessions: Vec<AtomicU32>,
    with: Vec<Mutex<Option<usize>>>,
    /// Why the last session ended.
    last: Mutex<Option<Status>>,
}

impl World {
    /// Waits until all agents have a session with a manager; on a busy machine that takes its time.
    async fn wait_with(&self, manager: usize) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.with(manager) < self.with.len() {
            let (with, calls) = (self.with(manager), self.calls.load(Ordering::Relaxed));
            let late = tokio::time::Instant::now() >= deadline;
            assert!(
                !late,
                "{with} agents after {calls} calls, last {:?}",
                self.last.lock().unwrap()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn with(&self, manager: usize) -> usize {
        let with = self.with.iter();
        with.filter(|with| *with.lock().unwrap() == Some(manager)).count()
    }

    /// A session to its end.
    async fn session(&self, number: usize, node: &str, manager: usize) -> Result<Infallible, Status> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let gate = &self.gates[manager];
        if !gate.alive.load(Ordering::Relaxed) {
            return Err(Status::unavailable("connection refused"));
        }
        let (outbox, messages) = mpsc::channel(4);
        let send = |message| {
            outbox
                .try_send(AgentMessage {
                    message: Some(message),
                })
                .unwrap()
        };
        send(Outgoing::Register(Register::default()));
        let mut client = DispatcherClient::new(gate.door(Some(node)));
        let mut inbox = client.session(ReceiverStream::new(messages)).await?.into_inner();
        let ended = loop {
            let message = match inbox.message().await {
                Ok(message) => message.ok_or_else(|| Status::unavailable("it ended"))?,
                Err(status) => break status,
            };
            if let Some(Incoming::Registered(_)) = message.message {
                send(Outgoing::Heartbeat(Heartbeat {}));
                self.sessions[number].fetch_add(1, Ordering::Relaxed);
                *self.with[number].lock().unwrap() = Some(manager);
            }
        };
        *self.with[number].lock().unwrap() = None;
        Err(ended)
    }

    /// As the real agent: where it is sent, at once; else one manager after the other, after a jittered pause.
    async fn agent(self: Arc<Self>, number: usize, node: String) {
        let (mut next, mut redirects) = (number, 0);
        loop {
            let manager = next % self.gates.len();
            let Err(status) = self.session(number, &node, manager).await;
            *self.last.lock().unwrap() = Some(status.clone());
            let leader = status.metadata().get("pontoon-leader");
            let leader = leader.and_then(|addr| {
                self.gates
                    .iter()
                    .position(|gate| gate.addr == addr.to_str().unwrap())
            });
            if let Some(leader) = leader.filter(|leader| *leader != manager && redirects < 4) {
                (next, redirects) = (leader, redirects + 1);
                continue;
            }
            (next, redirects) = (manager + 1, 0);
            tokio::time::sleep(Duration::from_millis(rand::random_range(250..500))).await;
        }
    }
}

/// So many workers' node ids; a certificate is not needed here, so all ask for the same key's.
async fn join(host: &Host, gate: &Gate, count: usize) -> Vec<String> {
    let token = host.tokens().await.worker;
    let csr = CertificateRequest::generate().unwrap().csr_pem;
    let issue = || async {
        let request = IssueCertificateRequest {
            csr: csr.clone().into(),
            token: token.clone(),
            ..IssueCertificateRequest::default()
        };
        let issued = CaClient::new(gate.door(None)).issue_certificate(request).await;
        issued.unwrap().into_inner().node_id
    };
    let mut nodes = Vec::new();
    while nodes.len() < count {
        let joining = (0..AT_ONCE.min(count - nodes.len())).map(|_| issue());
        nodes.extend(join_all(joining).await);
    }
    nodes
}

async fn workers(host: &Host) -> Vec<Node> {
    let nodes = host.client().list_nodes(ListRequest::default()).await.unwrap();
    let nodes = nodes.into_inner().nodes.into_iter();
    nodes.filter(|node| node.role() == NodeRole::Worker).collect()
}

/// When each node became what it is.
fn since(nodes: &[Node]) -> BTreeSet<(String, i32, i64)> {
    let status = |node: &Node| node.status.clone().unwrap_or_default();
    nodes
        .iter()
        .map(|node| (node.id.clone(), status(node).state, status(node).since))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_agents_survive_a_change_of_leaders() {
    let count = std::env::var(CROWD).map_or(AGENTS, |count| count.parse().unwrap());
    let first = Host::bootstrap_beating(PERIOD).await;
    let hosts = [Host::join(&first).await, Host::join(&first).await];
    first.wait_voters(3).await;
    let gates: Vec<Gate> = [&first, &hosts[0], &hosts[1]].map(Gate::of).into();
    let nodes = join(&first, &gates[0], count).await;
    let world = Arc::new(World {
        gates,
        calls: AtomicUsize::new(0),
        sessions: (0..count).map(|_| AtomicU32::new(0)).collect(),
        with: (0..count).map(|_| Mutex::new(None)).collect(),
        last: Mutex::default(),
    });
    let mut agents = tokio::task::JoinSet::new();
    for (number, node) in nodes.into_iter().enumerate() {
        agents.spawn(world.clone().agent(number, node));
    }
    world.wait_with(0).await;
    // A third each began at the leader, the others were told of it: nobody had to be told twice.
    let calls = world.calls.swap(0, Ordering::Relaxed);
    assert!(calls <= 2 * count, "{calls} calls to begin with");
    let before = workers(&first).await;
    assert_eq!(before.len(), count);
    let ready = |node: &Node| {
        node.status
            .as_ref()
            .is_some_and(|status| status.state() == NodeState::Ready)
    };
    assert!(before.iter().all(ready));

    world.gates[0].alive.store(false, Ordering::Relaxed);
    *world.gates[0].routes.lock().unwrap() = Routes::default();
    first.stop().await;
    let leader = eventually("another one leads", || async {
        hosts.iter().position(Host::is_leader)
    })
    .await;
    world.wait_with(leader + 1).await;
    let calls = world.calls.load(Ordering::Relaxed);
    assert!(calls <= CALLS * count, "{calls} calls to find the new leader");
    let sessions: u32 = world
        .sessions
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .sum();
    assert_eq!(sessions as usize, 2 * count, "sessions in all");
    // Nobody was declared unreachable or dead, and registering thousands took few entries of the log.
    let after = workers(&hosts[leader]).await;
    assert_eq!(since(&after), since(&before));
    let entries: BTreeSet<u64> = after
        .iter()
        .map(|node| node.meta.unwrap_or_default().version)
        .collect();
    assert!(
        entries.len() <= count / 4,
        "{} entries for {count} agents",
        entries.len()
    );
}

/// Sets the heartbeat's period of the cluster.
async fn set_period(host: &Host, period: Duration) {
    let cluster = host.client().get_cluster(GetClusterRequest {}).await.unwrap();
    let mut spec = cluster.into_inner().spec.unwrap();
    spec.heartbeat_period = i64::try_from(period.as_nanos()).unwrap();
    let request = UpdateClusterRequest {
        version: 0,
        spec: Some(spec),
    };
    host.client().update_cluster(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_session_is_told_another_pace() {
    let host = Host::bootstrap_beating(PERIOD).await;
    let gate = Gate::of(&host);
    let node = join(&host, &gate, 1).await.remove(0);
    let (outbox, messages) = mpsc::channel(4);
    let send = async |message| {
        let message = Some(message);
        outbox.send(AgentMessage { message }).await.unwrap();
    };
    send(Outgoing::Register(Register::default())).await;
    let mut client = DispatcherClient::new(gate.door(Some(&node)));
    let session = client.session(ReceiverStream::new(messages)).await;
    let mut inbox = session.unwrap().into_inner();
    let mut told = async || loop {
        let message = inbox.message().await.unwrap().expect("the session lasts");
        if let Some(Incoming::Registered(registered)) = message.message {
            return Duration::from_nanos(registered.heartbeat_period.unsigned_abs());
        }
    };
    assert_eq!(told().await, PERIOD);
    // Told with the next beat, and once.
    for period in [PERIOD / 2, PERIOD * 3] {
        set_period(&host, period).await;
        send(Outgoing::Heartbeat(Heartbeat {})).await;
        send(Outgoing::Heartbeat(Heartbeat {})).await;
        assert_eq!(told().await, period);
    }
}
