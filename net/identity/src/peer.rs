//! What a node certificate says: node id, role, cluster.
//!
//! Owned here: reading (once per connection, 3 µs) and naming. Called by the listener, [`crate::Identity`] and the CA.

use std::time::{Duration, SystemTime};

use pontoon_proto::v1::NodeRole;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::Error;
use crate::root::BACKDATE;

/// The other side of a connection, or this node itself, as its certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Node id (CN).
    pub node_id: String,
    /// Role that the certificate was issued for (OU).
    pub role: NodeRole,
    /// Cluster id (O).
    pub cluster_id: String,
}

/// A role's name in certificates, which is also the TLS server name: `swarm-manager`, `swarm-worker`.
pub fn role_name(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Manager => "swarm-manager",
        NodeRole::Worker => "swarm-worker",
    }
}

/// A certificate's subject and time.
pub(crate) struct Parsed {
    pub identity: PeerIdentity,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Parsed {
    /// When it was issued: certificates are dated back, for nodes whose clocks are behind.
    pub fn issued_at(&self) -> SystemTime {
        self.not_before + BACKDATE
    }
}

/// Reads a node certificate that a verifier has already accepted (or that is our own).
pub(crate) fn parse(certificate: &CertificateDer<'_>) -> Result<Parsed, Error> {
    let invalid = |reason: &str| Error::Invalid {
        what: "node certificate",
        reason: reason.to_owned(),
    };
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| invalid("it is not an X.509 certificate"))?;
    let subject = certificate.subject();
    let mut organizations = subject.iter_organization();
    let mut units = subject.iter_organizational_unit();
    let mut names = subject.iter_common_name();
    let (Some(cluster), Some(unit), Some(name)) = (organizations.next(), units.next(), names.next()) else {
        return Err(invalid("its subject lacks CN, OU or O"));
    };
    if organizations.next().is_some() || units.next().is_some() || names.next().is_some() {
        return Err(invalid("its subject has CN, OU or O more than once"));
    }
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute
            .as_str()
            .map(str::to_owned)
            .map_err(|_| invalid("its subject is not text"))
    };
    let role = match text(unit)?.as_str() {
        "swarm-manager" => NodeRole::Manager,
        "swarm-worker" => NodeRole::Worker,
        _ => return Err(invalid("its OU is not a role")),
    };
    let validity = certificate.validity();
    Ok(Parsed {
        identity: PeerIdentity {
            node_id: text(name)?,
            role,
            cluster_id: text(cluster)?,
        },
        not_before: from_unix(validity.not_before.timestamp()),
        not_after: from_unix(validity.not_after.timestamp()),
    })
}

pub(crate) fn from_unix(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
