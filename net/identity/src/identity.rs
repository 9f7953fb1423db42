//! This node's identity: certificate, key and root in their folder and in memory, replaced without a restart.
//!
//! Owned here: the current TLS configurations. Each accept and each dial takes them anew, so a renewed certificate is
//! used from the next connection on while those that live go on. Called by the daemon, the controller and the agent.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use pontoon_proto::v1::{NodeRole, TlsInfo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};
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
        let state = State::build(self)?;
        state.verify()?;
        Ok(state.peer)
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
    /// The key that must have issued the certificate (SubjectPublicKeyInfo); empty: whichever.
    ordered: watch::Sender<Vec<u8>>,
    /// Why no manager could be talked to last, if that is about certificates.
    refused: ArcSwapOption<String>,
    /// One replacement at a time, so that folder and memory agree; holds what the key on disk is sealed with.
    replacing: Mutex<Option<UnlockKey>>,
}

/// What follows from one set of credentials.
struct State {
    peer: PeerIdentity,
    not_before: SystemTime,
    not_after: SystemTime,
    credentials: Credentials,
    /// Leaf, then what stands between it and the root.
    chain: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
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
            ordered: watch::channel(Vec::new()).0,
            refused: ArcSwapOption::empty(),
            replacing: Mutex::new(None),
        }))
    }

    /// Takes new credentials of the same node and cluster, on disk and for all connections made from now on.
    pub fn replace(&self, credentials: &Credentials) -> Result<(), Error> {
        let lock = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        self.take(credentials, lock.as_ref())
    }

    /// Takes a renewed certificate. The root stays the one trusted now: it may have been replaced while the certificate was on its way.
    pub(crate) fn renewed(&self, credentials: &Credentials) -> Result<(), Error> {
        let lock = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let credentials = Credentials {
            root: self.root_pem(),
            ..credentials.clone()
        };
        self.take(&credentials, lock.as_ref())
    }

    /// Trusts another root (PEM) from the next connection on, on disk too; false when it is the one trusted already. The session
    /// with a manager brings it, so it comes from the cluster.
    ///
    /// # Errors
    /// It is no certificate, or this node's own certificate is not good under it: the node would lock itself out.
    pub fn trust(&self, root: &str) -> Result<bool, Error> {
        let _one_at_a_time = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.state.load();
        if current.credentials.root == root {
            return Ok(false);
        }
        let state = State::build(&Credentials {
            root: root.to_owned(),
            ..current.credentials.clone()
        })?;
        state.verify()?;
        files::write_root(&self.dir, root)?;
        self.put(state);
        Ok(true)
    }

    /// Wants the certificate to be issued by this key (DER of a SubjectPublicKeyInfo); empty: by whichever. The renewal sees to it.
    pub fn order(&self, issuer_public_key: &[u8]) {
        self.ordered.send_if_modified(|ordered| {
            let differs = ordered != issuer_public_key;
            if differs {
                *ordered = issuer_public_key.to_vec();
            }
            differs
        });
    }

    /// True when another issuer's certificate is wanted than this node has.
    pub fn is_due(&self) -> bool {
        let ordered = self.ordered.borrow();
        !ordered.is_empty() && self.tls_info().issuer_public_key != ordered.as_slice()
    }

    /// Wakes when another issuer is wanted.
    pub fn orders(&self) -> watch::Receiver<Vec<u8>> {
        self.ordered.subscribe()
    }

    /// Whom this node trusts, and who issued its certificate.
    pub fn tls_info(&self) -> TlsInfo {
        self.state.load().tls_info()
    }

    fn put(&self, state: State) {
        self.state.store(Arc::new(state));
        self.changed.send_modify(|count| *count += 1);
    }

    fn take(&self, credentials: &Credentials, lock: Option<&UnlockKey>) -> Result<(), Error> {
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
        files::write(&self.dir, credentials, lock)?;
        self.put(state);
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
        self.state.load().credentials.root.clone()
    }

    /// SHA-256 of the root certificate (DER): what join tokens pin.
    pub fn root_digest(&self) -> [u8; 32] {
        digest_of(&self.state.load().root)
    }

    /// From when to when the certificate is valid.
    pub fn validity(&self) -> (SystemTime, SystemTime) {
        let state = self.state.load();
        (state.not_before, state.not_after)
    }

    /// Why this node gets nowhere with its certificate, if so: it is not valid at this moment, or the last manager that was dialled
    /// and this node don't accept each other's.
    pub fn problem(&self) -> Option<String> {
        let invalid = self.state.load().verify().err();
        let invalid = invalid.map(|error| crate::describe(&error));
        invalid.or_else(|| self.refused.load().as_deref().cloned())
    }

    /// Remembers how a dial to a manager ended.
    pub(crate) fn dialled<T>(&self, outcome: &Result<T, Error>) {
        match outcome {
            Err(error @ (Error::PeerRefused { .. } | Error::RefusedByPeer { .. })) => {
                self.refused.store(Some(Arc::new(crate::describe(error))));
            }
            Ok(_) => self.refused.store(None),
            Err(_) => {}
        }
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
        let mut chain = CertificateDer::pem_slice_iter(credentials.certificate.as_bytes())
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
        // Of the roots only the trusted one is shown: a joining node looks for it there.
        chain.retain(|certificate| !is_root(certificate));
        let mut shown = chain.clone();
        shown.push(root.clone());
        let roots = tls::roots(std::slice::from_ref(&root))?;
        let server = tls::server(shown.clone(), key.clone_key(), roots.clone())?;
        let client = tls::client(shown, key, roots)?;
        Ok(Self {
            peer: parsed.identity,
            not_before: parsed.not_before,
            not_after: parsed.not_after,
            credentials: credentials.clone(),
            chain,
            root,
            server,
            client,
        })
    }

    /// Checks that the certificate is valid now and comes from the root.
    fn verify(&self) -> Result<(), Error> {
        let (leaf, above) = self.chain.split_first().ok_or_else(|| Error::Invalid {
            what: "node certificate",
            reason: "it is a root's".to_owned(),
        })?;
        let roots = tls::roots(std::slice::from_ref(&self.root))?;
        tls::verify(leaf, above, roots, role_name(self.peer.role))
    }

    /// The issuer is the first in the chain above the leaf whose name fits, else the root.
    fn tls_info(&self) -> TlsInfo {
        let mut info = TlsInfo {
            trust_root: self.credentials.root.clone().into(),
            ..TlsInfo::default()
        };
        let Some((leaf, above)) = self.chain.split_first() else {
            return info;
        };
        let Ok((_, leaf)) = X509Certificate::from_der(leaf) else {
            return info;
        };
        info.issuer_subject = leaf.issuer().as_raw().to_vec().into();
        let issuer = above.iter().chain([&self.root]).find_map(|certificate| {
            let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
            let fits = certificate.subject().as_raw() == leaf.issuer().as_raw();
            fits.then(|| certificate.public_key().raw.to_vec())
        });
        info.issuer_public_key = issuer.unwrap_or_default().into();
        info
    }
}

/// True for a certificate that has signed itself. The names alone don't tell: an operator's new root may be called as the one before.
fn is_root(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let (mut own, mut signer) = (None, None);
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => own = Some(id.0),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                signer = id.key_identifier.as_ref().map(|id| id.0);
            }
            _ => {}
        }
    }
    certificate.subject().as_raw() == certificate.issuer().as_raw() && (signer.is_none() || signer == own)
}
