//! A manager: made, opened or joined; gives the services to serve; leaves and stops. See the crate's documentation for the
//! start order.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pontoon_identity::ConnectionInfo;
use pontoon_proto::v1::NodeRole;
use pontoon_proto::v1::ca_server::CaServer;
use pontoon_proto::v1::control_server::ControlServer;
use pontoon_proto::v1::dispatcher_server::DispatcherServer;
use pontoon_raft::watch;
use pontoon_raft::{
    Config, Leadership, Member, PeerIdentity, Raft, RaftHandle, RaftService, Role, StopReason,
};
use pontoon_store::Snapshot;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;

use crate::access::Guard;
use crate::api::ControlService;
use crate::ca::{CaService, MAX_MESSAGE};
use crate::config::{InitOptions, ManagerConfig};
use crate::connector::{Channels, PeerConnector, network};
use crate::core::Core;
use crate::dispatcher::DispatcherService;
use crate::error::Error;
use crate::external::{self, ExternalStore, Way};
use crate::forward::Forward;
use crate::images::pin::Pin;
use crate::init::first_state;
use crate::join::ask_to_join;
use crate::keys::{self, Keys};
use crate::log::ReplicatedLog;
use crate::replica::{Machine, Replica};
use crate::{leader, member_file, recovery, roles, settings, sever, status};

/// The folder of the log.
pub(crate) const RAFT_DIR: &str = "raft";
/// A lone member leads as soon as its first entry is on the disk.
const FIRST_ELECTION: Duration = Duration::from_secs(20);

/// One manager of a cluster.
pub struct Manager {
    pub(crate) core: Arc<Core>,
    /// The embedded log, whose members call each other; an external one needs no such service.
    raft: Option<RaftHandle>,
    advertise: String,
    pub(crate) stop: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

#[cfg_attr(
    not(feature = "etcd"),
    allow(
        unused_variables,
        reason = "without a kind of external store what opens one is never reached"
    )
)]
impl Manager {
    /// True when `data_dir` holds a manager's log: [`Manager::open`] is the way to start.
    pub fn exists(data_dir: &Path) -> bool {
        member_file::exists(data_dir)
    }

    /// Makes a new cluster with this node as its first manager; returns when its first state is written.
    ///
    /// # Errors
    /// [`Error::Raft`] when the data folder already holds a log, or the disk fails; [`Error::Init`].
    pub async fn bootstrap(config: ManagerConfig, init: InitOptions) -> Result<Self, Error> {
        if let Some(store) = &config.store {
            if init.spec.autolock_managers {
                return Err(Error::no_autolock());
            }
            if settings::has_snapshots(&init.spec) {
                return Err(Error::no_snapshots());
            }
            let id = Member::random_id_by(|| config.host.random());
            let manager = Box::pin(Self::on_store(store.clone(), Way::Bootstrap, config, id)).await?;
            if let Err(error) = manager.write_first_state(init).await {
                // Nobody would ever look for it again.
                let _ = manager.erase().await;
                manager.shutdown().await;
                return Err(error);
            }
            return Ok(manager);
        }
        let mut raft = raft_config(&config, Member::random_id_by(|| config.host.random()));
        member_file::write(&config.host, &config.data_dir, raft.id)?;
        let keys = open_keys(&config, &mut raft)?;
        let replica = Replica::new();
        let connector = Arc::new(PeerConnector(network(&config)));
        let handle = Raft::bootstrap(raft, Machine(replica.clone()), connector)
            .await
            .map_err(Error::Raft)?;
        let manager = Self::start(config, keys, replica, handle);
        manager.write_first_state(init).await?;
        Ok(manager)
    }

    /// Restarts a manager from its data folder.
    ///
    /// # Errors
    /// [`Error::Raft`] when the log is missing or damaged, [`Error::BadMember`].
    pub async fn open(config: ManagerConfig) -> Result<Self, Error> {
        recovery::finish(&config.host, &config.data_dir)?;
        external::check(&config.data_dir, config.store.as_ref())?;
        if let Some(store) = &config.store {
            let id = member_file::read(&config.host, &config.data_dir)?;
            return Box::pin(Self::on_store(store.clone(), Way::Open, config, id)).await;
        }
        let mut raft = raft_config(&config, member_file::read(&config.host, &config.data_dir)?);
        let keys = open_keys(&config, &mut raft)?;
        let replica = Replica::new();
        let connector = Arc::new(PeerConnector(network(&config)));
        let handle = Raft::open(raft, Machine(replica.clone()), connector)
            .await
            .map_err(Error::Raft)?;
        Ok(Self::start(config, keys, replica, handle))
    }

