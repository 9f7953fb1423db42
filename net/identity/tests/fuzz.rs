//! Fuzz targets for what strangers and operators hand in as text: join tokens, requests for certificates, roots, node certificates.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, SystemTime};

use pontoon_fuzz::fuzz;
use pontoon_identity::{CertificateRequest, Credentials, Identity, JoinToken, RootCa, describe};
use pontoon_proto::v1::NodeRole;
use support::{CLUSTER, credentials, peer};

#[test]
fn join_tokens() {
    let token = JoinToken::new([7; 32], [9; 16]).to_string();
    let other = JoinToken::new([255; 32], [0; 16]).to_string();
    fuzz("join token", &[token.as_bytes(), other.as_bytes()], |input| {
        let text = String::from_utf8_lossy(input);
        match text.parse::<JoinToken>() {
            // What is read is written again as it was.
            Ok(token) => assert_eq!(token.to_string(), text.trim()),
            Err(refused) => assert!(!refused.to_string().is_empty()),
        }
    });
}

/// DER of a PEM text, so that mutations reach what is inside the base64.
fn inside(pem: &str) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::from_pem_slice(
        pem.replace("CERTIFICATE REQUEST", "CERTIFICATE").as_bytes(),
    )
    .unwrap()
    .to_vec()
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

#[test]
fn certificate_requests() {
    let root = RootCa::generate(CLUSTER).unwrap();
    let request = CertificateRequest::generate().unwrap().csr_pem;
    let subject = peer("node7", NodeRole::Worker);
    let issue = |request: &[u8]| root.issue(request, &subject, Duration::from_secs(3600), SystemTime::now());
    fuzz("certificate request (PEM)", &[request.as_bytes()], |input| {
        if let Err(refused) = issue(input) {
            assert!(
                describe(&refused).contains("certificate signing request"),
                "{refused}"
            );
        }
    });
    let der = inside(&request);
    fuzz("certificate request (DER)", &[&der], |input| {
        let _ = issue(pem("CERTIFICATE REQUEST", input).as_bytes());
    });
}

#[test]
fn roots_of_operators() {
    let root = RootCa::generate(CLUSTER).unwrap();
    let certificate = root.certificate_pem();
    let now = SystemTime::now();
    fuzz("root (PEM)", &[certificate.as_bytes()], |input| {
        let _ = RootCa::from_operator(input, root.key_pem().as_bytes(), now);
    });
    let der = inside(certificate);
    let old = RootCa::generate(CLUSTER).unwrap();
    fuzz("root (DER)", &[&der], |input| {
        // One that is taken can be used: nothing that follows fails in another way than by an error.
        if let Ok(taken) = RootCa::from_operator(
            pem("CERTIFICATE", input).as_bytes(),
            root.key_pem().as_bytes(),
            now,
        ) {
            let _ = old.cross_sign(&taken);
        }
    });
    fuzz("root's key", &[root.key_pem().as_bytes()], |input| {
        let _ = RootCa::from_operator(certificate.as_bytes(), input, now);
    });
}

#[test]
fn node_certificates() {
    let root = RootCa::generate(CLUSTER).unwrap();
    let hour = Duration::from_secs(3600);
    let good = credentials(&root, &peer("node7", NodeRole::Worker), SystemTime::now(), hour);
    let folder = tempfile::tempdir().unwrap();
    let der = inside(&good.certificate);
    fuzz("node certificate", &[&der], |input| {
        let changed = Credentials {
            certificate: format!("{}{}", pem("CERTIFICATE", input), root.certificate_pem()),
            ..good.clone()
        };
        let accepted = changed.verify().is_ok();
        // A signature covers every bit.
        assert!(!accepted || input == der, "a changed certificate was accepted");
    });
    let identity = Identity::install(folder.path(), &good).unwrap();
    let foreign = inside(root.certificate_pem());
    fuzz("root of a session", &[&foreign], |input| {
        // What makes this node's own certificate void is not taken.
        let text = pem("CERTIFICATE", input);
        if identity.trust(&text).is_ok() {
            identity.trust(root.certificate_pem()).unwrap();
        }
    });
    assert_eq!(
        Identity::open(folder.path()).unwrap().root_pem(),
        root.certificate_pem()
    );
}
