//! What runs while this node is in a cluster: the agent and the cluster port always, the controller on managers.
//!
//! The node's role is the cluster's to change: [`super::roles`] follows the agent's view of the node's own object.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pontoon_agent::exec::{self, EngineExecutor, ExecutorOptions};
use pontoon_agent::{Agent, AgentConfig, Attachments, IdentityConnector, Images};
use pontoon_controller::{
    Backup, ExternalStore, InitOptions, Manager, ManagerConfig, Role, StopReason, keys,
};
use pontoon_identity::{Identity, RootCa, UnlockKey, renew_forever};
use pontoon_proto::v1::{ClusterSpec, LocalNodeState, ManagerPeer, NodeRole, NodeSpec, SwarmStatus};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::backups::{self, Schedule};
use super::images::Resolver;
use super::local::ControlSlot;
use super::membership::Settings;
use super::port::ClusterPort;
use super::roles::Roles;
use super::supervise::Supervisor;
use super::{SharedEngine, describe};

/// So long a new manager may take to have the cluster's state.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// So long the agent waits for a restarted manager; it runs its tasks without one as well.
const READY_AGAIN: Duration = Duration::from_secs(5);

/// How a node comes up.
pub enum Start {
    /// As the first manager of a new cluster.
    NewCluster(Box<InitState>),
    /// With a certificate just issued for a token.
    Joining,
    /// After a restart of the daemon.
    Again,
    /// As the only manager of a cluster that begins anew with what this manager's log holds.
    Anew,
    /// As the only manager of a cluster that begins anew with a backup.
    Restored(Box<Backup>),
}

/// What a new cluster starts with.
pub struct InitState {
    /// The root that issued this node's certificate.
    pub root: RootCa,
    /// The cluster's settings.
    pub spec: ClusterSpec,
    /// This node's settings.
    pub node: NodeSpec,
}

/// What a node is made of.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Folder of everything that belongs to the membership.
    pub dir: PathBuf,
    /// Runs the tasks.
    pub engine: SharedEngine,
    /// Where the controller's local services are shown.
    pub control: ControlSlot,
    /// Addresses.
    pub settings: Settings,
    /// Certificate and key.
    pub identity: Arc<Identity>,
    /// What the manager was unlocked with.
    pub unlock_key: Option<UnlockKey>,
    /// Backups on a schedule, if they are wanted.
    pub backups: Option<Arc<Schedule>>,
    /// Where the manager keeps the cluster's state, if not itself.
    pub store: Option<ExternalStore>,
}

/// A node in a cluster.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    port: Arc<ClusterPort>,
    agent: Arc<Agent>,
    /// The controller, while this node is a manager; shared with the task that follows the role.
    manager: Arc<ManagerSlot>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

pub(super) type ManagerSlot = Mutex<Option<RunningManager>>;

pub(super) struct RunningManager {
    pub(super) manager: Arc<Manager>,
}

impl std::fmt::Debug for RunningManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RunningManager")
    }
}

