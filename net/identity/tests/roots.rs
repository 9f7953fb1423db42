//! Two roots at once: what is issued by the next one is good under the one before, and a node changes over without losing a connection.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, SystemTime};

use pontoon_identity::{
    CertificateRequest, Credentials, Endpoint, Error, Identity, RootCa, connect, renew, renew_forever,
};
use pontoon_proto::v1::ca_client::CaClient;
use pontoon_proto::v1::{GetRootRequest, NodeRole};
use support::{CLUSTER, Server, peer};
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_secs(3600);

/// A certificate of `issuer` for a node that trusts `trusted`.
fn issued(issuer: &RootCa, trusted: &RootCa, node: &str, role: NodeRole) -> Credentials {
    let request = CertificateRequest::generate().unwrap();
    let certificate = issuer.issue(
        request.csr_pem.as_bytes(),
        &peer(node, role),
        HOUR,
        SystemTime::now(),
    );
    Credentials {
        certificate: certificate.unwrap(),
        key: request.key_pem,
        root: trusted.certificate_pem().to_owned(),
    }
}

/// A root made by rcgen with a name of the caller's.
fn named(name: &str) -> RootCa {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.remove(rcgen::DnType::CommonName);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.use_authority_key_identifier_extension = true;
    let certificate = params.self_signed(&key).unwrap().pem();
    RootCa::from_operator(
        certificate.as_bytes(),
        key.serialize_pem().as_bytes(),
        SystemTime::now(),
    )
    .unwrap()
}

#[test]
fn the_next_roots_certificates_are_good_under_both() {
    let twice = || named("Our own CA");
    let made = || RootCa::generate(CLUSTER).unwrap();
    for (old, new) in [
        (made(), made()),
        (made(), twice()),
        (twice(), made()),
        (twice(), twice()),
    ] {
        let cross = old.cross_sign(&new).unwrap();
        let digest = new.digest();
        let chained = RootCa::from_pem(new.certificate_pem().as_bytes(), new.key_pem().as_bytes())
            .unwrap()
            .with_chain(cross.as_bytes());
        for trusted in [&old, &new] {
            issued(&chained, trusted, "node7", NodeRole::Worker)
                .verify()
                .unwrap();
        }
        // Without the chain only under its own.
        issued(&new, &new, "node7", NodeRole::Worker).verify().unwrap();
        assert!(issued(&new, &old, "node7", NodeRole::Worker).verify().is_err());
        assert!(issued(&old, &new, "node7", NodeRole::Worker).verify().is_err());

        // On top of that a third, for one that trusts the first still.
        let third = made();
        let chain = format!("{}{cross}", new.cross_sign(&third).unwrap());
        let chained = RootCa::from_pem(third.certificate_pem().as_bytes(), third.key_pem().as_bytes())
            .unwrap()
            .with_chain(chain.as_bytes());
        for trusted in [&old, &new, &third] {
            let credentials = issued(&chained, trusted, "node7", NodeRole::Worker);
            credentials.verify().unwrap();
            let dir = tempfile::tempdir().unwrap();
            let info = Identity::install(dir.path(), &credentials).unwrap().tls_info();
            assert_eq!(info, chained.tls_info(trusted.certificate_pem().as_bytes()));
        }
        assert_eq!(new.digest(), digest);
    }
}

/// Found by the fuzz target: an attribute's OID that no encoder writes made the library panic.
#[test]
fn a_name_with_an_impossible_attribute_is_refused() {
    use base64::Engine;
    use rustls::pki_types::pem::PemObject;
    let root = RootCa::generate(CLUSTER).unwrap();
    let mut der = rustls::pki_types::CertificateDer::from_pem_slice(root.certificate_pem().as_bytes())
        .unwrap()
        .to_vec();
    // organizationalUnitName, 2.5.4.11, becomes 4.21.4.11.
    let at: Vec<usize> = (0..der.len() - 5)
        .filter(|at| der[*at..*at + 5] == [6, 3, 0x55, 4, 11])
        .collect();
    assert_eq!(at.len(), 2);
    for at in at {
        der[at + 2] = 0xb5;
    }
    let pem = base64::prelude::BASE64_STANDARD.encode(der);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n");
    let refused = RootCa::from_operator(pem.as_bytes(), root.key_pem().as_bytes(), SystemTime::now());
    assert!(refused.unwrap_err().to_string().contains("impossible kind"));
}