    /// Joins the managers of an existing cluster. Returns before the state is here: serve the cluster routes, then
    /// [`Manager::wait_ready`].
    ///
    /// # Errors
    /// [`Error::Join`] says what each of the remote managers answered.
    pub async fn join(config: ManagerConfig, remote_managers: &[String]) -> Result<Self, Error> {
        if let Some(store) = &config.store {
            let id = Member::random_id_by(|| config.host.random());
            return Box::pin(Self::on_store(store.clone(), Way::Join, config, id)).await;
        }
        let answer = ask_to_join(&config, remote_managers).await?;
        let members = answer.members.into_iter().map(|member| Member {
            role: if member.learner {
                Role::Learner
            } else {
                Role::Voter
            },
            ..Member::new(member.raft_id, member.node_id, member.addr)
        });
        member_file::write(&config.host, &config.data_dir, answer.raft_id)?;
        let mut raft = raft_config(&config, answer.raft_id);
        let keys = open_keys(&config, &mut raft)?;
        let replica = Replica::new();
        let connector = Arc::new(PeerConnector(network(&config)));
        let machine = Machine(replica.clone());
        let handle = Raft::join(raft, members.collect(), machine, connector)
            .await
            .map_err(Error::Raft)?;
        Ok(Self::start(config, keys, replica, handle))
    }

    /// A manager whose log lies in an external store. It is a member at once: etcd keeps the quorum.
    async fn on_store(store: ExternalStore, way: Way, config: ManagerConfig, id: u64) -> Result<Self, Error> {
        external::mark(&config.data_dir, &store)?;
        let replica = Replica::new();
        let log = external::open(&store, way, &config, id, &replica).await?;
        // Last: a start that was cut off before is a first one again, under another id.
        member_file::write(&config.host, &config.data_dir, id)?;
        Ok(Self::start_on(config, None, replica, log, None))
    }

    /// A manager whose log in an external store begins with a state.
    pub(crate) async fn seed_store(
        store: ExternalStore,
        config: ManagerConfig,
        state: Arc<Snapshot>,
    ) -> Result<Self, Error> {
        let id = Member::random_id();
        external::seed(&store, &config, id, state).await?;
        Box::pin(Self::on_store(store, Way::Open, config, id)).await
    }

    pub(crate) fn start(
        config: ManagerConfig,
        keys: Option<Keys>,
        replica: Arc<Replica>,
        handle: RaftHandle,
    ) -> Self {
        Self::start_on(config, keys, replica, Arc::new(handle.clone()), Some(handle))
    }

    fn start_on(
        config: ManagerConfig,
        keys: Option<Keys>,
        replica: Arc<Replica>,
        log: Arc<dyn ReplicatedLog>,
        raft: Option<RaftHandle>,
    ) -> Self {
        let channels = Channels::new(network(&config));
        let core = Core::new(replica, log, &config, channels);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(leader::run(core.clone(), stop.clone()));
        tasks.spawn(sever::run(core.clone(), stop.clone()));
        tasks.spawn(settings::run(core.clone(), stop.clone()));
        if let Some(keys) = keys {
            tasks.spawn(keys::run(core.clone(), keys, stop.clone()));
        }
        Self {
            core,
            raft,
            advertise: config.advertise,
            stop,
            tasks: Mutex::new(tasks),
        }
    }

    /// Gives this manager a certificate by the root in its own log, asking nobody: one that was down until its certificate had expired, or
    /// until the root had been replaced, is let in by no other any more. All managers may have been down. Waits so long for the root to be
    /// read from the log.
    ///
    /// # Errors
    /// [`Error::Reissue`]: the log does not say that this node is a manager, or there is no root in it.
    pub async fn reissue(&self, patience: Duration) -> Result<(), Error> {
        let mut versions = self.core.replica.versions();
        let read =
            async { while self.core.snapshot().cluster().is_none() && versions.changed().await.is_ok() {} };
        // Judged by what is here then.
        let _ = tokio::time::timeout(patience, read).await;
        crate::ca::reissue(&self.core).map_err(|status| Error::Reissue(status.message().to_owned()))
    }

