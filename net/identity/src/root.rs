//! The cluster's root: made once at `swarm init`, lives in the replicated Cluster object, issues node certificates.
//!
//! Owned here: everything that is signed. Nothing but the public key is taken from a request: subject and SANs come
//! from the caller, who knows the role. Called by the controller's CA service and by `swarm init`.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use pontoon_proto::v1::TlsInfo;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::identity::Credentials;
use crate::peer::{PeerIdentity, role_name};
use crate::request::CertificateRequest;
use crate::token::JoinToken;

/// The shortest lifetime of a node certificate that a cluster may wish for.
pub const LEAST_EXPIRY: Duration = Duration::from_secs(3600);

/// Lifetime of a node certificate when the cluster does not say otherwise: 90 days.
pub const DEFAULT_EXPIRY: Duration = Duration::from_secs(90 * 24 * 3600);

const ROOT_EXPIRY: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// Certificates begin this long before they are made, so that a node whose clock is behind accepts them.
pub(crate) const BACKDATE: Duration = Duration::from_secs(3600);
/// No request of ours comes near; more is an attack.
const MAX_REQUEST: usize = 16 * 1024;

/// The root certificate with its key.
pub struct RootCa {
    certificate: String,
    der: CertificateDer<'static>,
    key: Zeroizing<String>,
    issuer: Issuer<'static, KeyPair>,
    /// PEM of what stands between what is issued and the root that nodes trust.
    chain: String,
}

impl RootCa {
    /// A new root for the cluster: P-256, 20 years.
    pub fn generate(cluster_id: &str) -> Result<Self, Error> {
        let failed = |source| Error::Generate {
            what: "root certificate",
            source,
        };
        let now = SystemTime::now();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + ROOT_EXPIRY).into();
        params.serial_number = Some(serial());
        // The cluster's id makes roots of two clusters differ by name, so that a foreign certificate is reported as
        // of an unknown issuer and not as one with a bad signature.
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, "swarm-ca");
        params
            .distinguished_name
            .push(DnType::OrganizationName, cluster_id);
        // And this makes the roots of one cluster differ, of which there are two during a rotation.
        let unit = u64::from_be_bytes(rand::random());
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, format!("root-{unit:016x}"));
        // One that is signed by this root may stand in between, during a rotation.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(2));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?;
        let pem = certificate.pem();
        Self::from_pem(pem.as_bytes(), key.serialize_pem().as_bytes())
    }

    /// The root from its PEM parts, as the Cluster object holds them.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, Error> {
        let invalid = |reason: String| Error::Invalid { what: "root", reason };
        let der = CertificateDer::from_pem_slice(certificate).map_err(|e| invalid(e.to_string()))?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|e| invalid(e.to_string()));
        let key = Zeroizing::new(text(key)?);
        let pair = KeyPair::from_pem(&key).map_err(|e| invalid(e.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&der, pair).map_err(|e| invalid(e.to_string()))?;
        Ok(Self {
            certificate: text(certificate)?,
            der,
            key,
            issuer,
            chain: String::new(),
        })
    }

    /// Puts certificates (PEM) between what it issues from now on and its own: those that let nodes accept it which trust another root.
    #[must_use]
    pub fn with_chain(mut self, chain: &[u8]) -> Self {
        // What is not text is no PEM either.
        self.chain = String::from_utf8_lossy(chain).into_owned();
        self
    }

    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// What nodes with a certificate of this root say of it, and of trusting `trusted` (PEM).
    pub fn tls_info(&self, trusted: &[u8]) -> TlsInfo {
        // Parsed when it was made.
        let parsed = X509Certificate::from_der(&self.der).ok();
        let of = |part: fn(&X509Certificate<'_>) -> Vec<u8>| {
            parsed.as_ref().map(|(_, root)| part(root)).unwrap_or_default()
        };
        TlsInfo {
            trust_root: trusted.to_vec().into(),
            issuer_subject: of(|root| root.subject().as_raw().to_vec()).into(),
            issuer_public_key: of(|root| root.public_key().raw.to_vec()).into(),
        }
    }

    /// The certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// The private key, PEM.
    pub fn key_pem(&self) -> &str {
        &self.key
    }

    /// SHA-256 of the certificate (DER): what join tokens pin.
    pub fn digest(&self) -> [u8; 32] {
        digest_of(&self.der)
    }

    /// A join token of this root.
    pub fn join_token(&self, secret: [u8; 16]) -> JoinToken {
        JoinToken::new(self.digest(), secret)
    }

    /// Issues a certificate for the key of a request (PEM): leaf, then the chain, then root, PEM. `now` is the caller's clock.
    /// Fails when the request is damaged, not signed by its own key, or its key is not P-256.
    pub fn issue(
        &self,
        request: &[u8],
        subject: &PeerIdentity,
        expiry: Duration,
        now: SystemTime,
    ) -> Result<String, Error> {
        let invalid = |reason: String| Error::Invalid {
            what: "certificate signing request",
            reason,
        };
        if request.len() > MAX_REQUEST {
            return Err(invalid(format!("it is longer than {MAX_REQUEST} bytes")));
        }
        let text = std::str::from_utf8(request).map_err(|_| invalid("it is not PEM".to_owned()))?;
        let request = CertificateSigningRequestParams::from_pem(text).map_err(|e| invalid(e.to_string()))?;
        if *rcgen::PublicKeyData::algorithm(&request.public_key) != PKCS_ECDSA_P256_SHA256 {
            return Err(invalid("its key is not P-256".to_owned()));
        }
        let failed = |source| Error::Generate {
            what: "node certificate",
            source,
        };
        let names = vec![role_name(subject.role).to_owned(), subject.node_id.clone()];
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + expiry).into();
        params.serial_number = Some(serial());
        params.distinguished_name.remove(DnType::CommonName);
        params
            .distinguished_name
            .push(DnType::OrganizationName, subject.cluster_id.as_str());
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, role_name(subject.role));
        params
            .distinguished_name
            .push(DnType::CommonName, subject.node_id.as_str());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let leaf = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(failed)?;
        Ok(format!("{}{}{}", leaf.pem(), self.chain, self.certificate))
    }

    /// A new key and its certificate in one step: for the cluster's first manager, which has the root at hand.
    pub fn issue_credentials(&self, subject: &PeerIdentity, expiry: Duration) -> Result<Credentials, Error> {
        let request = CertificateRequest::generate()?;
        let certificate = self.issue(request.csr_pem.as_bytes(), subject, expiry, SystemTime::now())?;
        Ok(Credentials {
            certificate,
            key: request.key_pem,
            root: self.certificate.clone(),
        })
    }
}

impl std::fmt::Debug for RootCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootCa")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// SHA-256 of a certificate (DER).
pub(crate) fn digest_of(certificate: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
    bytes
}

/// PEM of a certificate.
pub(crate) fn pem_of(certificate: &CertificateDer<'_>) -> String {
    pem("CERTIFICATE", certificate)
}

/// PEM (RFC 7468).
pub(crate) fn pem(label: &str, content: &[u8]) -> String {
    let encoded = STANDARD.encode(content);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for (position, character) in encoded.chars().enumerate() {
        if position > 0 && position % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem.push_str(&format!("\n-----END {label}-----\n"));
    pem
}

/// 16 random bytes, positive (RFC 5280 4.1.2.2).
pub(crate) fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x01;
    SerialNumber::from_slice(&bytes)
}
