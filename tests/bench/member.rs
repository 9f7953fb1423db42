//! Members to write to, a process each: ours (this program started again) and etcd's. Used by [`super::writes`].

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener as PortFinder;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pontoon_proto::v1::RaftJoinRequest;
use pontoon_proto::v1::raft_client::RaftClient;
use pontoon_raft::{
    Config, ConnectError, Connector, DataKey, Keyring, Member, PeerIdentity, Raft, RaftHandle, RaftService,
    Role,
};
use tokio::net::TcpListener;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Status};

use super::kv;

/// First word of the arguments of one of our members' process.
pub const MEMBER: &str = "log-member";
const READY: &str = "ready";
/// Between two looks at who has joined.
const PERIOD: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(60);

/// A running process that ends with this value.
pub struct Running {
    child: Child,
    /// Where its clients connect.
    pub addr: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_ports(count: usize) -> Result<Vec<u16>> {
    // All are held until all are found.
    let found: Vec<PortFinder> = (0..count)
        .map(|_| PortFinder::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    found.iter().map(|port| Ok(port.local_addr()?.port())).collect()
}

/// Starts `size` members of our log, the first of which leads.
pub fn ours(folder: &Path, size: usize) -> Result<Vec<Running>> {
    let mut members: Vec<Running> = Vec::new();
    for (i, port) in free_ports(size)?.into_iter().enumerate() {
        let addr = format!("127.0.0.1:{port}");
        let leader = members.first().map_or("", |first| first.addr.as_str()).to_owned();
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                MEMBER,
                &folder.join(format!("ours{i}")).display().to_string(),
                &addr,
                &leader,
            ])
            // It ends when this end does, whatever becomes of this process.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a member")?;
        let mut line = String::new();
        let out = child.stdout.take().context("it has no output")?;
        members.push(Running { child, addr });
        BufReader::new(out).read_line(&mut line)?;
        ensure!(line.trim() == READY, "a member did not start");
    }
    Ok(members)
}

/// Starts `size` members of etcd; the one that leads comes first.
pub async fn etcd(folder: &Path, size: usize) -> Result<Vec<Running>> {
    let ports = free_ports(2 * size)?;
    let peer = |i: usize| format!("http://127.0.0.1:{}", ports[2 * i]);
    let all: Vec<String> = (0..size).map(|i| format!("m{i}={}", peer(i))).collect();
    let mut members = Vec::new();
    for i in 0..size {
        let addr = format!("127.0.0.1:{}", ports[2 * i + 1]);
        let client = format!("http://{addr}");
        let log = std::fs::File::create(folder.join(format!("etcd{i}.log")))?;
        let child = Command::new("etcd")
            .args(["--name", &format!("m{i}"), "--data-dir"])
            .arg(folder.join(format!("etcd{i}")))
            .args([
                "--listen-peer-urls",
                &peer(i),
                "--initial-advertise-peer-urls",
                &peer(i),
            ])
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--initial-cluster",
                &all.join(","),
                "--initial-cluster-state",
                "new",
            ])
            .args(["--quota-backend-bytes", "6442450944"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start etcd: is Debian's etcd-server installed?")?;
        members.push(Running { child, addr });
    }
    let begun = Instant::now();
    loop {
        for i in 0..members.len() {
            if let Ok(channel) = connect(&members[i].addr).await
                && kv::Client::new(channel).leads().await.unwrap_or(false)
            {
                members.swap(0, i);
                return Ok(members);
            }
        }
        ensure!(begun.elapsed() < PATIENCE, "no member of etcd leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A connection to a member.
pub async fn connect(addr: &str) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{addr}"))?.connect().await?)
}

/// Says who it is in the user agent, where a certificate would be. etcd has no TLS here either.
struct Plain(String);

#[tonic::async_trait]
impl Connector for Plain {
    async fn connect(&self, member: &Member) -> Result<Channel, ConnectError> {
        let endpoint =
            Endpoint::from_shared(format!("http://{}", member.addr))?.user_agent(self.0.clone())?;
        Ok(endpoint.connect().await?)
    }

    async fn probe(&self, _addr: &str) -> Result<(), ConnectError> {
        Ok(())
    }
}

fn identify(mut request: Request<()>) -> Result<Request<()>, Status> {
    let agent = request
        .metadata()
        .get("user-agent")
        .and_then(|value| value.to_str().ok());
    let node_id = agent
        .and_then(|agent| agent.split(' ').next())
        .unwrap_or_default()
        .to_owned();
    request.extensions_mut().insert(PeerIdentity { node_id });
    Ok(request)
}

/// The process of one of our members: `log-member FOLDER ADDR LEADER`; an empty leader makes a new cluster. Runs until it is killed.
pub fn run(arguments: &[String]) -> Result<()> {
    let [_, folder, addr, leader] = arguments else {
        bail!("usage: {MEMBER} FOLDER ADDR LEADER");
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(folder, addr, leader))
}

/// Makes voters of those who join, as soon as they have caught up: the controller's part where there is one.
async fn promote_learners(handle: RaftHandle) {
    let members = handle.members_watch();
    loop {
        let learners: Vec<u64> = {
            let members = members.borrow();
            let learners = members.iter().filter(|member| member.role == Role::Learner);
            learners.map(|member| member.id).collect()
        };
        for id in learners {
            // One that is behind still is asked for again.
            let _ = handle.promote(id).await;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn serve(folder: &str, addr: &str, leader: &str) -> Result<()> {
    let listener = TcpListener::bind(addr).await?;
    let connector = Arc::new(Plain(addr.to_owned()));
    let mut config = Config::new(Member::random_id(), "bench", addr, folder);
    config.advertise = addr.to_owned();
    config.keys = Some(Keyring::new(DataKey::random(), []));
    let state = kv::State::default();
    let handle = if leader.is_empty() {
        Raft::bootstrap(config, state.clone(), connector).await?
    } else {
        let channel = connector.connect(&Member::new(1, "", leader)).await;
        let channel = channel.map_err(|error| anyhow::anyhow!("connect to {leader}: {error}"))?;
        let request = RaftJoinRequest {
            node_id: addr.to_owned(),
            addr: addr.to_owned(),
        };
        let answer = RaftClient::new(channel).join(request).await?.into_inner();
        config.id = answer.raft_id;
        let members = answer.members.into_iter();
        let members = members.map(|member| Member::new(member.raft_id, member.node_id, member.addr));
        Raft::join(config, members.collect(), state.clone(), connector).await?
    };
    if leader.is_empty() {
        tokio::spawn(promote_learners(handle.clone()));
    }
    let hook = |extensions: &tonic::Extensions| {
        let known = extensions.get::<PeerIdentity>().cloned();
        known.ok_or_else(|| Status::unauthenticated("who are you"))
    };
    let raft = InterceptedService::new(RaftService::new(handle.clone(), hook).into_server(), identify);
    let router = Server::builder()
        .add_service(raft)
        .add_service(kv::Server::new(handle.clone(), state));
    let incoming = TcpListenerStream::new(listener).map(|stream| {
        // As the cluster port has it, and etcd.
        stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream))
    });
    let server = tokio::spawn(router.serve_with_incoming(incoming));
    let votes = async {
        let mut members = handle.members_watch();
        let own = handle.id();
        let voter = |list: &Arc<Vec<Member>>| list.iter().any(|m| m.id == own && m.role == Role::Voter);
        members.wait_for(voter).await.map(drop)
    };
    tokio::time::timeout(PATIENCE, votes).await??;
    println!("{READY}");
    // The bench holds the other end: with it this process ends too.
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    server.abort();
    Ok(())
}
