//! The machines and the course of a simulation: a cluster is made, faults befall it, it is left in peace, and judged.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pontoon_controller::StopReason;
use pontoon_identity::{CertificateRequest, DEFAULT_EXPIRY, Identity, PeerIdentity, RootCa};
use pontoon_proto::planted::plant;
use pontoon_proto::v1::ca_client::CaClient;
use pontoon_proto::v1::control_client::ControlClient;
use pontoon_proto::v1::{
    Annotations, Availability, CreateClusterNetworkRequest, GetJoinTokensRequest, IssueCertificateRequest,
    JoinTokens, NetworkSpec, NodeRole,
};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::agent::{Agent, Surroundings};
use crate::client::{Client, value_of};
use crate::history::History;
use crate::machine::Hardware;
use crate::manager::{ManagerNode, Start};
use crate::members::{Office, Return};
use crate::net::Net;
use crate::operator::Operator;
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::shuffle::Disorder;
use crate::trace::Trace;
use crate::{CLUSTER, NETWORK, Options, Report, invariants};

/// How often the world looks at its machines.
const LOOK: Duration = Duration::from_millis(20);
/// A cluster that is left in peace must have settled by then.
const PEACE: Duration = Duration::from_secs(120);
/// A daemon whose manager is none any more ends it by then.
const DISMISSED: Duration = Duration::from_secs(5);
/// Setting up must not take longer.
const BEGIN: Duration = Duration::from_secs(120);
/// Between a stop and the next start of a manager's process.
const RESTART: (u64, u64) = (200, 2000);

/// Keys and certificates are costly to make and decide nothing: one set for all simulations of a process.
pub(crate) struct Credentials {
    root: RootCa,
    csr: String,
    first: Arc<Identity>,
    dir: tempfile::TempDir,
}

pub(crate) fn credentials() -> &'static Credentials {
    static SHARED: OnceLock<Credentials> = OnceLock::new();
    SHARED.get_or_init(|| {
        // Always the same: its length decides where a torn record is cut.
        let (certificate, key) = (
            include_bytes!("../fixtures/root.pem"),
            include_bytes!("../fixtures/root-key.pem"),
        );
        let root = RootCa::from_pem(certificate, key).expect("a sound root");
        let dir = tempfile::tempdir().expect("there is a folder for temporary files");
        let first = identity(&root, dir.path(), "manager1");
        let csr = CertificateRequest::generate()
            .expect("a request can be made")
            .csr_pem;
        Credentials {
            root,
            csr,
            first,
            dir,
        }
    })
}

fn identity(root: &RootCa, dir: &std::path::Path, node_id: &str) -> Arc<Identity> {
    let me = PeerIdentity {
        node_id: node_id.to_owned(),
        role: NodeRole::Manager,
        cluster_id: CLUSTER.to_owned(),
    };
    let issued = root
        .issue_credentials(&me, DEFAULT_EXPIRY)
        .expect("a certificate can be made");
    // Several simulations may run at once, with the same ids.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Identity::install(&dir.join(number.to_string()), &issued).expect("the folder is writable")
}

/// Who has not heard that it is done must not ask again: it may be a manager once more by then.
fn demotion_ends(demoting: &mut Option<AbortHandle>) {
    if let Some(asking) = demoting.take() {
        asking.abort();
    }
}

/// All machines.
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) rng: Rng,
    pub(crate) trace: Trace,
    pub(crate) net: Net,
    pub(crate) oracle: Oracle,
    pub(crate) history: History,
    pub(crate) disorder: Disorder,
    pub(crate) managers: Vec<ManagerNode>,
    pub(crate) agents: Vec<(Agent, Option<AbortHandle>)>,
    clients: Vec<AbortHandle>,
    /// There is to be peace: the operator changes nothing but what keeps the cluster from resting.
    peace: Arc<AtomicBool>,
    tokens: JoinTokens,
    /// Managers that start again at these times.
    pub(crate) restarts: BTreeMap<usize, Instant>,
    /// Managers that were taken out of the group.
    pub(crate) returns: BTreeMap<usize, Return>,
    /// Managers that are none any more, and since when.
    dismissed: BTreeMap<usize, Instant>,
    /// A demotion under way, and who asks for it.
    pub(crate) demoting: Option<AbortHandle>,
}

