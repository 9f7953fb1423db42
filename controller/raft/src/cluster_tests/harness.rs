//! Members in one process over loopback gRPC: plain channels, real files, real threads.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pontoon_proto::v1;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Status};

use crate::node::Event;
use crate::{
    Config, ConnectError, Connector, Member, PeerIdentity, ProposeError, Raft, RaftHandle, RaftService, Role,
    SnapshotWriter, StateMachine,
};

/// The applied entries, by index.
pub(super) type Log = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

pub(super) struct TestState(pub(super) Log);

struct Pinned(Vec<(u64, Vec<u8>)>);

impl SnapshotWriter for Pinned {
    fn write(self: Box<Self>, writer: &mut dyn Write) -> io::Result<()> {
        for (index, data) in self.0 {
            writer.write_all(&index.to_le_bytes())?;
            writer.write_all(&(data.len() as u64).to_le_bytes())?;
            writer.write_all(&data)?;
        }
        Ok(())
    }
}

impl StateMachine for TestState {
    fn apply(&mut self, index: u64, data: &[u8]) {
        self.0
            .lock()
            .expect("no test panics with it")
            .push((index, data.to_vec()));
    }

    fn snapshot(&self) -> Box<dyn SnapshotWriter + Send> {
        Box::new(Pinned(self.0.lock().expect("no test panics with it").clone()))
    }

    fn restore(&mut self, reader: &mut dyn Read) -> io::Result<()> {
        let mut state = Vec::new();
        let mut number = [0; 8];
        while reader.read(&mut number[..1])? == 1 {
            reader.read_exact(&mut number[1..])?;
            let index = u64::from_le_bytes(number);
            reader.read_exact(&mut number)?;
            let mut data = vec![0; u64::from_le_bytes(number) as usize];
            reader.read_exact(&mut data)?;
            state.push((index, data));
        }
        *self.0.lock().expect("no test panics with it") = state;
        Ok(())
    }
}

/// Dials plainly and says who it is in the user agent, where a certificate would be.
struct TestConnector(String);

#[async_trait::async_trait]
impl Connector for TestConnector {
    async fn connect(&self, member: &Member) -> Result<Channel, ConnectError> {
        let endpoint =
            Endpoint::from_shared(format!("http://{}", member.addr))?.user_agent(self.0.clone())?;
        Ok(endpoint.connect_timeout(Duration::from_secs(1)).connect().await?)
    }

    async fn probe(&self, addr: &str) -> Result<(), ConnectError> {
        if addr.starts_with("nowhere") {
            return Err("no route to host".into());
        }
        Ok(())
    }
}

fn identify(mut request: Request<()>) -> Result<Request<()>, Status> {
    let agent = request
        .metadata()
        .get("user-agent")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let node_id = agent.split(' ').next().unwrap_or_default().to_owned();
    request.extensions_mut().insert(PeerIdentity { node_id });
    Ok(request)
}

/// One member and its server.
pub(super) struct TestNode {
    pub(super) handle: RaftHandle,
    pub(super) log: Log,
    pub(super) config: Config,
    server: JoinHandle<()>,
}

impl TestNode {
    fn serve(handle: &RaftHandle, listener: TcpListener) -> JoinHandle<()> {
        let hook = |extensions: &tonic::Extensions| {
            extensions
                .get::<PeerIdentity>()
                .cloned()
                .ok_or_else(|| Status::unauthenticated("who are you"))
        };
        let service = InterceptedService::new(RaftService::new(handle.clone(), hook).into_server(), identify);
        tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            // Ends with the test, or by abort.
            let _ = Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await;
        })
    }

    /// Ends the member at once, without handing over: what a crash looks like to the others.
    pub(super) async fn kill(self) -> Config {
        self.server.abort();
        let _ = self.handle.shared.events.send(Event::DiskFailed {
            reason: "killed by the test".into(),
        });
        let mut done = self.handle.shared.done.clone();
        while done.changed().await.is_ok() {}
        self.config
    }

    pub(super) async fn stop(self) -> Config {
        self.handle.shutdown().await;
        self.server.abort();
        self.config
    }

    pub(super) fn data(&self) -> Vec<Vec<u8>> {
        self.log
            .lock()
            .expect("no test panics with it")
            .iter()
            .map(|(_, data)| data.clone())
            .collect()
    }

    pub(super) fn is_leader(&self) -> bool {
        self.handle.leadership().borrow().is_leader
    }
}

/// Where a member that is to join listens.
pub(super) struct Place {
    listener: TcpListener,
    config: Config,
}

impl Place {
    pub(super) fn addr(&self) -> String {
        self.config.advertise.clone()
    }
}

/// A cluster by node number.
pub(super) struct Cluster {
    root: tempfile::TempDir,
    pub(super) nodes: HashMap<u64, TestNode>,
    pub(super) tune: fn(&mut Config),
}

