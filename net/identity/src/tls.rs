//! TLS configurations: TLS 1.3 only, ALPN `h2`, ring, no session resumption.
//!
//! Owned here: the verifiers. A resumed session would skip the check of the certificate's time and would outlive a
//! renewal, so resumption is off on both sides. Called by [`crate::Identity`] and by joining nodes.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::error::{Error, Refusal};
use crate::root::digest_of;

const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The one crypto provider of the binary.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn alpn() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec()]
}

pub(crate) fn roots(certificates: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(Error::Tls)?;
    }
    Ok(Arc::new(roots))
}

/// Checks a node certificate and those above it against the root, for its role, at this moment.
pub(crate) fn verify(
    leaf: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    roots: Arc<RootCertStore>,
    role: &'static str,
) -> Result<(), Error> {
    let name = ServerName::try_from(role).expect("role names are DNS names");
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|e| Error::Invalid {
            what: "root certificate",
            reason: e.to_string(),
        })?;
    match verifier.verify_server_cert(leaf, above, &name, &[], UnixTime::now()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InvalidCertificate(reason)) => {
            let reason = Refusal::from_certificate(&reason, role).to_string();
            Err(Error::Invalid {
                what: "node certificate",
                reason,
            })
        }
        Err(other) => Err(Error::Tls(other)),
    }
}

/// The cluster port's side: clients show a certificate of our root, or none (they may then only call the CA).
pub(crate) fn server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
) -> Result<Arc<ServerConfig>, Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| Error::Invalid {
            what: "root certificate",
            reason: e.to_string(),
        })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(Error::Tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(Error::Tls)?;
    config.alpn_protocols = alpn();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The dialling side with this node's certificate.
pub(crate) fn client(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(Error::Tls)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(Error::Tls)?;
    config.alpn_protocols = alpn();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// The dialling side of a node that joins: no certificate yet, the root known by its digest only.
pub(crate) fn pinned(digest: [u8; 32]) -> Result<(Arc<ClientConfig>, Arc<PinnedRoot>), Error> {
    let verifier = Arc::new(PinnedRoot {
        digest,
        provider: provider(),
        found: Mutex::new(None),
    });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(Error::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    config.alpn_protocols = alpn();
    config.resumption = rustls::client::Resumption::disabled();
    Ok((Arc::new(config), verifier))
}

/// No certificate in the server's chain has the pinned digest.
#[derive(Debug, thiserror::Error)]
#[error("no certificate shown has the digest of the join token")]
pub(crate) struct DigestMismatch;

/// Finds the pinned root in the chain that the server shows, then verifies as usual with that root alone.
#[derive(Debug)]
pub(crate) struct PinnedRoot {
    digest: [u8; 32],
    provider: Arc<CryptoProvider>,
    found: Mutex<Option<CertificateDer<'static>>>,
}

impl PinnedRoot {
    /// The root, once a handshake has gone well.
    pub(crate) fn found(&self) -> Option<CertificateDer<'static>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let root = intermediates
            .iter()
            .find(|certificate| digest_of(certificate) == self.digest)
            .ok_or_else(|| {
                let mismatch = OtherError(Arc::new(DigestMismatch));
                rustls::Error::InvalidCertificate(CertificateError::Other(mismatch))
            })?;
        let root = root.clone().into_owned();
        let mut store = RootCertStore::empty();
        store.add(root.clone())?;
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(store), self.provider.clone())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        let verified = webpki.verify_server_cert(leaf, intermediates, server_name, ocsp, now)?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(root);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General(
            "TLS 1.2 is not used on the cluster port".to_owned(),
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