/// The whole of a simulation.
pub(crate) async fn simulate(options: &Options) -> Report {
    let trace = Trace::new(options.print);
    let rng = Rng::new(options.seed);
    let mut world = World {
        options: options.clone(),
        oracle: Oracle::new(&trace),
        net: Net::new(rng.fork(), trace.clone()),
        history: History::default(),
        disorder: Disorder::new(&rng),
        managers: Vec::new(),
        agents: Vec::new(),
        clients: Vec::new(),
        peace: Arc::default(),
        tokens: JoinTokens::default(),
        restarts: BTreeMap::new(),
        returns: BTreeMap::new(),
        dismissed: BTreeMap::new(),
        demoting: None,
        rng,
        trace,
    };
    let course = async {
        world.begin().await?;
        plant(options.planted);
        world.storm().await?;
        world.settle().await
    };
    let outcome = course.await;
    let answered = world.history.answered();
    if outcome.is_ok() {
        let state = world.oracle.state();
        world
            .history
            .conclude(|name| state.service_by_name(name).and_then(|service| value_of(service)));
    }
    let complaint = world.oracle.complaint();
    // Wrong answers tell more than a cluster that does not come to rest.
    let complaint = complaint.or_else(|| world.history.check().err());
    let complaint = complaint.or(outcome.err());
    if let Some(what) = &complaint {
        world.trace.event(format_args!("VERDICT {what}"));
    }
    Report {
        trace: world.trace.digest(),
        chance: world.rng.bits(),
        answered,
        version: world.oracle.state().version(),
        complaint,
    }
}

impl World {
    /// Lets time pass while the machines are looked after; an error is a complaint.
    pub(crate) async fn pass(&mut self, time: Duration) -> Result<(), String> {
        let until = Instant::now() + time;
        loop {
            self.look()?;
            let now = Instant::now();
            if now >= until {
                return Ok(());
            }
            tokio::time::sleep(LOOK.min(until - now)).await;
        }
    }

