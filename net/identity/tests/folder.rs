//! The identity's folder: modes, crash in the middle of a replacement, wrong content; and what the root refuses to sign.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use pontoon_identity::{Error, Identity, PeerIdentity, RootCa, renewal_time};
use pontoon_proto::v1::NodeRole;
use support::{CLUSTER, credentials, identity, peer};

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn keys_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let root = RootCa::generate(CLUSTER).unwrap();
    assert!(!Identity::exists(&dir.path().join("node7")));
    identity(dir.path(), &root, "node7", NodeRole::Worker);
    let folder = dir.path().join("node7");
    assert!(Identity::exists(&folder));
    assert_eq!(mode(&folder), 0o700);
    for name in ["key.pem", "cert.pem", "root.pem"] {
        assert_eq!(mode(&folder.join(name)), 0o600, "{name}");
    }
    Identity::remove(&folder).unwrap();
    assert!(!Identity::exists(&folder));
    Identity::remove(&folder).unwrap();
}

#[test]
fn a_crash_between_certificate_and_key_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let root = RootCa::generate(CLUSTER).unwrap();
    let folder = dir.path().join("node7");
    identity(dir.path(), &root, "node7", NodeRole::Worker);
    let hour = Duration::from_secs(3600);
    let next = credentials(&root, &peer("node7", NodeRole::Manager), SystemTime::now(), hour);

    // Only the new key was written: the old identity holds.
    std::fs::write(folder.join("key.pem.new"), next.key.as_bytes()).unwrap();
    assert_eq!(Identity::open(&folder).unwrap().role(), NodeRole::Worker);
    assert!(!folder.join("key.pem.new").exists());

    // The certificate was written as well: the new one holds.
    std::fs::write(folder.join("key.pem.new"), next.key.as_bytes()).unwrap();
    std::fs::write(folder.join("cert.pem"), &next.certificate).unwrap();
    assert_eq!(Identity::open(&folder).unwrap().role(), NodeRole::Manager);
    assert_eq!(Identity::open(&folder).unwrap().role(), NodeRole::Manager);
}

#[test]
fn another_nodes_credentials_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = RootCa::generate(CLUSTER).unwrap();
    let mine = identity(dir.path(), &root, "node7", NodeRole::Worker);
    let hour = Duration::from_secs(3600);
    let other = credentials(&root, &peer("node8", NodeRole::Worker), SystemTime::now(), hour);
    assert!(matches!(mine.replace(&other), Err(Error::Invalid { .. })));
    let mut foreign = peer("node7", NodeRole::Worker);
    foreign.cluster_id = "cluster2".into();
    let foreign = credentials(&root, &foreign, SystemTime::now(), hour);
    let error = mine.replace(&foreign).unwrap_err();
    assert!(
        error.to_string().contains("belongs to cluster cluster2"),
        "{error}"
    );
    let mut mixed = credentials(&root, &peer("node7", NodeRole::Worker), SystemTime::now(), hour);
    mixed.key = other.key.clone();
    mine.replace(&mixed).unwrap_err();
    assert_eq!(
        Identity::open(&dir.path().join("node7")).unwrap().peer(),
        mine.peer()
    );
}

#[test]
fn damaged_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let root = RootCa::generate(CLUSTER).unwrap();
    let folder = dir.path().join("node7");
    for name in ["cert.pem", "key.pem", "root.pem"] {
        identity(dir.path(), &root, "node7", NodeRole::Worker);
        std::fs::write(folder.join(name), "-----BEGIN NOTHING").unwrap();
        Identity::open(&folder).unwrap_err();
        std::fs::remove_file(folder.join(name)).unwrap();
        let error = Identity::open(&folder).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error:?}");
    }
}

