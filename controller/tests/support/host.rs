//! One manager with its cluster port and its local socket.

use std::sync::Arc;
use std::time::Duration;

use pontoon_controller::{Backup, Error, ImageResolver, InitOptions, Manager, ManagerConfig};
use pontoon_identity::{
    Connections, DEFAULT_EXPIRY, Identity, JoinRequest, PeerIdentity, RootCa, TlsListener,
    request_certificate, serve,
};
use pontoon_proto::v1::control_client::ControlClient;
use pontoon_proto::v1::{
    Availability, ClusterSpec, GetJoinTokensRequest, JoinTokens, NodeRole, NodeSpec, RegistryAuth,
};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::eventually;

/// Heartbeats of the test clusters.
const PERIOD: Duration = Duration::from_millis(500);

pub struct Host {
    pub manager: Arc<Manager>,
    pub identity: Arc<Identity>,
    pub addr: String,
    pub client: ControlClient<Channel>,
    pub dir: Arc<tempfile::TempDir>,
    stop: CancellationToken,
    servers: Vec<tokio::task::JoinHandle<()>>,
}

fn config(dir: &tempfile::TempDir, identity: &Arc<Identity>, addr: &str) -> ManagerConfig {
    let mut config = ManagerConfig::new(dir.path().join("data"), identity.clone(), addr);
    config.leader_timeout = Duration::from_secs(4);
    config.resolver = Some(Arc::new(Registry));
    config.store = super::store::of(dir.path());
    config
}

/// Resolves `known:<tag>` only, to a digest that is made of the password.
#[derive(Debug)]
struct Registry;

#[tonic::async_trait]
impl ImageResolver for Registry {
    fn name(&self, image: &str) -> Option<String> {
        Some(match image.contains(':') {
            true => image.to_owned(),
            false => format!("{image}:latest"),
        })
    }

    async fn resolve(&self, image: &str, auth: RegistryAuth) -> Result<String, String> {
        match image.starts_with("known:") {
            true => Ok(format!("sha256:{:0>64}", auth.password)),
            false => Err("nobody knows it".to_owned()),
        }
    }
}

/// A new manager's identity, by the root that a backup holds.
fn identity_of(dir: &tempfile::TempDir, backup: &Backup) -> Arc<Identity> {
    let root = backup.snapshot.cluster().unwrap().root_ca.clone().unwrap();
    let root = RootCa::from_pem(&root.certificate, &root.key).unwrap();
    let subject = PeerIdentity {
        node_id: "restored".to_owned(),
        role: NodeRole::Manager,
        cluster_id: backup.info.cluster_id.clone(),
    };
    let credentials = root.issue_credentials(&subject, DEFAULT_EXPIRY).unwrap();
    Identity::install(&dir.path().join("identity"), &credentials).unwrap()
}

async fn bind(addr: &str) -> TcpListener {
    eventually("the address is free again", || async {
        TcpListener::bind(addr).await.ok()
    })
    .await
}

impl Host {
    /// A new cluster of one manager.
    pub async fn bootstrap() -> Self {
        Self::bootstrap_beating(PERIOD).await
    }