impl Node {
    /// Starts the parts that the certificate's role asks for.
    ///
    /// # Errors
    /// What could not be started, and why.
    pub async fn start(config: NodeConfig, start: Start) -> Result<Self, String> {
        let manager = Arc::new(Mutex::new(None));
        let images = Images::new(config.engine.clone(), config.identity.clone());
        let is_manager = config.identity.role() == NodeRole::Manager;
        // A worker that restarts runs its tasks also while something else has its port.
        let patient = !is_manager && matches!(start, Start::Again);
        let (addr, identity) = (config.settings.listen_addr, config.identity.clone());
        // Bound first: a port that is taken is found before the cluster knows of this node.
        let port = Arc::new(ClusterPort::open(addr, identity, &images, patient).await?);
        if is_manager {
            let again = matches!(start, Start::Again);
            match start_manager(&config, &port, start).await {
                Ok(running) => *manager.lock().await = Some(running),
                // The node does without, and the supervisor tries again.
                Err(failure) if again && (failure.disk_full || failure.may_pass) => {
                    config.control.set_trouble(Some(failure.text));
                }
                Err(failure) => {
                    // The next try needs it.
                    port.close().await;
                    return Err(failure.text);
                }
            }
        } else {
            config.control.set_worker(true);
        }
        let agent = Arc::new(
            Agent::open(agent_config(&config, &images))
                .await
                .map_err(|error| describe(&error))?,
        );
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let managers = manager_addrs(&config, &agent);
        tasks.spawn(renew_forever(config.identity.clone(), managers, stop.clone()));
        let roles = Roles {
            config: config.clone(),
            port: port.clone(),
            manager: manager.clone(),
            agent: agent.clone(),
        };
        let supervisor = Supervisor {
            config: config.clone(),
            port: port.clone(),
            manager: manager.clone(),
        };
        tasks.spawn(supervisor.run(stop.clone()));
        tasks.spawn(roles.follow(stop.clone()));
        if let Some(schedule) = config.backups.clone() {
            let slot = manager.clone();
            let present = async move || slot.lock().await.as_ref().map(|running| running.manager.clone());
            tasks.spawn(backups::run(schedule, present, stop.clone()));
        }
        tasks.spawn(run_agent(agent.clone(), stop.clone()));
        Ok(Self {
            config,
            port,
            agent,
            manager,
            stop,
            tasks,
        })
    }

    /// The worker's join token, on a manager.
    pub fn worker_token(&self) -> Option<String> {
        let manager = self.manager.try_lock().ok()?.as_ref()?.manager.clone();
        let snapshot = manager.snapshot();
        let root = snapshot.cluster()?.root_ca.clone()?;
        Some(root.join_tokens?.worker)
    }

    /// The controller, while this node is a manager and no change of its role is under way.
    pub fn manager(&self) -> Option<Arc<Manager>> {
        let slot = self.manager.try_lock().ok()?;
        slot.as_ref().map(|running| running.manager.clone())
    }

    /// This node's identity, and what its manager's keys are sealed with.
    pub fn unlocked(&self) -> (Arc<Identity>, Option<UnlockKey>) {
        (self.config.identity.clone(), current_lock(&self.config))
    }

    /// Why this node should not leave without force, if so.
    pub fn refuses_to_leave(&self) -> Option<String> {
        let slot = self.manager.try_lock().ok()?;
        let manager = &slot.as_ref()?.manager;
        let mut text =
            "You are attempting to leave the swarm on a node that is participating as a manager. ".to_owned();
        let voters = manager
            .members()
            .into_iter()
            .filter(|member| member.role == Role::Voter);
        let (reachable, unreachable): (Vec<_>, Vec<_>) = voters.partition(|member| member.reachable);
        let (reachable, unreachable) = (reachable.len(), unreachable.len());
        if reachable + unreachable <= 1 {
            text.push_str(
                "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. ",
            );
            return Some(text);
        }
        if self.config.store.is_some() {
            // Any manager that is left has all of the state.
            text.push_str("Demote it first, or use `--force` to suppress this message.");
            return Some(text);
        }
        if reachable <= unreachable + 2 {
            text.push_str(&format!(
                "Removing this node leaves {} managers out of {}. Without a Raft quorum your swarm will be inaccessible. ",
                reachable.saturating_sub(1),
                reachable + unreachable
            ));
        }
        text.push_str(
            "The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. \
             Use `--force` to suppress this message.",
        );
        Some(text)
    }

    /// Fills in what `status` shows.
    pub fn fill_status(&self, status: &mut SwarmStatus) {
        let identity = &self.config.identity;
        status.node_id = identity.node_id();
        status.cluster_id = identity.cluster_id();
        status.set_role(identity.role());
        status.node_addr = self.config.settings.advertise_addr.ip().to_string();
        status.remote_managers = manager_addrs(&self.config, &self.agent)();
        if let Some(reason) = self.config.control.trouble() {
            status.set_state(LocalNodeState::Error);
            status.error = reason;
        } else if let Some(problem) = identity.problem() {
            status.set_state(LocalNodeState::Error);
            let way_out = match identity.role() {
                NodeRole::Manager => "restart the daemon: a manager gives itself a new one at its start",
                NodeRole::Worker => "`pontoon swarm leave` and `pontoon swarm join` get a new certificate",
            };
            status.error = format!("{problem}; {way_out}");
        }
        if let Ok(slot) = self.manager.try_lock()
            && let Some(running) = slot.as_ref()
        {
            let members = running.manager.members();
            status.managers = members.len() as u64;
            status.nodes = running.manager.snapshot().nodes().count() as u64;
            status.remote_managers = members.into_iter().map(|member| member.addr).collect();
            if let Some(reason) = taken_out(&running.manager) {
                status.set_state(LocalNodeState::Error);
                status.error = reason;
            }
        }
    }

