//! One simulated manager: the real one on a simulated machine, with its cluster port and its local socket.
//!
//! Starts, crashes, restarts, joins and leaves as the daemon would have it; called by the world.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_controller::{Host, InitOptions, Manager, ManagerConfig, Network, StopReason};
use pontoon_identity::{Connections, Identity, PeerIdentity, RootCa};
use pontoon_proto::v1::{ClusterSpec, NodeSpec};
use pontoon_raft::{ConnectError, Fault};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Server};

use crate::machine::{Hardware, Life};
use crate::net::Net;
use crate::shuffle::Disorder;
use crate::trace::Trace;
use crate::wire::Wire;

/// As the real cluster port's.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How a manager starts.
pub enum Start {
    /// As the first of a new cluster.
    Bootstrap,
    /// Into a cluster, by these managers.
    Join(Vec<String>),
    /// From its disk.
    Open,
}

/// A manager's way to the others.
struct Dialler {
    net: Net,
    from: String,
    peer: PeerIdentity,
}

impl fmt::Debug for Dialler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dialler of {}", self.from)
    }
}

#[tonic::async_trait]
impl Network for Dialler {
    fn channel(&self, addr: &str, keep_alive: Option<Duration>) -> Result<Channel, ConnectError> {
        Ok(self
            .net
            .channel(&self.from, addr, Some(self.peer.clone()), keep_alive))
    }

    async fn connect(&self, addr: &str) -> Result<Channel, ConnectError> {
        let connected = self.net.connect(&self.from, addr, Some(self.peer.clone())).await;
        connected.map_err(|error| pontoon_identity::describe(&error).into())
    }

    async fn probe(&self, addr: &str) -> Result<(), ConnectError> {
        if self.net.listens(&self.from, addr) {
            return Ok(());
        }
        Err(format!("nothing listens at {addr}").into())
    }
}

/// What a crash takes away.
struct Running {
    life: Arc<Life>,
    boot: AbortHandle,
    manager: Arc<Mutex<Option<Arc<Manager>>>>,
}

/// A manager's machine and what runs on it.
pub struct ManagerNode {
    /// Where the others reach it.
    pub addr: String,
    /// Disk and clock.
    pub hardware: Hardware,
    /// Its certificate.
    pub identity: Arc<Identity>,
    /// What it takes part in; false when it was taken out and its disk is void.
    pub is_member: bool,
    net: Net,
    trace: Trace,
    disorder: Disorder,
    running: Option<Running>,
    has_started: bool,
    /// It lost power, and with it what was not synced.
    power_lost: bool,
}

