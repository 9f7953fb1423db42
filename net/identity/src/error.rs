//! What can go wrong with certificates, tokens and handshakes, and why a certificate was refused.
//!
//! Owned here: the translation of rustls errors and TLS alerts to reasons that an operator can act on. A client whose
//! certificate a TLS 1.3 server refuses learns it only by an alert after its own handshake is done (RFC 8446 4.4.2.4),
//! so alerts are translated as well as our own findings.

use std::io;
use std::path::PathBuf;

use rustls::{AlertDescription, CertificateError};

use crate::token::TokenError;
use crate::unlock::UnlockError;

/// Why a certificate is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It chains to another root than this cluster's.
    #[error("it was issued by the root of another cluster, or by one of this cluster that was replaced")]
    ForeignRoot,
    /// Its subject names another cluster.
    #[error("it belongs to cluster {found}, not to cluster {expected}")]
    ForeignCluster {
        /// This cluster's id.
        expected: String,
        /// The id in the certificate.
        found: String,
    },
    /// Past its end, or (a peer's alert does not tell these apart) before its beginning.
    #[error("it has expired or is not yet valid: check both clocks")]
    Expired,
    /// Before its beginning.
    #[error("it is not yet valid: check both clocks")]
    NotYetValid,
    /// It is no certificate for the expected role.
    #[error("it is not the certificate of a {expected}")]
    WrongRole {
        /// The role's name as in the certificate: `swarm-manager`.
        expected: &'static str,
    },
    /// None was shown where one is required.
    #[error("no certificate was shown")]
    Missing,
    /// Its signature or key does not fit.
    #[error("its signature does not match")]
    BadSignature,
    /// Not a node certificate of ours in another way.
    #[error("it is not a valid node certificate ({0})")]
    Malformed(String),
}

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A join token can't be read.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The root shown at an address is not the one that the token pins.
    #[error(
        "the join token is of another cluster than the manager at {addr}: its root certificate has another digest"
    )]
    WrongDigest {
        /// The manager's address.
        addr: String,
    },
    /// A file of the identity's folder could not be read or written.
    #[error("can't {operation} {}", path.display())]
    File {
        /// read, write, rename…
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The key on disk is sealed: this manager is locked.
    #[error("this node's TLS key is locked; use \"pontoon swarm unlock\" to unlock it")]
    Locked,
    /// The unlock key is not the right one.
    #[error(transparent)]
    Unlock(UnlockError),
    /// A certificate, key or request is not what it should be.
    #[error("the {what} can't be used: {reason}")]
    Invalid {
        /// "node certificate", "certificate signing request"…
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// Making a key or certificate failed.
    #[error("can't make the {what}")]
    Generate {
        /// "root certificate", "key"…
        what: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A TLS configuration can't be built of a certificate and key.
    #[error("can't build the TLS configuration")]
    Tls(#[source] rustls::Error),
    /// A host name has no address.
    #[error("can't resolve {host}: {reason}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        reason: String,
    },
    /// An address is not `host:port`.
    #[error("{0:?} is not an address: give host:port")]
    Address(String),
    /// No connection.
    #[error("can't connect to {addr}")]
    Connect {
        /// host:port.
        addr: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The peer did not finish the handshake.
    #[error("no answer from {addr} within {seconds} s: is it a manager's cluster port?")]
    Timeout {
        /// host:port.
        addr: String,
        /// The time-out.
        seconds: u64,
    },
    /// We don't accept the peer's certificate.
    #[error("the certificate of {addr} is refused: {reason}")]
    PeerRefused {
        /// host:port.
        addr: String,
        /// Why.
        reason: Refusal,
    },
    /// The peer does not accept ours.
    #[error("{addr} refuses this node's certificate: {reason}")]
    RefusedByPeer {
        /// host:port.
        addr: String,
        /// Why.
        reason: Refusal,
    },
    /// Another TLS failure.
    #[error("the TLS handshake with {addr} failed")]
    Handshake {
        /// host:port.
        addr: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The manager answered an error.
    #[error("the manager at {addr} answered: {message}")]
    Answer {
        /// host:port.
        addr: String,
        /// The gRPC code.
        code: tonic::Code,
        /// The manager's words.
        message: String,
    },
    /// The manager answered something that must not be trusted.
    #[error("the certificate issued by {addr} can't be used: {reason}")]
    BadIssue {
        /// host:port.
        addr: String,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// Sorts the failure of a handshake with `addr`, where the peer had to be an `expected` role.
    pub(crate) fn from_handshake(addr: &str, expected: &'static str, error: io::Error) -> Self {
        let addr = addr.to_owned();
        match tls_error(&error) {
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
                if other.0.downcast_ref::<crate::tls::DigestMismatch>().is_some() =>
            {
                Error::WrongDigest { addr }
            }
            Some(rustls::Error::InvalidCertificate(reason)) => Error::PeerRefused {
                addr,
                reason: Refusal::from_certificate(reason, expected),
            },
            Some(rustls::Error::AlertReceived(alert)) => match Refusal::from_alert(*alert) {
                Some(reason) => Error::RefusedByPeer { addr, reason },
                None => Error::Handshake { addr, source: error },
            },
            _ => Error::Handshake { addr, source: error },
        }
    }
}

impl Refusal {
    /// Sorts what a verifier of ours found.
    pub(crate) fn from_certificate(error: &CertificateError, expected: &'static str) -> Self {
        match error {
            CertificateError::UnknownIssuer => Refusal::ForeignRoot,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Refusal::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Refusal::NotYetValid
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Refusal::WrongRole { expected }
            }
            CertificateError::BadSignature => Refusal::BadSignature,
            other => Refusal::Malformed(other.to_string()),
        }
    }

    /// Sorts what the other side's alert says of our certificate; `None` for alerts about something else.
    pub(crate) fn from_alert(alert: AlertDescription) -> Option<Self> {
        match alert {
            AlertDescription::UnknownCA => Some(Refusal::ForeignRoot),
            AlertDescription::CertificateExpired => Some(Refusal::Expired),
            AlertDescription::CertificateRequired => Some(Refusal::Missing),
            AlertDescription::DecryptError => Some(Refusal::BadSignature),
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::AccessDenied
            | AlertDescription::UnsupportedCertificate => Some(Refusal::Malformed(format!("{alert:?}"))),
            _ => None,
        }
    }
}

/// The rustls error inside an I/O error of a TLS stream.
pub(crate) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
}

/// An error and its sources in one line, each said once; TLS alerts become reasons. For messages to users about a
/// gRPC call that failed in transport: tonic hides the reason in the sources.
pub fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(current) = next {
        let mut text = match current.downcast_ref::<tonic::Status>() {
            // Its own text is for debugging.
            Some(status) if status.message().is_empty() => status.code().to_string(),
            Some(status) => status.message().to_owned(),
            None => current.to_string(),
        };
        if let Some(rustls::Error::AlertReceived(alert)) = current.downcast_ref::<rustls::Error>()
            && let Some(reason) = Refusal::from_alert(*alert)
        {
            text = format!("the peer refuses this node's certificate: {reason}");
        }
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        // `source()` of an I/O error skips the error inside it.
        next = match current.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => current.source(),
        };
    }
    parts.join(": ")
}
