//! This node's place in a cluster: `swarm init`, `join`, `leave`, and the state of it on disk. Called by [`super::service`].
//!
//! ```text
//! INACTIVE ──init, join──▶ PENDING ──▶ ACTIVE ──leave──▶ INACTIVE
//! LOCKED (a manager with autolock was restarted) ──unlock──▶ ACTIVE
//!                             │            (restart: PENDING again until the parts run)
//!                             └──▶ ERROR (what failed is kept; leave --force clears it)
//! ```
//! One change at a time: a lock spans each of them. `membership.json` is written before anything starts and removed last when the
//! node leaves, so that a crash in between is finished or undone at the next start.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use pontoon_controller::ExternalStore;
use pontoon_identity::{
    DEFAULT_EXPIRY, Identity, JoinRequest, JoinToken, PeerIdentity, RootCa, UnlockKey, request_certificate,
};
use pontoon_proto::id;
use pontoon_proto::v1::{
    ClusterSpec, LocalNodeState, NodeRole, NodeSpec, SwarmInitRequest, SwarmInitResponse, SwarmJoinRequest,
    SwarmJoinResponse,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tonic::Status;

use super::address::{self, InterfaceAddress};
use super::backups::Schedule;
use super::config::Config;
use super::local::ControlSlot;
use super::node::{InitState, Node, NodeConfig, Start};
use super::{SharedEngine, describe, unlock};

const STATE_FILE: &str = "membership.json";

/// Whether the node was in a cluster when its daemon ended.
pub fn has_cluster(data_dir: &Path) -> bool {
    data_dir.join("cluster").join(STATE_FILE).exists()
}

/// What is kept of the membership on disk, beside the certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Where others reach this node's cluster port.
    pub advertise_addr: SocketAddr,
    /// Where the cluster port listens.
    pub listen_addr: SocketAddr,
    /// Where others send VXLAN packets.
    pub data_path_addr: std::net::IpAddr,
    /// Managers to dial before any list came from one.
    pub remote_managers: Vec<String>,
}

/// The node's membership. One for the daemon's life.
#[derive(Debug)]
pub struct Membership {
    dir: PathBuf,
    engine: SharedEngine,
    pub(super) control: ControlSlot,
    backups: Option<Arc<Schedule>>,
    pub(super) node: Mutex<Option<Node>>,
    /// Where a manager here keeps the cluster's state, if not itself.
    pub(super) store: Option<ExternalStore>,
    /// Held by each change from its begin to its end.
    pub(super) changes: Mutex<()>,
    /// What `status` answers while a change holds the lock: state and reason.
    state: StdMutex<(LocalNodeState, String)>,
}