impl ManagerNode {
    /// One that has never run.
    pub fn new(
        hardware: Hardware,
        identity: Arc<Identity>,
        net: &Net,
        trace: &Trace,
        disorder: &Disorder,
    ) -> Self {
        Self {
            addr: format!("{}:2377", hardware.name),
            hardware,
            identity,
            is_member: false,
            net: net.clone(),
            trace: trace.clone(),
            disorder: disorder.clone(),
            running: None,
            has_started: false,
            power_lost: false,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.hardware.name
    }

    /// True once it has started: from then on its disk holds a log. One that died while it joined begins anew, as its
    /// operator would let it.
    pub fn has_joined(&self) -> bool {
        self.has_started
    }

    /// Notes that it has started.
    pub fn look(&mut self) {
        self.has_started |= self.manager().is_some();
    }

    /// Where clients on its machine reach it.
    pub fn local_addr(&self) -> String {
        format!("{}:local", self.hardware.name)
    }

    /// The running manager, once it has started.
    pub fn manager(&self) -> Option<Arc<Manager>> {
        let running = self.running.as_ref()?;
        running
            .manager
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// True while its process runs.
    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// True when its process runs but takes part no more: its disk failed, it was removed, or it could not start.
    pub fn stop_reason(&self) -> Option<StopReason> {
        let running = self.running.as_ref()?;
        if running.boot.is_finished() {
            return Some(StopReason::Storage("it could not start".to_owned()));
        }
        self.manager()
            .and_then(|manager| manager.stopped().borrow().clone())
    }

    /// Starts its process.
    pub fn start(&mut self, start: Start, root: &RootCa) {
        if self.power_lost {
            self.hardware.disk.restart();
        } else {
            self.hardware.disk.restart_process();
        }
        self.power_lost = false;
        self.net.light(self.name());
        let life = Life::new(&self.hardware);
        let mut config = ManagerConfig::new("/data", self.identity.clone(), &self.addr);
        config.host = Host::simulated(life.clone());
        config.network = Some(Arc::new(Dialler {
            net: self.net.clone(),
            from: self.name().to_owned(),
            peer: self.identity.peer(),
        }));
        config.encrypt = false;
        // Small, so that snapshots, new segments and late followers are common.
        config.raft.segment_bytes = 64 << 10;
        config.raft.snapshot_every = 40;
        config.raft.keep_entries = 15;
        config.leader_timeout = Duration::from_secs(4);
        let first = InitOptions {
            root: RootCa::from_pem(root.certificate_pem().as_bytes(), root.key_pem().as_bytes())
                .expect("the simulation's own root"),
            spec: ClusterSpec::default(),
            node: NodeSpec::default(),
            description: None,
        };
        let manager = Arc::new(Mutex::new(None));
        let boot = Boot {
            name: self.name().to_owned(),
            cluster: self.net.listen(&self.addr),
            local: self.net.listen(&self.local_addr()),
            connections: config.connections.clone(),
            slot: manager.clone(),
            trace: self.trace.clone(),
            disorder: self.disorder.clone(),
        };
        let boot = tokio::spawn(boot.run(config, start, first)).abort_handle();
        self.is_member = true;
        self.running = Some(Running { life, boot, manager });
    }

    /// Its process dies; with the power also what was not synced is lost, and nobody hears of it.
    pub fn crash(&mut self, power: bool) {
        let Some(running) = self.running.take() else {
            return;
        };
        self.trace.event(format_args!(
            "{} {}",
            self.name(),
            if power { "loses power" } else { "is killed" }
        ));
        // Nothing that the dead process still seems to do may reach its disk.
        let disk = &self.hardware.disk;
        if !disk.is_crashed() {
            disk.fail_at(disk.operations() + 1, Fault::Crash);
        }
        self.power_lost |= power;
        self.net.crash(self.name(), power);
        running.boot.abort();
        running.life.end();
        running
            .manager
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Its disk is void; it may join again.
    pub fn wipe(&mut self, rng: &crate::rng::Rng) {
        self.crash(false);
        self.hardware.disk = pontoon_raft::SimDisk::new(rng.bits());
        self.is_member = false;
        self.has_started = false;
        self.power_lost = false;
    }
}

struct Boot {
    name: String,
    cluster: mpsc::UnboundedReceiver<std::io::Result<Wire>>,
    local: mpsc::UnboundedReceiver<std::io::Result<Wire>>,
    connections: Connections,
    slot: Arc<Mutex<Option<Arc<Manager>>>>,
    trace: Trace,
    disorder: Disorder,
}

impl Boot {
    async fn run(self, config: ManagerConfig, start: Start, first: InitOptions) {
        let started = match start {
            Start::Bootstrap => Box::pin(Manager::bootstrap(config, first)).await,
            Start::Join(remotes) => Box::pin(Manager::join(config, &remotes)).await,
            Start::Open => Manager::open(config).await,
        };
        let manager = match started {
            Ok(manager) => Arc::new(manager),
            Err(error) => {
                let reason = pontoon_identity::describe(&error);
                self.trace
                    .event(format_args!("{} can't start: {reason}", self.name));
                return;
            }
        };
        self.trace.event(format_args!("{} has started", self.name));
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(manager.clone());
        let connections = self.connections;
        let cluster = UnboundedReceiverStream::new(self.cluster)
            .map(move |wire| wire.map(|wire| wire.registered(&connections)));
        let local = UnboundedReceiverStream::new(self.local);
        let server = || {
            Server::builder()
                .http2_keepalive_interval(Some(KEEP_ALIVE))
                .http2_keepalive_timeout(Some(KEEP_ALIVE))
        };
        let cluster = server()
            .layer(self.disorder)
            .add_routes(manager.cluster_routes())
            .serve_with_incoming(cluster);
        let local = server()
            .add_routes(manager.local_routes())
            .serve_with_incoming(local);
        // Both end only with the listeners, that is, with the process.
        let _ = tokio::join!(cluster, local);
    }
}
