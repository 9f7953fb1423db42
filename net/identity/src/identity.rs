//! This node's identity: certificate, key and root in their folder and in memory, replaced without a restart.
//!
//! Owned here: the current TLS configurations. Each accept and each dial takes them anew, so a renewed certificate is
//! used from the next connection on while those that live go on. Called by the daemon, the controller and the agent.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use pontoon_proto::v1::NodeRole;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::error::{Error, Refusal};
use crate::files;
use crate::peer::{self, PeerIdentity, role_name};
use crate::root::digest_of;
use crate::tls;
use crate::unlock::UnlockKey;

/// A node certificate with its key and root, all PEM.
#[derive(Clone)]
pub struct Credentials {
    /// Leaf, then root.
    pub certificate: String,
    /// Private key.
    pub key: Zeroizing<String>,
    /// The cluster's root.
    pub root: String,
}

impl Credentials {
    /// Checks that certificate, key and root belong together and that the certificate is valid now; whom it names.
    pub fn verify(&self) -> Result<PeerIdentity, Error> {
        let peer = State::build(self)?.peer;
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        let root = CertificateDer::from_pem_slice(self.root.as_bytes());
        let invalid = |e: rustls::pki_types::pem::Error| Error::Invalid {
            what: "node certificate",
            reason: e.to_string(),
        };
        let roots = tls::roots(&root.map_err(invalid)?)?;
        tls::verify(&certificate.map_err(invalid)?, roots, role_name(peer.role))?;
        Ok(peer)
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// This node's identity.
pub struct Identity {
    dir: PathBuf,
    state: ArcSwap<State>,
    changed: watch::Sender<u64>,
    /// One replacement at a time, so that folder and memory agree; holds what the key on disk is sealed with.
    replacing: Mutex<Option<UnlockKey>>,
}

/// What follows from one set of credentials.
struct State {
    peer: PeerIdentity,
    not_before: SystemTime,
    not_after: SystemTime,
    root: String,
    root_digest: [u8; 32],
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Identity {
    /// True when this node has an identity in `dir`: it is part of a cluster.
    pub fn exists(dir: &Path) -> bool {
        files::exists(dir)
    }

    /// Reads the identity in `dir`. An expired certificate is no error here: the peers will say so.
    /// Of a locked manager it is [`Error::Locked`].
    pub fn open(dir: &Path) -> Result<Arc<Self>, Error> {
        Self::unlock(dir, None)
    }

    /// Reads the identity in `dir`, whose key may be sealed by `lock`; it stays so.
    pub fn unlock(dir: &Path, lock: Option<&UnlockKey>) -> Result<Arc<Self>, Error> {
        let credentials = files::read(dir, lock, |credentials| State::build(credentials).is_ok())?;
        let identity = Self::in_memory(dir, &credentials)?;
        let lock = lock.filter(|_| files::is_locked(dir)).cloned();
        *identity.replacing.lock().unwrap_or_else(PoisonError::into_inner) = lock;
        Ok(identity)
    }

    /// True when the key in `dir` can only be read with the unlock key.
    pub fn is_locked(dir: &Path) -> bool {
        files::is_locked(dir)
    }

    /// What the key on disk is sealed with.
    pub fn lock(&self) -> Option<UnlockKey> {
        self.replacing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Seals the key on disk by another unlock key, or keeps it in clear; renewed ones too.
    pub fn set_lock(&self, lock: Option<&UnlockKey>) -> Result<(), Error> {
        let mut current = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref() == lock && files::is_locked(&self.dir) == lock.is_some() {
            return Ok(());
        }
        let credentials = files::read(&self.dir, current.as_ref(), |credentials| {
            State::build(credentials).is_ok()
        })?;
        files::write(&self.dir, &credentials, lock)?;
        *current = lock.cloned();
        Ok(())
    }

    /// Writes credentials to `dir` (0700; files 0600) and opens them.
    pub fn install(dir: &Path, credentials: &Credentials) -> Result<Arc<Self>, Error> {
        let identity = Self::in_memory(dir, credentials)?;
        files::write(dir, credentials, None)?;
        Ok(identity)
    }

    /// Removes the identity's files; for leaving the cluster.
    pub fn remove(dir: &Path) -> Result<(), Error> {
        files::remove(dir)
    }

    fn in_memory(dir: &Path, credentials: &Credentials) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            state: ArcSwap::from_pointee(State::build(credentials)?),
            changed: watch::channel(0).0,
            replacing: Mutex::new(None),
        }))
    }