#[tokio::test]
async fn a_node_takes_a_root_that_it_can_live_with_and_keeps_its_connections() {
    let server = Server::start(NodeRole::Manager).await;
    let old = &server.root;
    let new = RootCa::generate(CLUSTER).unwrap();
    let chained = RootCa::from_pem(new.certificate_pem().as_bytes(), new.key_pem().as_bytes())
        .unwrap()
        .with_chain(old.cross_sign(&new).unwrap().as_bytes());
    let client = support::identity(server.dir.path(), old, "node7", NodeRole::Worker);
    let endpoint = Endpoint::manager(&server.addr);
    let early = connect(&client, &endpoint).await.unwrap();

    // Its own certificate is not good under the new root yet: it would lock itself out.
    let refused = client.trust(new.certificate_pem()).unwrap_err();
    assert!(matches!(refused, Error::Invalid { .. }), "{refused:?}");
    assert_eq!(client.root_pem(), old.certificate_pem());
    // The server goes first; old and new certificates meet.
    server
        .identity
        .replace(&issued(&chained, old, "server", NodeRole::Manager))
        .unwrap();
    connect(&client, &endpoint).await.unwrap();
    client
        .replace(&issued(&chained, old, "node7", NodeRole::Worker))
        .unwrap();
    connect(&client, &endpoint).await.unwrap();
    // One trusts the new root already, the other does not, and the other way round.
    assert!(client.trust(new.certificate_pem()).unwrap());
    assert!(!client.trust(new.certificate_pem()).unwrap());
    connect(&client, &endpoint).await.unwrap();
    assert!(server.identity.trust(new.certificate_pem()).unwrap());
    connect(&client, &endpoint).await.unwrap();
    let late = support::identity(server.dir.path(), old, "node8", NodeRole::Worker);
    assert!(connect(&late, &endpoint).await.is_err());

    // What keeps it away is remembered until it gets through.
    assert!(
        late.problem()
            .unwrap()
            .contains("of this cluster that was replaced")
    );
    late.replace(&issued(&new, &new, "node8", NodeRole::Worker))
        .unwrap();
    connect(&late, &endpoint).await.unwrap();
    assert_eq!(late.problem(), None);

    // It was written down, and who was connected still is.
    let again = Identity::open(&server.dir.path().join("node7")).unwrap();
    assert_eq!(again.tls_info(), client.tls_info());
    CaClient::new(early).get_root(GetRootRequest {}).await.unwrap();
}

#[tokio::test]
async fn an_order_renews_at_once_and_a_renewal_keeps_the_root() {
    let server = Server::start(NodeRole::Manager).await;
    // The server's CA issues with the old root; the node has a certificate of another that the old one has signed.
    let other = RootCa::generate(CLUSTER).unwrap();
    let chained = RootCa::from_pem(other.certificate_pem().as_bytes(), other.key_pem().as_bytes())
        .unwrap()
        .with_chain(server.root.cross_sign(&other).unwrap().as_bytes());
    let dir = tempfile::tempdir().unwrap();
    let client = Identity::install(
        dir.path(),
        &issued(&chained, &server.root, "node7", NodeRole::Worker),
    )
    .unwrap();
    let wanted = server.root.tls_info(server.root.certificate_pem().as_bytes());
    let addr = server.addr.clone();
    let renewal = renew_forever(
        client.clone(),
        move || vec![addr.clone()],
        CancellationToken::new(),
    );
    let renewal = tokio::spawn(renewal);
    let mut changes = client.changes();
    assert!(!client.is_due());
    client.order(&wanted.issuer_public_key);
    tokio::time::timeout(Duration::from_secs(60), changes.changed())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(client.tls_info(), wanted);
    assert!(!client.is_due());
    renewal.abort();
    renew(&client, &server.addr).await.unwrap();
    assert_eq!(client.root_pem(), server.root.certificate_pem());
}