    /// Waits until the cluster's state is here, somebody leads, and this manager votes: a cluster that loses another
    /// manager from then on can count on it.
    ///
    /// # Errors
    /// [`Error::NotReady`].
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), Error> {
        let mut versions = self.core.replica.versions();
        let mut leadership = self.core.log.leadership();
        let mut members = self.core.log.members_watch();
        let own = self.core.log.id();
        let ready = async {
            loop {
                versions.borrow_and_update();
                members.borrow_and_update();
                let led = leadership.borrow_and_update().leader.is_some();
                let known = self.core.log.members();
                let votes = known
                    .iter()
                    .any(|member| member.id == own && member.role == Role::Voter);
                if led && votes && self.core.snapshot().cluster().is_some() {
                    return;
                }
                tokio::select! {
                    biased;
                    Ok(()) = members.changed() => {}
                    Ok(()) = versions.changed() => {}
                    Ok(()) = leadership.changed() => {}
                    else => std::future::pending().await,
                }
            }
        };
        tokio::time::timeout(timeout, ready)
            .await
            .map_err(|_| Error::NotReady {
                seconds: timeout.as_secs(),
                advertise: self.advertise.clone(),
            })
    }

    /// The services of the cluster port, with their role checks: Control, Dispatcher, Raft, Ca.
    pub fn cluster_routes(&self) -> Routes {
        let core = &self.core;
        let control = self.control();
        let ca = CaServer::new(CaService::new(core)).max_decoding_message_size(MAX_MESSAGE);
        let ca = Forward::new(core, ca);
        let routes = Routes::new(Guard::new(core, control))
            .add_service(Guard::new(core, ca))
            .add_service(Guard::new(
                core,
                DispatcherServer::new(DispatcherService::new(core)),
            ));
        match &self.raft {
            Some(raft) => {
                let replica = core.replica.clone();
                let identify =
                    move |extensions: &tonic::Extensions| raft_peer(&replica.snapshot(), extensions);
                let raft = RaftService::new(raft.clone(), identify).into_server();
                routes.add_service(Guard::new(core, raft))
            }
            None => routes,
        }
    }

    /// The services of the local socket: Control. Its callers are trusted by the socket's mode.
    pub fn local_routes(&self) -> Routes {
        Routes::new(self.control())
    }

    fn control(&self) -> Pin<Forward<ControlServer<ControlService>>> {
        let core = &self.core;
        let control = Forward::new(core, ControlServer::new(ControlService::new(core)));
        Pin::new(control, core.resolver.clone())
    }

    /// Who leads; changes of it.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.core.log.leadership()
    }

    /// The managers.
    pub fn members(&self) -> Vec<Member> {
        self.core.log.members()
    }

    /// Set once when the log has stopped: shut down, removed from the group (demoted by another manager), or its disk
    /// failed. The manager is of no use then; the daemon shuts it down.
    pub fn stopped(&self) -> watch::Receiver<Option<StopReason>> {
        self.core.log.stopped()
    }

    /// The state as this manager has it; not necessarily the newest.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.core.snapshot()
    }

    /// Takes this manager out of the group for good; its data folder is void afterwards.
    ///
    /// # Errors
    /// [`Error::Leave`] when the quorum would be lost or this is the last manager.
    pub async fn leave(&self) -> Result<(), Error> {
        self.core
            .log
            .remove(self.core.log.id())
            .await
            .map_err(Error::Leave)
    }

    /// Removes what this manager, the last one, would leave behind in an external store. Before [`Manager::shutdown`].
    ///
    /// # Errors
    /// [`Error::Leave`] when it is not the last one, or the store does not answer.
    pub async fn erase(&self) -> Result<(), Error> {
        self.core.log.erase().await.map_err(Error::Leave)
    }

    /// Stops: hands leadership over, ends all tasks, makes the log durable. May be called more than once.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.core.log.shutdown().await;
        let mut tasks = self.tasks.lock().await;
        while tasks.join_next().await.is_some() {}
    }

    async fn write_first_state(&self, init: InitOptions) -> Result<(), Error> {
        let mut leadership = self.core.log.leadership();
        let leads = async {
            while self.core.leading().is_none() {
                // The reign begins a moment after the log says so.
                let _ = tokio::time::timeout(Duration::from_millis(10), leadership.changed()).await;
            }
        };
        let init_failed = |status: Status| Error::Init(status.message().to_owned());
        tokio::time::timeout(FIRST_ELECTION, leads)
            .await
            .map_err(|_| init_failed(status::no_leader()))?;
        let me = self.core.identity.peer();
        let writer = self.core.writer().map_err(init_failed)?;
        writer
            .write(move |tx, scope| first_state(tx, scope, &me, init))
            .await
            .map_err(init_failed)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Takes the manager's keys out, or makes them, and gives them to the log.
pub(crate) fn open_keys(config: &ManagerConfig, raft: &mut Config) -> Result<Option<Keys>, Error> {
    if !config.encrypt {
        return Ok(None);
    }
    let keys = Keys::open(&config.data_dir, config.unlock_key.as_ref())?;
    raft.keys = Some(keys.ring().clone());
    Ok(Some(keys))
}

pub(crate) fn raft_config(config: &ManagerConfig, id: u64) -> Config {
    let identity = config.identity.peer();
    let mut raft = Config::new(
        id,
        identity.cluster_id,
        identity.node_id,
        config.data_dir.join(RAFT_DIR),
    );
    raft.advertise.clone_from(&config.advertise);
    raft.host = config.host.clone();
    raft.segment_bytes = config.raft.segment_bytes;
    raft.keep_entries = config.raft.keep_entries;
    raft.tick = config.raft.tick;
    raft.snapshot_every = config.raft.snapshot_every;
    raft.read_timeout = config.leader_timeout;
    raft
}

/// Who calls the log's service: a manager, by its certificate, unless that is from before its demotion. A member that is behind can't go
/// by the nodes' roles: it would refuse a manager that it does not know yet.
fn raft_peer(snapshot: &Snapshot, extensions: &tonic::Extensions) -> Result<PeerIdentity, Status> {
    let info = extensions.get::<ConnectionInfo>();
    let manager = info.and_then(|info| {
        let peer = info.peer.as_ref()?;
        (peer.role == NodeRole::Manager).then_some((peer, info.issued_at))
    });
    let Some((peer, issued_at)) = manager else {
        return Err(Status::permission_denied(
            "the managers' log is for managers only",
        ));
    };
    if roles::is_demoted(snapshot, &peer.node_id, issued_at) {
        return Err(roles::no_longer_a_manager(&peer.node_id));
    }
    Ok(PeerIdentity {
        node_id: peer.node_id.clone(),
    })
}