    /// Takes new credentials of the same node and cluster, on disk and for all connections made from now on.
    pub fn replace(&self, credentials: &Credentials) -> Result<(), Error> {
        let lock = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = State::build(credentials)?;
        let current = self.state.load();
        if state.peer.cluster_id != current.peer.cluster_id {
            let (expected, found) = (current.peer.cluster_id.clone(), state.peer.cluster_id);
            let reason = Refusal::ForeignCluster { expected, found }.to_string();
            return Err(Error::Invalid {
                what: "new node certificate",
                reason,
            });
        }
        if state.peer.node_id != current.peer.node_id {
            let reason = format!(
                "it is for node {}, this is node {}",
                state.peer.node_id, current.peer.node_id
            );
            return Err(Error::Invalid {
                what: "new node certificate",
                reason,
            });
        }
        files::write(&self.dir, credentials, lock.as_ref())?;
        self.state.store(Arc::new(state));
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Id, role and cluster at once.
    pub fn peer(&self) -> PeerIdentity {
        self.state.load().peer.clone()
    }

    /// This node's id.
    pub fn node_id(&self) -> String {
        self.state.load().peer.node_id.clone()
    }

    /// The role that the certificate was issued for.
    pub fn role(&self) -> NodeRole {
        self.state.load().peer.role
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> String {
        self.state.load().peer.cluster_id.clone()
    }

    /// The cluster's root certificate, PEM.
    pub fn root_pem(&self) -> String {
        self.state.load().root.clone()
    }

    /// SHA-256 of the root certificate (DER): what join tokens pin.
    pub fn root_digest(&self) -> [u8; 32] {
        self.state.load().root_digest
    }

    /// From when to when the certificate is valid.
    pub fn validity(&self) -> (SystemTime, SystemTime) {
        let state = self.state.load();
        (state.not_before, state.not_after)
    }

    /// The current configuration for accepting connections.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.state.load().server.clone()
    }

    /// The current configuration for dialling.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.state.load().client.clone()
    }

    /// Counts replacements: wakes whoever depends on the role or the certificate.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("dir", &self.dir)
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}

impl State {
    /// Checks that certificate, key and root belong together, and builds the configurations.
    fn build(credentials: &Credentials) -> Result<Self, Error> {
        let invalid = |what| {
            move |e: rustls::pki_types::pem::Error| Error::Invalid {
                what,
                reason: e.to_string(),
            }
        };
        let chain = CertificateDer::pem_slice_iter(credentials.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(invalid("node certificate"))?;
        let root = CertificateDer::from_pem_slice(credentials.root.as_bytes())
            .map_err(invalid("root certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(credentials.key.as_bytes()).map_err(invalid("key"))?;
        let leaf = chain.first().ok_or_else(|| Error::Invalid {
            what: "node certificate",
            reason: "there is none in the file".to_owned(),
        })?;
        let parsed = peer::parse(leaf)?;
        let roots = tls::roots(&root)?;
        let server = tls::server(chain.clone(), key.clone_key(), roots.clone())?;
        let client = tls::client(chain, key, roots)?;
        Ok(Self {
            peer: parsed.identity,
            not_before: parsed.not_before,
            not_after: parsed.not_after,
            root_digest: digest_of(&root),
            root: credentials.root.clone(),
            server,
            client,
        })
    }
}