impl Membership {
    /// Looks at what the data folder says; nothing is started.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn open(config: &Config, engine: SharedEngine) -> std::io::Result<Arc<Self>> {
        let dir = config.data_dir.join("cluster");
        std::fs::create_dir_all(&dir)?;
        let state = if dir.join(STATE_FILE).exists() {
            LocalNodeState::Pending
        } else {
            LocalNodeState::Inactive
        };
        Ok(Arc::new(Self {
            dir,
            engine,
            store: config.store.clone(),
            control: ControlSlot::default(),
            backups: config.backups.clone().map(Arc::new),
            node: Mutex::new(None),
            changes: Mutex::new(()),
            state: StdMutex::new((state, String::new())),
        }))
    }

    /// The Control service of the local socket.
    pub fn control(&self) -> ControlSlot {
        self.control.clone()
    }

    /// Starts the cluster part again after a restart of the daemon. A failure is kept for `status`; the engine works without.
    pub async fn resume(&self) {
        if !self.dir.join(STATE_FILE).exists() {
            return;
        }
        if self.is_locked() {
            tracing::info!("this node's manager is locked: `pontoon swarm unlock` lets it start");
            self.set_state(LocalNodeState::Locked, "");
            self.control.set_trouble(Some(unlock::LOCKED.to_owned()));
            return;
        }
        // Kept for `status`.
        let _ = self.start_again(None).await;
    }

    /// Starts the cluster part from the disk, with the unlock key if that is needed. A failure is also kept for `status`.
    pub(super) async fn start_again(&self, lock: Option<UnlockKey>) -> Result<(), String> {
        let mut node = self.node.lock().await;
        self.control.set_trouble(None);
        match self.restart(lock).await {
            Ok(started) => {
                *node = Some(started);
                self.set_state(LocalNodeState::Active, "");
                Ok(())
            }
            Err(reason) => {
                tracing::error!(%reason, "this node's part in its cluster can't start");
                self.engine.leave_cluster();
                self.set_state(LocalNodeState::Error, &reason);
                Err(reason)
            }
        }
    }

    pub(super) fn read_settings(&self) -> Result<Settings, String> {
        let path = self.dir.join(STATE_FILE);
        let text = std::fs::read(&path).map_err(|error| format!("read {}: {error}", path.display()))?;
        serde_json::from_slice(&text).map_err(|error| {
            format!(
                "{} is damaged ({error}): leave with `pontoon swarm leave --force`",
                path.display()
            )
        })
    }

    pub(super) async fn restart(&self, lock: Option<UnlockKey>) -> Result<Node, String> {
        let settings = self.read_settings()?;
        let identity = self.open_identity(lock.as_ref())?;
        let mut config = self.node_config(settings, identity);
        config.unlock_key = lock;
        Node::start(config, Start::Again).await
    }

    /// Ends the cluster part with the daemon; tasks go on.
    pub async fn stop(&self) {
        if let Some(node) = self.node.lock().await.take() {
            node.stop().await;
        }
    }

    /// Held while the membership changes.
    pub(super) async fn one_change(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changes.lock().await
    }

    /// Folder of all that belongs to the membership.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn identity_dir(&self) -> PathBuf {
        self.dir.join("identity")
    }

    pub(super) fn node_config(&self, settings: Settings, identity: Arc<Identity>) -> NodeConfig {
        NodeConfig {
            dir: self.dir.clone(),
            engine: self.engine.clone(),
            control: self.control.clone(),
            settings,
            identity,
            unlock_key: None,
            backups: self.backups.clone(),
            store: self.store.clone(),
        }
    }

    pub(super) fn set_state(&self, state: LocalNodeState, reason: &str) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (state, reason.to_owned());
    }

    pub(super) fn state(&self) -> (LocalNodeState, String) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes from INACTIVE to PENDING in one step, so that of two callers only one goes on.
    fn begin(&self) -> Result<(), Status> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.clone() {
            (LocalNodeState::Inactive, _) => {
                state.0 = LocalNodeState::Pending;
                Ok(())
            }
            (LocalNodeState::Locked, _) => Err(Status::failed_precondition(unlock::LOCKED)),
            (LocalNodeState::Error, reason) => Err(Status::failed_precondition(format!(
                "This node is part of a swarm that it can't start in ({reason}). Use \"pontoon swarm leave --force\" first."
            ))),
            _ => Err(Status::failed_precondition(
                "This node is already part of a swarm. Use \"pontoon swarm leave\" to leave this swarm and join another one.",
            )),
        }
    }

    pub(super) fn write_settings(&self, settings: &Settings) -> Result<(), Status> {
        let failed = |error: std::io::Error| Status::internal(format!("write {STATE_FILE}: {error}"));
        let text = serde_json::to_vec_pretty(settings).map_err(|error| failed(error.into()))?;
        let temporary = self.dir.join("membership.json.new");
        std::fs::write(&temporary, text).map_err(failed)?;
        std::fs::File::open(&temporary)
            .and_then(|file| file.sync_all())
            .map_err(failed)?;
        std::fs::rename(&temporary, self.dir.join(STATE_FILE)).map_err(failed)
    }

    /// Removes all files of a membership, or says what could not be.
    fn remove_files(&self) -> Result<(), String> {
        let mut failures = Vec::new();
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            // The state file goes last: while it is there, a crash is followed by another try.
            if path.ends_with(STATE_FILE) {
                continue;
            }
            if let Err(error) = remove(&path) {
                failures.push(format!("{}: {error}", path.display()));
            }
        }
        match std::fs::remove_file(self.dir.join(STATE_FILE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                failures.push(format!("{STATE_FILE}: {error}"))
            }
            _ => {}
        }
        if failures.is_empty() {
            return Ok(());
        }
        Err(format!("remove the cluster's files: {}", failures.join("; ")))
    }

    /// Removes everything that belongs to a membership.
    fn clear(&self) -> Result<(), Status> {
        let removed = self.remove_files();
        self.control.set(None);
        self.control.set_worker(false);
        self.control.set_trouble(None);
        match removed {
            Ok(()) => {
                self.set_state(LocalNodeState::Inactive, "");
                Ok(())
            }
            Err(reason) => {
                self.set_state(LocalNodeState::Error, &reason);
                Err(Status::internal(reason))
            }
        }
    }

    pub(super) async fn initialize(&self, request: SwarmInitRequest) -> Result<SwarmInitResponse, Status> {
        let settings = settings(
            &request.advertise_addr,
            &request.listen_addr,
            &request.data_path_addr,
        )
        .await?;
        let availability = request.availability();
        let spec = cluster_spec(request)?;
        let cluster_id = id::encode(rand::random());
        let node_id = id::encode(rand::random());
        let internal = |error: pontoon_identity::Error| Status::internal(describe(&error));
        let root = RootCa::generate(&cluster_id).map_err(internal)?;
        let subject = PeerIdentity {
            node_id: node_id.clone(),
            role: NodeRole::Manager,
            cluster_id: cluster_id.clone(),
        };
        let expiry = match u64::try_from(spec.node_cert_expiry) {
            Ok(0) | Err(_) => DEFAULT_EXPIRY,
            Ok(nanoseconds) => Duration::from_nanos(nanoseconds),
        };
        let credentials = root.issue_credentials(&subject, expiry).map_err(internal)?;
        let identity = Identity::install(&self.identity_dir(), &credentials).map_err(internal)?;
        let addr = settings.advertise_addr.to_string();
        let node = NodeSpec {
            role: NodeRole::Manager.into(),
            availability: availability.into(),
            ..Default::default()
        };
        let init = InitState { root, spec, node };
        let started = Node::start(
            self.node_config(settings.clone(), identity),
            Start::NewCluster(Box::new(init)),
        )
        .await;
        let started = started.map_err(Status::failed_precondition)?;
        let worker_token = started.worker_token().unwrap_or_default();
        self.write_settings(&settings)?;
        *self.node.lock().await = Some(started);
        Ok(SwarmInitResponse {
            node_id,
            cluster_id,
            worker_token,
            addr,
        })
    }

    pub(super) async fn join_cluster(&self, request: SwarmJoinRequest) -> Result<SwarmJoinResponse, Status> {
        let token: JoinToken = request
            .token
            .parse()
            .map_err(|error| Status::invalid_argument(describe(&error)))?;
        let remote = request
            .remote_addrs
            .first()
            .ok_or_else(|| Status::invalid_argument("name a manager to join: HOST:PORT"))?;
        let addr = if remote
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
        {
            remote.clone()
        } else {
            format!("{remote}:{}", address::DEFAULT_PORT)
        };
        let mut settings = settings(
            &request.advertise_addr,
            &request.listen_addr,
            &request.data_path_addr,
        )
        .await?;
        let join = JoinRequest {
            addr: addr.clone(),
            token,
            availability: request.availability(),
        };
        let issued = request_certificate(&join)
            .await
            .map_err(|error| Status::failed_precondition(describe(&error)))?;
        settings.remote_managers = vec![addr];
        for manager in &issued.manager_addrs {
            if !settings.remote_managers.contains(manager) {
                settings.remote_managers.push(manager.clone());
            }
        }
        let identity = Identity::install(&self.identity_dir(), &issued.credentials)
            .map_err(|error| Status::internal(describe(&error)))?;
        self.write_settings(&settings)?;
        let started = Node::start(self.node_config(settings, identity), Start::Joining).await;
        *self.node.lock().await = Some(started.map_err(Status::failed_precondition)?);
        Ok(SwarmJoinResponse {
            node_id: issued.node_id,
            role: issued.role.into(),
        })
    }

    pub(super) async fn leave_cluster(&self, force: bool) -> Result<(), Status> {
        let _change = self.changes.lock().await;
        let mut slot = self.node.lock().await;
        if self.state().0 == LocalNodeState::Inactive {
            return Err(Status::failed_precondition("This node is not part of a swarm"));
        }
        if !force && self.state().0 == LocalNodeState::Locked {
            return Err(Status::failed_precondition(unlock::LOCKED));
        }
        if !force && let Some(reason) = slot.as_ref().and_then(Node::refuses_to_leave) {
            return Err(Status::failed_precondition(reason));
        }
        let left = match slot.take() {
            Some(node) => node.leave().await,
            None => super::node::remove_tasks(&self.engine).await,
        };
        for problem in left {
            tracing::warn!(%problem, "leaving the swarm");
        }
        self.clear()
    }

    /// Runs `init` or `join`: state, failure and the removal of what was half-made are the same for both.
    pub(super) async fn enter<T>(
        &self,
        change: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        self.begin()?;
        let _change = self.changes.lock().await;
        // What a change left that a crash cut off would be in the way. Removed only now, when the user wants another cluster.
        let outcome = match self.remove_files() {
            Ok(()) => change.await,
            Err(reason) => Err(Status::internal(reason)),
        };
        match outcome {
            Ok(answer) => {
                self.set_state(LocalNodeState::Active, "");
                Ok(answer)
            }
            Err(status) => {
                self.clear()?;
                Err(status)
            }
        }
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    }
}