/// Waits until `check` says yes.
pub(super) async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !check().await {
        assert!(Instant::now() < deadline, "this did not happen in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Cluster {
    /// A cluster of `size` voters; the first was bootstrapped, the others have joined.
    pub(super) async fn new(size: u64, tune: fn(&mut Config)) -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        let mut cluster = Self {
            root,
            nodes: HashMap::new(),
            tune,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let config = cluster.config(1, Member::random_id(), &listener);
        let log = Log::default();
        let handle = Raft::bootstrap(config.clone(), TestState(log.clone()), connector(1))
            .await
            .expect("bootstrap");
        let server = TestNode::serve(&handle, listener);
        cluster.nodes.insert(
            1,
            TestNode {
                handle,
                log,
                config,
                server,
            },
        );
        for node in 2..=size {
            cluster.join(node).await;
        }
        cluster
    }

    fn config(&self, node: u64, id: u64, listener: &TcpListener) -> Config {
        let mut config = Config::new(
            id,
            "test-cluster",
            format!("node{node}"),
            self.root.path().join(node.to_string()),
        );
        config.advertise = listener.local_addr().expect("a bound socket").to_string();
        (self.tune)(&mut config);
        config
    }

    /// Asks the leader's service to take in `node`, which listens at `addr`.
    pub(super) async fn ask_to_join(&self, node: u64, addr: &str) -> Result<v1::RaftJoinResponse, Status> {
        let leader = self.wait_leader().await;
        let leader = Member::new(1, "", self.nodes[&leader].config.advertise.clone());
        let channel = connector(node).connect(&leader).await.expect("connect");
        let request = v1::RaftJoinRequest {
            node_id: format!("node{node}"),
            addr: addr.to_owned(),
        };
        let answer = v1::raft_client::RaftClient::new(channel).join(request).await?;
        Ok(answer.into_inner())
    }

    /// Lets a new member join through the leader's service and waits until it votes.
    pub(super) async fn join(&mut self, node: u64) -> u64 {
        let place = self.prepare(node).await;
        let addr = place.addr();
        self.join_at(node, place, &addr).await
    }

    /// A port for a new member.
    pub(super) async fn prepare(&self, node: u64) -> Place {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let config = self.config(node, 1, &listener);
        Place { listener, config }
    }

    /// As `join`, where the others reach the member at `addr`.
    pub(super) async fn join_at(&mut self, node: u64, place: Place, addr: &str) -> u64 {
        let Place { listener, mut config } = place;
        let answer = self.ask_to_join(node, addr).await.expect("join");
        config.id = answer.raft_id;
        let members = answer
            .members
            .into_iter()
            .map(|m| Member::new(m.raft_id, m.node_id, m.addr))
            .collect();
        let log = Log::default();
        let handle = Raft::join(config.clone(), members, TestState(log.clone()), connector(node))
            .await
            .expect("join");
        let server = TestNode::serve(&handle, listener);
        self.nodes.insert(
            node,
            TestNode {
                handle,
                log,
                config,
                server,
            },
        );
        let leader = self.wait_leader().await;
        let promoted = self.nodes[&leader].handle.promote(answer.raft_id).await;
        promoted.expect("it catches up");
        let nodes = &self.nodes;
        eventually("the new member votes", || async {
            nodes.values().all(|n| {
                n.handle
                    .members()
                    .iter()
                    .any(|m| m.id == answer.raft_id && m.role == Role::Voter)
            })
        })
        .await;
        answer.raft_id
    }

    /// Opens a stopped member again, at its old address.
    pub(super) async fn restart(&mut self, node: u64, config: Config) {
        // What served there before may take a moment to end.
        let deadline = Instant::now() + Duration::from_secs(60);
        let listener = loop {
            match TcpListener::bind(&config.advertise).await {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < deadline, "the old port is not free: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let log = Log::default();
        let handle = Raft::open(config.clone(), TestState(log.clone()), connector(node))
            .await
            .expect("open");
        let server = TestNode::serve(&handle, listener);
        self.nodes.insert(
            node,
            TestNode {
                handle,
                log,
                config,
                server,
            },
        );
    }

    pub(super) fn take(&mut self, node: u64) -> TestNode {
        self.nodes.remove(&node).expect("the node runs")
    }

    /// The node that leads and may write.
    pub(super) async fn wait_leader(&self) -> u64 {
        eventually("somebody leads", || async {
            self.nodes.values().any(TestNode::is_leader)
        })
        .await;
        *self
            .nodes
            .iter()
            .find(|(_, n)| n.is_leader())
            .map(|(id, _)| id)
            .unwrap_or(&1)
    }

    /// Writes through whoever leads until it is accepted; what had an unknown outcome may be there twice.
    pub(super) async fn write(&self, data: &str) {
        eventually("a write is accepted", || async {
            let leader = self.wait_leader().await;
            match self.nodes[&leader]
                .handle
                .propose(Bytes::copy_from_slice(data.as_bytes()))
                .await
            {
                Ok(_) => true,
                Err(ProposeError::NotLeader { .. } | ProposeError::OutcomeUnknown | ProposeError::Busy) => {
                    false
                }
                Err(error) => panic!("{error}"),
            }
        })
        .await;
    }

    /// Waits until all members have applied the same, and returns it.
    pub(super) async fn converge(&self) -> Vec<Vec<u8>> {
        let leader = self.wait_leader().await;
        self.nodes[&leader]
            .handle
            .read_barrier()
            .await
            .expect("a read is confirmed");
        let expected = self.nodes[&leader].data();
        eventually("all members have the same", || async {
            self.nodes.values().all(|n| n.data() == expected)
        })
        .await;
        expected
    }
}

pub(super) fn connector(node: u64) -> Arc<dyn Connector> {
    Arc::new(TestConnector(format!("node{node}")))
}