#[test]
fn the_root_signs_only_sound_requests_and_sets_the_subject() {
    let root = RootCa::generate(CLUSTER).unwrap();
    let subject = peer("node7", NodeRole::Worker);
    let hour = Duration::from_secs(3600);
    let sign = |csr: &[u8]| root.issue(csr, &subject, hour, SystemTime::now());
    sign(b"nonsense").unwrap_err();
    sign(&vec![b'x'; 20_000]).unwrap_err();
    sign(&[0xff; 10]).unwrap_err();

    // A request that asks to be a manager gets what the caller said.
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["swarm-manager".to_owned()]).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationalUnitName, "swarm-manager");
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let certificate = sign(csr.as_bytes()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let made = pontoon_identity::Credentials {
        certificate,
        key: key.serialize_pem().into(),
        root: root.certificate_pem().to_owned(),
    };
    let identity = Identity::install(dir.path(), &made).unwrap();
    assert_eq!(identity.peer(), subject);
    assert_eq!(made.verify().unwrap(), subject);

    // A damaged signature and a key of another kind are refused.
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let csr = params.serialize_request(&other).unwrap().pem().unwrap();
    let error = sign(csr.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("P-256"), "{error}");
}

#[test]
fn the_first_manager_issues_to_itself() {
    let root = RootCa::generate(CLUSTER).unwrap();
    let again = RootCa::from_pem(root.certificate_pem().as_bytes(), root.key_pem().as_bytes()).unwrap();
    assert_eq!(root.digest(), again.digest());
    let me: PeerIdentity = peer("node1", NodeRole::Manager);
    let credentials = again
        .issue_credentials(&me, pontoon_identity::DEFAULT_EXPIRY)
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::install(dir.path(), &credentials).unwrap();
    assert_eq!(identity.root_digest(), root.digest());
    let (from, to) = identity.validity();
    let days = to.duration_since(from).unwrap().as_secs() / 86_400;
    assert_eq!(days, 90);
    assert!(!format!("{identity:?} {credentials:?} {root:?}").contains("PRIVATE"));
}

#[test]
fn renewal_falls_between_half_and_four_fifths_of_life() {
    // Made an hour after `made`'s beginning: the back-dated hour does not count.
    let from = SystemTime::UNIX_EPOCH;
    let made = from + Duration::from_secs(3600);
    let to = made + Duration::from_secs(1000);
    assert_eq!(renewal_time(from, to, 0.0), made + Duration::from_secs(500));
    assert_eq!(renewal_time(from, to, 1.0), made + Duration::from_secs(800));
    assert_eq!(renewal_time(from, to, 7.0), made + Duration::from_secs(800));
    assert_eq!(renewal_time(to, from, 0.5), from);
}

/// What this version writes, for the versions to come: a fixture stays as it is, a new form gets another.
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v1");

#[test]
#[ignore = "writes a fixture; run by hand when the form has changed"]
fn write_the_fixture() {
    let old = RootCa::generate(CLUSTER).unwrap();
    let new = RootCa::generate(CLUSTER).unwrap();
    let chained = RootCa::from_pem(new.certificate_pem().as_bytes(), new.key_pem().as_bytes())
        .unwrap()
        .with_chain(old.cross_sign(&new).unwrap().as_bytes());
    let years = Duration::from_secs(20 * 365 * 24 * 3600);
    let mut credentials = credentials(
        &chained,
        &peer("node7", NodeRole::Worker),
        SystemTime::now(),
        years,
    );
    // In the middle of a rotation: issued by the next root, trusting the one in force.
    credentials.root = old.certificate_pem().to_owned();
    Identity::install(std::path::Path::new(FIXTURE), &credentials).unwrap();
}

#[test]
fn a_folder_of_an_earlier_version_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["cert.pem", "key.pem", "root.pem"] {
        std::fs::copy(format!("{FIXTURE}/{name}"), dir.path().join(name)).unwrap();
    }
    let identity = Identity::open(dir.path()).unwrap();
    assert_eq!(identity.peer(), peer("node7", NodeRole::Worker));
    assert_eq!(identity.problem(), None);
    let info = identity.tls_info();
    assert!(!info.issuer_public_key.is_empty() && info.trust_root == identity.root_pem());
}