    /// As [`Host::bootstrap`], with another heartbeat.
    pub async fn bootstrap_beating(period: Duration) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        super::store::choose(dir.path());
        Self::bootstrap_in(dir, period).await
    }

    /// A new cluster of one manager, in a folder that names the store.
    pub async fn bootstrap_in(dir: Arc<tempfile::TempDir>, period: Duration) -> Self {
        let root = RootCa::generate("cluster1").unwrap();
        let me = PeerIdentity {
            node_id: "manager1".to_owned(),
            role: NodeRole::Manager,
            cluster_id: "cluster1".to_owned(),
        };
        let credentials = root.issue_credentials(&me, DEFAULT_EXPIRY).unwrap();
        let identity = Identity::install(&dir.path().join("identity"), &credentials).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let spec = ClusterSpec {
            heartbeat_period: i64::try_from(period.as_nanos()).unwrap(),
            ..ClusterSpec::default()
        };
        let config = config(&dir, &identity, &addr);
        let connections = config.connections.clone();
        let init = InitOptions {
            root,
            spec,
            node: NodeSpec::default(),
            description: None,
        };
        let manager = Manager::bootstrap(config, init).await.unwrap();
        Self::serve(manager, identity, connections, listener, dir).await
    }

    /// A further manager, by the manager token and a certificate of the CA at `at`.
    pub async fn join(at: &Host) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        super::store::share(at.dir.path(), dir.path());
        let token = at.tokens().await.manager.parse().unwrap();
        let join = JoinRequest {
            addr: at.addr.clone(),
            token,
            availability: Availability::Active,
        };
        let issued = request_certificate(&join).await.unwrap();
        assert_eq!(issued.role, NodeRole::Manager);
        let identity = Identity::install(&dir.path().join("identity"), &issued.credentials).unwrap();
        Self::join_with(identity, dir, &issued.manager_addrs).await
    }

    /// A certificate by the manager token, of a manager that does not run yet.
    pub async fn identity_of_joiner(at: &Host) -> (Arc<Identity>, Arc<tempfile::TempDir>) {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let join = JoinRequest {
            addr: at.addr.clone(),
            token: at.tokens().await.manager.parse().unwrap(),
            availability: Availability::Active,
        };
        let issued = request_certificate(&join).await.unwrap();
        let identity = Identity::install(&dir.path().join("identity"), &issued.credentials).unwrap();
        (identity, dir)
    }

    /// Begins the cluster anew with a host that was stopped, at its old address.
    pub async fn force_new(dir: Arc<tempfile::TempDir>, addr: &str) -> Self {
        let identity = Identity::open(&dir.path().join("identity")).unwrap();
        let listener = bind(addr).await;
        let config = config(&dir, &identity, addr);
        let connections = config.connections.clone();
        let manager = Manager::force_new_cluster(config).await.unwrap();
        Self::serve(manager, identity, connections, listener, dir).await
    }

    /// The only manager of a backup's cluster.
    pub async fn restore(
        identity: Arc<Identity>,
        dir: Arc<tempfile::TempDir>,
        addr: &str,
        backup: Backup,
    ) -> Self {
        let listener = bind(addr).await;
        let config = config(&dir, &identity, addr);
        let connections = config.connections.clone();
        let manager = Manager::restore(config, backup).await.unwrap();
        Self::serve(manager, identity, connections, listener, dir).await
    }

    /// Why a manager without a store can't join.
    pub async fn try_join(
        identity: Arc<Identity>,
        dir: Arc<tempfile::TempDir>,
        remotes: &[String],
    ) -> Result<(), Error> {
        let config = config(&dir, &identity, "127.0.0.1:1");
        Manager::join(config, remotes).await.map(drop)
    }

    /// Why a cluster can't begin anew with a host that was stopped.
    pub async fn try_force_new(dir: Arc<tempfile::TempDir>, addr: &str) -> Result<(), Error> {
        let identity = Identity::open(&dir.path().join("identity")).unwrap();
        let config = config(&dir, &identity, addr);
        Box::pin(Manager::force_new_cluster(config)).await.map(drop)
    }

    /// Why a backup can't be restored where the cluster of `at` is.
    pub async fn try_restore(at: &Host, backup: Backup) -> Result<(), Error> {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        super::store::share(at.dir.path(), dir.path());
        let identity = identity_of(&dir, &backup);
        let config = config(&dir, &identity, "127.0.0.1:1");
        Box::pin(Manager::restore(config, backup)).await.map(drop)
    }

    /// The only manager of a backup's cluster, in a new place of its own.
    pub async fn restored(backup: Backup, in_store: bool) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        if in_store {
            super::store::choose(dir.path());
        }
        let identity = identity_of(&dir, &backup);
        let addr = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        Self::restore(identity, dir, &addr.to_string(), backup).await
    }

    /// A manager for a node that has a manager certificate.
    pub async fn join_with(identity: Arc<Identity>, dir: Arc<tempfile::TempDir>, remotes: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let config = config(&dir, &identity, &addr);
        let connections = config.connections.clone();
        let manager = Manager::join(config, remotes).await.unwrap();
        let host = Self::serve(manager, identity, connections, listener, dir).await;
        host.manager.wait_ready(Duration::from_secs(60)).await.unwrap();
        host
    }

    /// Starts again from the folder of a host that was stopped, at its old address.
    pub async fn reopen(dir: Arc<tempfile::TempDir>, addr: &str) -> Self {
        let identity = Identity::open(&dir.path().join("identity")).unwrap();
        assert!(Manager::exists(&dir.path().join("data")));
        let listener = bind(addr).await;
        let config = config(&dir, &identity, addr);
        let connections = config.connections.clone();
        let manager = Manager::open(config).await.unwrap();
        Self::serve(manager, identity, connections, listener, dir).await
    }

    async fn serve(
        manager: Manager,
        identity: Arc<Identity>,
        connections: Connections,
        listener: TcpListener,
        dir: Arc<tempfile::TempDir>,
    ) -> Self {
        let addr = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let tls = TlsListener::new(listener, identity.clone(), connections);
        let routes = manager.cluster_routes();
        let until = stop.clone().cancelled_owned();
        let port = tokio::spawn(async move { serve(tls, routes, until).await.unwrap() });

        let socket = dir.path().join("pontoon.sock");
        let _ = std::fs::remove_file(&socket);
        let local = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        let routes = manager.local_routes();
        let server = tonic::transport::Server::builder().add_routes(routes);
        let local = tokio::spawn(async move { server.serve_with_incoming(local).await.unwrap() });
        let endpoint = tonic::transport::Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
        let client = ControlClient::new(endpoint.connect_lazy());
        Self {
            manager: Arc::new(manager),
            identity,
            addr,
            client,
            dir,
            stop,
            servers: vec![port, local],
        }
    }

    pub fn client(&self) -> ControlClient<Channel> {
        self.client.clone()
    }

    pub async fn tokens(&self) -> JoinTokens {
        self.client()
            .get_join_tokens(GetJoinTokensRequest {})
            .await
            .unwrap()
            .into_inner()
    }

    pub fn is_leader(&self) -> bool {
        self.manager.leadership().borrow().is_leader
    }

    /// Waits until the members are known to be this many voters here.
    pub async fn wait_voters(&self, count: usize) {
        let manager = &self.manager;
        eventually(&format!("{count} voters"), || async {
            let members = manager.members();
            let voters = members
                .iter()
                .filter(|member| member.role == pontoon_raft::Role::Voter)
                .count();
            (members.len() == count && voters == count).then_some(())
        })
        .await;
    }

    /// As a power failure, as far as a process can do that to a part of itself: connections end, the log stops.
    pub async fn stop(mut self) -> Arc<tempfile::TempDir> {
        for server in self.servers.drain(..) {
            server.abort();
            let _ = server.await;
        }
        self.manager.shutdown().await;
        self.dir.clone()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.cancel();
        self.servers.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