    /// Ends everything with the daemon; tasks go on, leadership is handed over.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        if let Some(running) = self.manager.lock().await.take() {
            stop_manager(&self.config, &self.port, running).await;
        }
        self.port.close().await;
    }

    /// Leaves the cluster: out of the raft group, no tasks, no overlays. Returns what could not be done; the node leaves all the same.
    pub async fn leave(mut self) -> Vec<String> {
        let mut problems = Vec::new();
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        if let Some(running) = self.manager.lock().await.take() {
            let left = if running.manager.members().len() > 1 {
                running.manager.leave().await
            } else {
                running.manager.erase().await
            };
            if let Err(error) = left {
                problems.push(describe(&error));
            }
            stop_manager(&self.config, &self.port, running).await;
        }
        self.port.close().await;
        problems.extend(remove_tasks(&self.config.engine).await);
        problems
    }
}

/// Whether a manager's log stopped because the others have taken its member out.
pub(super) fn is_taken_out(stopped: &Option<StopReason>) -> bool {
    *stopped == Some(StopReason::Removed)
}

/// What became of a manager that the others have taken out. A full disk is the supervisor's to tell.
fn taken_out(manager: &Manager) -> Option<String> {
    is_taken_out(&manager.stopped().borrow()).then(|| {
        "this manager was removed from the swarm: use \"pontoon swarm leave --force\", then join again"
            .to_owned()
    })
}

/// Removes all tasks' containers and all overlays from this host.
pub async fn remove_tasks(engine: &SharedEngine) -> Vec<String> {
    exec::remove_all(engine).await
}

fn agent_config(config: &NodeConfig, images: &Arc<Images>) -> AgentConfig {
    let executor = ExecutorOptions {
        node_id: config.identity.node_id(),
        data_path_addr: config.settings.data_path_addr,
        peer_addr: config.settings.advertise_addr.to_string(),
        hostname: String::new(),
    };
    AgentConfig {
        node_id: config.identity.node_id(),
        state_dir: config.dir.join("tasks"),
        managers: initial_managers(config)
            .into_iter()
            .map(|addr| ManagerPeer {
                node_id: String::new(),
                addr,
            })
            .collect(),
        connector: Arc::new(IdentityConnector::new(config.identity.clone())),
        executor: Arc::new(
            EngineExecutor::new(config.engine.clone(), executor)
                .with_images(images.clone())
                .with_attachments(Attachments::begin(&config.engine)),
        ),
        images: Some(images.clone()),
    }
}

async fn run_agent(agent: Arc<Agent>, stop: CancellationToken) {
    if let Err(error) = agent.run(stop).await {
        tracing::error!(error = %describe(&error), "the agent ended");
    }
}

fn initial_managers(config: &NodeConfig) -> Vec<String> {
    let mut managers = config.settings.remote_managers.clone();
    if config.identity.role() == NodeRole::Manager {
        managers.insert(0, config.settings.advertise_addr.to_string());
    }
    managers
}

/// Where managers are, as far as this node knows: for renewals.
pub(super) fn manager_addrs(
    config: &NodeConfig,
    agent: &Arc<Agent>,
) -> impl Fn() -> Vec<String> + Send + 'static {
    let (config, agent) = (config.clone(), agent.clone());
    move || {
        let mut known = agent.managers();
        for addr in initial_managers(&config) {
            if !known.contains(&addr) {
                known.push(addr);
            }
        }
        known
    }
}