    /// Does something that must succeed in time, while the machines are looked after.
    async fn through<T>(&mut self, what: &str, work: impl Future<Output = Option<T>>) -> Result<T, String> {
        let mut work = std::pin::pin!(work);
        let until = Instant::now() + BEGIN;
        while Instant::now() < until {
            self.look()?;
            tokio::select! {
                biased;
                done = &mut work => return done.ok_or_else(|| format!("{what} failed")),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        Err(format!("{what} took too long"))
    }

    fn look(&mut self) -> Result<(), String> {
        if let Some(complaint) = self.oracle.complaint() {
            return Err(complaint);
        }
        let now = Instant::now();
        for at in 0..self.managers.len() {
            let node = &mut self.managers[at];
            node.look();
            if node.is_up() && node.hardware.disk.is_crashed() {
                node.crash(true);
            }
            let stopped = match node.stop_reason() {
                None if self.is_dismissed(at, now) => Some(StopReason::Removed),
                reason => reason,
            };
            let node = &mut self.managers[at];
            match stopped {
                Some(StopReason::Removed) => {
                    self.dismissed.remove(&at);
                    self.trace
                        .event(format_args!("{} was taken out of the group", node.name()));
                    node.wipe(&self.rng);
                    self.returns.insert(at, Return::new(&self.rng));
                    demotion_ends(&mut self.demoting);
                }
                Some(_) => node.crash(false),
                None => {}
            }
            if let Some(manager) = node.manager() {
                self.oracle.shown(node.name(), manager.snapshot().version());
            }
            if !node.is_up() && !node.is_member {
                let office = self.office(at);
                let node = &self.managers[at];
                let Some(back) = self.returns.get_mut(&at) else {
                    continue;
                };
                if back.may_join(node, &office) {
                    self.returns.remove(&at);
                    self.join_again(at);
                }
                continue;
            }
            if !node.is_up() {
                let due = match self.restarts.get(&at) {
                    Some(due) => *due,
                    None => {
                        let due = now + self.rng.millis(RESTART.0, RESTART.1);
                        self.restarts.insert(at, due);
                        due
                    }
                };
                if due <= now {
                    self.restarts.remove(&at);
                    self.start_again(at);
                }
            }
        }
        Ok(())
    }

    /// Whether a manager is none any more and has not heard of it for a while: nobody tells a member that is cut off, and one that has
    /// learnt of no other asks nobody. Its daemon ends it, as the agent beside it is told of the role.
    fn is_dismissed(&mut self, at: usize, now: Instant) -> bool {
        let node = &self.managers[at];
        let state = self.oracle.state();
        let object = state.node(&node.identity.node_id());
        let is_none = object.is_some_and(|object| {
            let role = object.spec.as_ref().map(|spec| spec.role());
            role == Some(NodeRole::Worker) && object.manager_status.is_none()
        });
        if !is_none || !node.is_up() || !node.is_member {
            self.dismissed.remove(&at);
            return false;
        }
        let since = *self.dismissed.entry(at).or_insert(now);
        now - since > DISMISSED
    }

    /// Whoever asks the other managers about this one.
    pub(crate) fn office(&self, at: usize) -> Office {
        let others = self.managers.iter().enumerate().filter(|(other, _)| *other != at);
        Office {
            net: self.net.clone(),
            rng: self.rng.clone(),
            managers: others.map(|(_, node)| node.addr.clone()).collect(),
            csr: credentials().csr.clone(),
        }
    }

    /// Starts a process that ended. One that died while it joined begins anew, as its operator would let it: it is made a
    /// manager, in case that was taken back meanwhile, and joins.
    fn start_again(&mut self, at: usize) {
        let node = &mut self.managers[at];
        if !node.has_joined() {
            node.wipe(&self.rng);
            self.returns.insert(at, Return::new(&self.rng));
            demotion_ends(&mut self.demoting);
            return;
        }
        self.trace.event(format_args!("{} starts again", node.name()));
        node.start(Start::Open, &credentials().root);
    }

    fn join_again(&mut self, at: usize) {
        let others = self.office(at).managers;
        let node = &mut self.managers[at];
        self.trace.event(format_args!("{} joins again", node.name()));
        node.start(Start::Join(others), &credentials().root);
    }

    /// The first manager, the others, the workers, the clients.
    async fn begin(&mut self) -> Result<(), String> {
        let shared = credentials();
        let hardware = Hardware::new("m1", &self.rng, &self.oracle);
        let mut first = ManagerNode::new(
            hardware,
            shared.first.clone(),
            &self.net,
            &self.trace,
            &self.disorder,
        );
        first.start(Start::Bootstrap, &shared.root);
        let (addr, local) = (first.addr.clone(), first.local_addr());
        self.managers.push(first);
        let net = self.net.clone();
        let setup = async {
            let channel = net.connect("m1", &local, None).await.ok()?;
            let mut control = ControlClient::new(channel);
            let tokens = control.get_join_tokens(GetJoinTokensRequest {}).await.ok()?;
            let spec = NetworkSpec {
                annotations: Some(Annotations {
                    name: NETWORK.to_owned(),
                    ..Annotations::default()
                }),
                driver: "overlay".to_owned(),
                ..NetworkSpec::default()
            };
            let request = CreateClusterNetworkRequest { spec: Some(spec) };
            control.create_network(request).await.ok()?;
            Some(tokens.into_inner())
        };
        self.tokens = self.through("making the cluster", setup).await?;
        self.spawn_agent("m1", NodeRole::Manager, Some("manager1".to_owned()));
        for number in 2..=self.options.managers {
            self.add_manager(&format!("m{number}"), &addr).await?;
        }
        for number in 1..=self.options.workers {
            self.spawn_agent(&format!("w{number}"), NodeRole::Worker, None);
        }
        for number in 1..=self.options.clients {
            let client = Client {
                number,
                managers: self.managers.iter().map(ManagerNode::local_addr).collect(),
                net: self.net.clone(),
                rng: self.rng.clone(),
                history: self.history.clone(),
                trace: self.trace.clone(),
            };
            self.clients.push(tokio::spawn(client.run()).abort_handle());
        }
        let operator = Operator {
            managers: self.managers.iter().map(ManagerNode::local_addr).collect(),
            net: self.net.clone(),
            rng: self.rng.clone(),
            trace: self.trace.clone(),
            peace: self.peace.clone(),
        };
        drop(tokio::spawn(operator.run()));
        self.pass(Duration::from_secs(3)).await
    }

    async fn add_manager(&mut self, name: &str, by: &str) -> Result<(), String> {
        let shared = credentials();
        let request = IssueCertificateRequest {
            csr: shared.csr.as_bytes().to_vec().into(),
            token: self.tokens.manager.clone(),
            availability: Availability::Active.into(),
        };
        let net = self.net.clone();
        let asking = async {
            let channel: Channel = net.connect(name, by, None).await.ok()?;
            let answer = CaClient::new(channel).issue_certificate(request).await.ok()?;
            Some(answer.into_inner().node_id)
        };
        let node_id = self.through("asking for a certificate", asking).await?;
        let identity = identity(&shared.root, shared.dir.path(), &node_id);
        let hardware = Hardware::new(name, &self.rng, &self.oracle);
        let mut node = ManagerNode::new(hardware, identity, &self.net, &self.trace, &self.disorder);
        node.start(Start::Join(vec![by.to_owned()]), &shared.root);
        self.managers.push(node);
        let until = Instant::now() + BEGIN;
        loop {
            self.pass(LOOK).await?;
            let node = self.managers.last().expect("it was just added");
            if let Some(manager) = node.manager()
                && manager.wait_ready(Duration::ZERO).await.is_ok()
            {
                break;
            }
            if Instant::now() > until {
                return Err(format!("{name} does not become a manager"));
            }
        }
        self.spawn_agent(name, NodeRole::Manager, Some(node_id));
        Ok(())
    }

    fn spawn_agent(&mut self, name: &str, role: NodeRole, node_id: Option<String>) {
        let around = Surroundings {
            net: self.net.clone(),
            rng: self.rng.clone(),
            oracle: self.oracle.clone(),
            trace: self.trace.clone(),
        };
        let managers = self.managers.iter().map(|node| node.addr.clone()).collect();
        self.agents
            .push((Agent::new(name, &around, role, node_id, managers), None));
        self.start_agent(self.agents.len() - 1);
    }

    /// Starts an agent that does not run.
    pub(crate) fn start_agent(&mut self, at: usize) {
        let (agent, task) = &mut self.agents[at];
        let run = agent
            .clone()
            .run(self.tokens.worker.clone(), credentials().csr.clone());
        task.get_or_insert_with(|| tokio::spawn(run).abort_handle());
    }

    /// Everything heals; then the cluster must come to rest.
    async fn settle(&mut self) -> Result<(), String> {
        self.trace.event(format_args!("peace"));
        for client in self.clients.drain(..) {
            client.abort();
        }
        self.peace.store(true, Ordering::Relaxed);
        self.calm();
        let until = Instant::now() + PEACE;
        loop {
            self.pass(Duration::from_millis(200)).await?;
            let Some(reason) = self.unrest() else { break };
            if Instant::now() > until {
                return Err(format!("the cluster does not come to rest: {reason}"));
            }
        }
        self.trace.event(format_args!("at rest"));
        // And it stays so.
        self.pass(Duration::from_secs(2)).await?;
        self.unrest().map_or(Ok(()), |reason| {
            Err(format!("the cluster was at rest for a moment only: {reason}"))
        })
    }

    /// What each manager has applied.
    fn versions(&self) -> Vec<(&str, Option<u64>)> {
        let version = |node: &ManagerNode| node.manager().map(|manager| manager.snapshot().version());
        self.managers
            .iter()
            .map(|node| (node.name(), version(node)))
            .collect()
    }

    /// Why the cluster is not at rest.
    fn unrest(&self) -> Option<String> {
        if self.demoting.is_some() {
            return Some(format!("a demotion is not done yet ({:?})", self.versions()));
        }
        let view = self.oracle.state();
        let mut leaders = BTreeMap::new();
        for node in &self.managers {
            let Some(manager) = node.manager() else {
                return Some(format!("{} is down", node.name()));
            };
            if *manager.snapshot() != *view {
                return Some(format!(
                    "{} has version {} of {}, or another state; {:?}",
                    node.name(),
                    manager.snapshot().version(),
                    view.version(),
                    *manager.leadership().borrow()
                ));
            }
            let leader = manager
                .leadership()
                .borrow()
                .leader
                .as_ref()
                .map(|leader| leader.id);
            leaders.insert(leader, node.name().to_owned());
        }
        if leaders.len() != 1 || leaders.contains_key(&None) {
            return Some(format!("the managers do not agree who leads: {leaders:?}"));
        }
        let mut up = Vec::new();
        for (agent, _) in &self.agents {
            match agent.node_id() {
                Some(id) => up.push(id),
                None => return Some(format!("{} has not joined", agent.name)),
            }
        }
        invariants::unsettled(&view, &up)
    }
}
