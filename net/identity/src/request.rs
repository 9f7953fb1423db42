//! Asking a manager for a certificate: joining with a token, and renewal.
//!
//! Owned here: what a node accepts as an answer. It checks that the certificate is for the key it made, of the pinned
//! (or its present) root, and for the node and cluster that the answer names. Called by `swarm join` and the renewal.

use std::sync::Arc;

use pontoon_proto::v1::ca_client::CaClient;
use pontoon_proto::v1::{Availability, IssueCertificateRequest, IssueCertificateResponse, NodeRole};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use tonic::transport::Channel;
use zeroize::Zeroizing;

use crate::connect::{Endpoint, connect, dial};
use crate::error::Error;
use crate::identity::{Credentials, Identity};
use crate::root::pem_of;
use crate::tls;
use crate::token::JoinToken;

/// A new key and the request for a certificate of it.
pub struct CertificateRequest {
    /// Private key, PEM.
    pub key_pem: Zeroizing<String>,
    /// The request, PEM.
    pub csr_pem: String,
}

impl CertificateRequest {
    /// A new P-256 key. The request names nobody: the CA sets the subject.
    pub fn generate() -> Result<Self, Error> {
        let failed = |source| Error::Generate {
            what: "certificate signing request",
            source,
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params
            .serialize_request(&key)
            .and_then(|request| request.pem())
            .map_err(failed)?;
        Ok(Self {
            key_pem: Zeroizing::new(key.serialize_pem()),
            csr_pem: csr,
        })
    }
}

/// What a node joins with.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// A manager's host:port.
    pub addr: String,
    /// The token: decides the role.
    pub token: JoinToken,
    /// Availability wished for.
    pub availability: Availability,
}

/// An issued certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The node's id.
    pub node_id: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The role that the certificate is for.
    pub role: NodeRole,
    /// To be given to [`Identity::install`] or [`Identity::replace`].
    pub credentials: Credentials,
    /// Managers that the node may dial.
    pub manager_addrs: Vec<String>,
}

/// The root certificate (PEM) at `addr`, checked against the token's digest and against the manager's certificate.
pub async fn fetch_root_pinned(addr: &str, token: &JoinToken) -> Result<String, Error> {
    pinned_channel(addr, token).await.map(|(_, root)| root)
}

/// Joins: a certificate for a new key, in the role of the token.
pub async fn request_certificate(join: &JoinRequest) -> Result<Issued, Error> {
    let (channel, root) = pinned_channel(&join.addr, &join.token).await?;
    let request = CertificateRequest::generate()?;
    let message = IssueCertificateRequest {
        csr: request.csr_pem.clone().into(),
        token: join.token.to_string(),
        availability: join.availability.into(),
    };
    let answer = issue(&join.addr, channel, message).await?;
    accept(&join.addr, answer, request, root)
}

/// Renews: a certificate for a new key over the identity's own connection, in the role that the cluster now gives it.
/// The identity takes it at once.
pub async fn renew(identity: &Arc<Identity>, addr: &str) -> Result<Issued, Error> {
    let channel = connect(identity, &Endpoint::manager(addr)).await?;
    let request = CertificateRequest::generate()?;
    let message = IssueCertificateRequest {
        csr: request.csr_pem.clone().into(),
        ..Default::default()
    };
    let answer = issue(addr, channel, message).await?;
    let issued = accept(addr, answer, request, identity.root_pem())?;
    identity.renewed(&issued.credentials)?;
    Ok(issued)
}

async fn pinned_channel(addr: &str, token: &JoinToken) -> Result<(Channel, String), Error> {
    let (config, pin) = tls::pinned(token.root_digest)?;
    let channel = dial(&Endpoint::manager(addr), move || config.clone()).await?;
    let root = pin.found().ok_or_else(|| Error::WrongDigest {
        addr: addr.to_owned(),
    })?;
    Ok((channel, pem_of(&root)))
}

async fn issue(
    addr: &str,
    channel: Channel,
    message: IssueCertificateRequest,
) -> Result<IssueCertificateResponse, Error> {
    let answer = CaClient::new(channel).issue_certificate(message).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| Error::Answer {
            addr: addr.to_owned(),
            code: status.code(),
            message: status.message().to_owned(),
        })
}

fn accept(
    addr: &str,
    answer: IssueCertificateResponse,
    request: CertificateRequest,
    root: String,
) -> Result<Issued, Error> {
    let bad = |reason: String| Error::BadIssue {
        addr: addr.to_owned(),
        reason,
    };
    let certificate = String::from_utf8(answer.certificate.to_vec()).map_err(|e| bad(e.to_string()))?;
    let credentials = Credentials {
        certificate,
        key: request.key_pem,
        root,
    };
    let peer = credentials
        .verify()
        .map_err(|e| bad(crate::error::describe(&e)))?;
    if peer.node_id != answer.node_id || peer.cluster_id != answer.cluster_id || peer.role != answer.role() {
        return Err(bad(
            "it names another node, cluster or role than the answer".to_owned()
        ));
    }
    Ok(Issued {
        node_id: peer.node_id,
        cluster_id: peer.cluster_id,
        role: peer.role,
        credentials,
        manager_addrs: answer.manager_addrs,
    })
}