/// Why a manager did not start.
pub(super) struct StartFailure {
    pub(super) text: String,
    /// There is no space left for its files.
    pub(super) disk_full: bool,
    /// What it needs is elsewhere, and may be there later.
    pub(super) may_pass: bool,
}

impl StartFailure {
    fn new(error: &pontoon_controller::Error) -> Self {
        let first: &(dyn std::error::Error + 'static) = error;
        let mut causes = std::iter::successors(Some(first), |error| error.source());
        let disk_full = causes.any(|cause| {
            let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            use std::io::ErrorKind::{QuotaExceeded, StorageFull};
            matches!(kind, Some(StorageFull | QuotaExceeded))
        });
        Self {
            text: describe(error),
            disk_full,
            may_pass: error.may_pass(),
        }
    }
}

impl From<String> for StartFailure {
    fn from(text: String) -> Self {
        Self {
            text,
            disk_full: false,
            may_pass: false,
        }
    }
}

/// What the manager's keys are sealed with: the key it was unlocked with, or the one that the cluster has made since.
fn current_lock(config: &NodeConfig) -> Option<UnlockKey> {
    let known = [config.unlock_key.clone(), config.identity.lock()];
    known
        .into_iter()
        .flatten()
        .find(|key| keys::try_unlock(&config.dir, key).is_ok())
}

/// Starts the controller and shows its services.
pub(super) async fn start_manager(
    config: &NodeConfig,
    port: &ClusterPort,
    start: Start,
) -> Result<RunningManager, StartFailure> {
    port.ready()?;
    let mut manager_config = ManagerConfig::new(
        &config.dir,
        config.identity.clone(),
        config.settings.advertise_addr.to_string(),
    );
    manager_config.connections = port.connections();
    manager_config.unlock_key = current_lock(config);
    manager_config.store = config.store.clone();
    manager_config.resolver = Some(Arc::new(Resolver(config.engine.clone())));
    let joining = matches!(start, Start::Joining);
    let expired =
        matches!(start, Start::Again | Start::Anew) && config.identity.validity().1 < SystemTime::now();
    let patience = match start {
        Start::Again => READY_AGAIN,
        _ => READY_TIMEOUT,
    };
    let manager = match start {
        Start::NewCluster(init) => {
            let init = InitOptions {
                root: init.root,
                spec: init.spec,
                node: init.node,
                description: None,
            };
            Box::pin(Manager::bootstrap(manager_config, init)).await
        }
        Start::Again if Manager::exists(&config.dir) => Box::pin(Manager::open(manager_config)).await,
        Start::Anew => Box::pin(Manager::force_new_cluster(manager_config)).await,
        Start::Restored(backup) => Box::pin(Manager::restore(manager_config, *backup)).await,
        Start::Again | Start::Joining => {
            Box::pin(Manager::join(manager_config, &config.settings.remote_managers)).await
        }
    };
    let manager = Arc::new(manager.map_err(|error| StartFailure::new(&error))?);
    port.set_manager(Some(manager.cluster_routes()));
    config.control.set(Some(manager.local_routes()));
    let (teller, engine) = (manager.clone(), config.engine.clone());
    // Ends with the manager.
    tokio::spawn(async move { teller.tell_events(|event| engine.emit_cluster(event)).await });
    let running = RunningManager { manager };
    if expired && let Err(error) = running.manager.reissue(READY_TIMEOUT).await {
        tracing::warn!(error = %describe(&error), "this node's certificate has expired");
    }
    if let Err(error) = running.manager.wait_ready(patience).await {
        let reason = describe(&error);
        if joining {
            if let Err(error) = running.manager.leave().await {
                tracing::warn!(error = %describe(&error), "the other managers still count this one");
            }
            stop_manager(config, port, running).await;
            return Err(reason.into());
        }
        // A manager that restarts alone has no quorum yet, and must be up for the others to form one: not ready is no failure.
        tracing::warn!(error = %reason, "waiting for the other managers");
    }
    Ok(running)
}

pub(super) async fn stop_manager(config: &NodeConfig, port: &ClusterPort, running: RunningManager) {
    config.control.set(None);
    running.manager.shutdown().await;
    port.set_manager(None);
}