/// Addresses as flags give them.
pub(super) async fn settings(advertise: &str, listen: &str, data_path: &str) -> Result<Settings, Status> {
    let addresses: Vec<InterfaceAddress> = pontoon_net::host::addresses()
        .await
        .map_err(|error| Status::internal(format!("list the host's addresses: {}", describe(&error))))?
        .into_iter()
        .map(|(interface, addr)| InterfaceAddress { interface, addr })
        .collect();
    let listen_addr = address::listen(listen, &addresses).map_err(Status::invalid_argument)?;
    let advertise_addr =
        address::advertise(advertise, listen_addr.port(), &addresses).map_err(Status::invalid_argument)?;
    address::check(advertise_addr, listen_addr, &addresses).map_err(Status::invalid_argument)?;
    let data_path_addr =
        address::data_path(data_path, advertise_addr, &addresses).map_err(Status::invalid_argument)?;
    Ok(Settings {
        advertise_addr,
        listen_addr,
        data_path_addr,
        remote_managers: Vec::new(),
    })
}

fn cluster_spec(request: SwarmInitRequest) -> Result<ClusterSpec, Status> {
    if request.data_path_port != 0 && !(1024..=49151).contains(&request.data_path_port) {
        return Err(Status::invalid_argument(format!(
            "invalid --data-path-port {}: use a port from 1024 to 49151, or 0 for the default",
            request.data_path_port
        )));
    }
    for pool in &request.default_addr_pool {
        let network = pontoon_net::host::parse_pool(pool).map_err(Status::invalid_argument)?;
        if u32::from(network) > request.default_addr_pool_mask_length
            || request.default_addr_pool_mask_length > 29
        {
            return Err(Status::invalid_argument(format!(
                "invalid --default-addr-pool-mask-length {}: it must be from the pool's own ({network}) to 29",
                request.default_addr_pool_mask_length
            )));
        }
    }
    let spec = ClusterSpec {
        task_history_limit: request.task_history_limit,
        default_address_pool: request.default_addr_pool,
        subnet_size: request.default_addr_pool_mask_length,
        data_path_port: request.data_path_port,
        autolock_managers: request.autolock,
        node_cert_expiry: request.node_cert_expiry,
        heartbeat_period: request.heartbeat_period,
        snapshot_interval: request.snapshot_interval,
        old_snapshots: request.old_snapshots,
        ..Default::default()
    };
    pontoon_controller::check_settings(&spec).map_err(Status::invalid_argument)?;
    Ok(spec)
}
