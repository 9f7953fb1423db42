//! A cluster port on loopback with a real CA service behind it, and identities of all kinds, for this crate's tests.

#![allow(clippy::unwrap_used, dead_code)] // Each test binary uses its part.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use pontoon_identity::{
    CertificateRequest, ConnectionInfo, Connections, Credentials, Identity, JoinToken, PeerIdentity, RootCa,
    TlsListener, serve,
};
use pontoon_proto::v1::ca_server::{Ca, CaServer};
use pontoon_proto::v1::{
    GetRootRequest, GetRootResponse, IssueCertificateRequest, IssueCertificateResponse, NodeRole,
};
use tonic::{Request, Response, Status};

pub const CLUSTER: &str = "cluster1";

/// The identity of a node of `root`, valid from an hour ago for `expiry` from `now` on.
pub fn credentials(root: &RootCa, peer: &PeerIdentity, now: SystemTime, expiry: Duration) -> Credentials {
    let request = CertificateRequest::generate().unwrap();
    let certificate = root.issue(request.csr_pem.as_bytes(), peer, expiry, now).unwrap();
    Credentials {
        certificate,
        key: request.key_pem,
        root: root.certificate_pem().to_owned(),
    }
}

pub fn peer(node_id: &str, role: NodeRole) -> PeerIdentity {
    PeerIdentity {
        node_id: node_id.to_owned(),
        role,
        cluster_id: CLUSTER.to_owned(),
    }
}

pub fn identity(dir: &Path, root: &RootCa, node_id: &str, role: NodeRole) -> Arc<Identity> {
    let hour = Duration::from_secs(3600);
    let credentials = credentials(root, &peer(node_id, role), SystemTime::now(), hour);
    Identity::install(&dir.join(node_id), &credentials).unwrap()
}

/// The CA service: GetRoot answers the caller's node id (or "none") for looking at identities.
#[derive(Clone)]
struct TestCa {
    root: Arc<RootCa>,
    token: Arc<Mutex<JoinToken>>,
}

#[tonic::async_trait]
impl Ca for TestCa {
    async fn get_root(&self, request: Request<GetRootRequest>) -> Result<Response<GetRootResponse>, Status> {
        let info = request
            .extensions()
            .get::<ConnectionInfo>()
            .expect("set by the listener");
        let seen = match &info.peer {
            Some(peer) => format!("{} {:?} {}", peer.node_id, peer.role, peer.cluster_id),
            None => "none".to_owned(),
        };
        Ok(Response::new(GetRootResponse {
            certificate: seen.into(),
        }))
    }

    async fn issue_certificate(
        &self,
        request: Request<IssueCertificateRequest>,
    ) -> Result<Response<IssueCertificateResponse>, Status> {
        let caller = request
            .extensions()
            .get::<ConnectionInfo>()
            .and_then(|info| info.peer.clone());
        let message = request.into_inner();
        let subject = match caller {
            Some(caller) => caller,
            None => {
                let token: JoinToken = message
                    .token
                    .parse()
                    .map_err(|_| Status::invalid_argument("token"))?;
                if !token.matches(&self.token.lock().unwrap()) {
                    return Err(Status::permission_denied(
                        "a valid join token is necessary to join this cluster",
                    ));
                }
                peer("newnode", NodeRole::Worker)
            }
        };
        let hour = Duration::from_secs(3600);
        let certificate = self
            .root
            .issue(&message.csr, &subject, hour, SystemTime::now())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(Response::new(IssueCertificateResponse {
            node_id: subject.node_id,
            cluster_id: subject.cluster_id,
            role: subject.role.into(),
            certificate: certificate.into(),
            manager_addrs: Vec::new(),
        }))
    }
}

/// A running cluster port.
pub struct Server {
    pub root: Arc<RootCa>,
    pub identity: Arc<Identity>,
    pub connections: Connections,
    pub addr: String,
    pub token: Arc<Mutex<JoinToken>>,
    pub dir: tempfile::TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// A manager's port; `role` is another for tests of servers that are not managers.
    pub async fn start(role: NodeRole) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Arc::new(RootCa::generate(CLUSTER).unwrap());
        let identity = identity(dir.path(), &root, "server", role);
        let connections = Connections::new();
        let listener = TlsListener::bind("127.0.0.1:0", identity.clone(), connections.clone())
            .await
            .unwrap()
            .with_handshake_timeout(Duration::from_millis(300));
        let addr = listener.local_addr().unwrap().to_string();
        let token = Arc::new(Mutex::new(root.join_token(pontoon_identity::generate_secret())));
        let ca = TestCa {
            root: root.clone(),
            token: token.clone(),
        };
        let routes = tonic::service::Routes::new(CaServer::new(ca));
        let task =
            tokio::spawn(async move { serve(listener, routes, std::future::pending()).await.unwrap() });
        Self {
            root,
            identity,
            connections,
            addr,
            token,
            dir,
            task,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
