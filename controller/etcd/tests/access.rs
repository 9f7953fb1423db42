//! Who may use etcd and read what lies there: users, TLS, sealed state; and a log that begins with a state, or ends with its cluster.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use etcd_client::GetOptions;
use pontoon_etcd::{EtcdConfig, EtcdLog};
use pontoon_raft::{StateMachine, StopReason};
use support::servers::Servers;
use support::{Entries, first, leads, member, until, write};

/// Everything below the tests' prefix, as one text.
async fn all_of(servers: &Servers) -> Vec<(String, Vec<u8>)> {
    let mut client = servers.client().await;
    let all = client
        .get("/pontoon/", Some(GetOptions::new().with_prefix()))
        .await;
    let keys = all.unwrap().take_kvs().into_iter();
    keys.map(|kv| (kv.key_str().unwrap().to_owned(), kv.value().to_vec()))
        .collect()
}

fn holds(all: &[(String, Vec<u8>)], text: &str) -> bool {
    let text = text.as_bytes();
    all.iter()
        .any(|(_, value)| value.windows(text.len()).any(|part| part == text))
}

#[tokio::test]
async fn what_is_sealed_is_read_by_managers_with_the_key_only() {
    let servers = Servers::start(1).await;
    let dir = tempfile::TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for name in ["old", "new"] {
        std::fs::write(path(name), format!("{}\n", name.repeat(16))).unwrap();
    }
    let with = |names: &[&str]| EtcdConfig {
        seal_key_files: names.iter().map(|name| path(name)).collect(),
        snapshot_every: 10,
        ..servers.config()
    };
    let clear = first(EtcdConfig {
        snapshot_every: 10,
        ..servers.config()
    })
    .await
    .0;
    write(&clear, "in clear").await;
    assert!(holds(&all_of(&servers).await, "in clear"));
    clear.shutdown().await;
    // From now on everything is sealed; what was there before is read all the same.
    let entries = Entries::default();
    let one = EtcdLog::open(with(&["old"]), "c", member(1), entries.clone())
        .await
        .unwrap();
    leads(&one).await;
    write(&one, "my secret").await;
    assert_eq!(entries.data(), ["in clear", "my secret"]);
    assert!(!holds(&all_of(&servers).await, "my secret"));
    for names in [&[][..], &["new"]] {
        let refused = EtcdLog::join(with(names), "c", member(2), Entries::default()).await;
        let text = refused.err().unwrap().to_string();
        assert!(text.contains("seal-key-file"), "{text}");
    }
    assert_eq!(one.members().len(), 1, "who can't read it is no member");
    one.shutdown().await;
    // Another key, and a checkpoint under it: the old one is of no use any more.
    let one = EtcdLog::open(with(&["new", "old"]), "c", member(1), Entries::default())
        .await
        .unwrap();
    leads(&one).await;
    for n in 0..30 {
        write(&one, &format!("more {n}")).await;
    }
    let mut client = servers.client().await;
    let mut trimmed = false;
    while !trimmed {
        let oldest = client
            .get("/pontoon/c/log/00000000000000000002", None)
            .await
            .unwrap();
        trimmed = oldest.kvs().is_empty();
    }
    let all = all_of(&servers).await;
    let state = all.iter().find(|(key, _)| key == "/pontoon/c/state").unwrap();
    assert!(state.1.ends_with(b" sealed"));
    one.shutdown().await;
    let entries = Entries::default();
    let two = EtcdLog::join(with(&["new"]), "c", member(2), entries.clone())
        .await
        .unwrap();
    two.read_barrier().await.unwrap();
    assert_eq!(entries.restored(), 1);
    assert_eq!(
        (entries.data().len(), entries.data()[1].clone()),
        (32, "my secret".to_owned())
    );
}

#[tokio::test]
async fn a_log_may_begin_with_a_state() {
    let servers = Servers::start(1).await;
    let (one, entries) = first(servers.config()).await;
    write(&one, "a").await;
    write(&one, "b").await;
    let seed = |cluster: &'static str, state| {
        let config = servers.config();
        async move { EtcdLog::seed(&config, cluster, &member(7), state).await }
    };
    let there = seed("c", entries.snapshot()).await.unwrap_err().to_string();
    assert!(there.contains("etcd already holds a cluster c"), "{there}");
    seed("d", entries.snapshot()).await.unwrap();
    let restored = Entries::default();
    let seven = EtcdLog::open(servers.config(), "d", member(7), restored.clone())
        .await
        .unwrap();
    leads(&seven).await;
    write(&seven, "c").await;
    assert_eq!(restored.data(), ["a", "b", "c"]);
    assert_eq!(entries.data(), ["a", "b"]);
    let again = seed("d", entries.snapshot()).await.unwrap_err().to_string();
    assert!(again.contains("already holds"), "{again}");
}

#[tokio::test]
async fn the_last_manager_takes_its_cluster_with_it() {
    let servers = Servers::start(1).await;
    let (one, _) = first(servers.config()).await;
    let two = EtcdLog::join(servers.config(), "c", member(2), Entries::default())
        .await
        .unwrap();
    until("both are known", || {
        one.members().len() == 2 && two.members().len() == 2
    })
    .await;
    assert!(one.erase().await.is_err(), "another one is there");
    one.remove(2).await.unwrap();
    two.shutdown().await;
    assert!(two.erase().await.is_err(), "it does not lead");
    one.erase().await.unwrap();
    assert!(all_of(&servers).await.is_empty());
    until("it is told", || {
        *one.stopped().borrow() == Some(StopReason::Removed)
    })
    .await;
}

#[tokio::test]
async fn an_entry_of_a_newer_program_stops_an_older_one() {
    let servers = Servers::start(1).await;
    let (one, _) = first(servers.config()).await;
    let entries = Entries::default();
    let old = entries.older("newer");
    let two = EtcdLog::join(servers.config(), "c", member(2), old)
        .await
        .unwrap();
    write(&one, "a").await;
    write(&one, "newer").await;
    write(&one, "b").await;
    until(
        "it says why",
        || matches!(&*two.stopped().borrow(), Some(StopReason::TooOld(reason)) if reason.contains("entry 2")),
    )
    .await;
    assert_eq!(entries.data(), ["a"]);
    until("it shows no life", || {
        one.members().iter().any(|m| m.id == 2 && !m.reachable)
    })
    .await;
}

#[tokio::test]
async fn a_user_logs_in_with_a_password() {
    let servers = Servers::start(1).await;
    let mut client = servers.client().await;
    client.user_add("root", "r", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("pontoon").await.unwrap();
    let permission = etcd_client::Permission::read_write("/pontoon/").with_prefix();
    client.role_grant_permission("pontoon", permission).await.unwrap();
    client.user_add("manager", "secret", None).await.unwrap();
    client.user_grant_role("manager", "pontoon").await.unwrap();
    client.auth_enable().await.unwrap();
    let unknown = EtcdLog::bootstrap(servers.config(), "c", member(1), Entries::default()).await;
    let text = unknown.err().unwrap().to_string();
    assert!(text.contains("user name is empty"), "{text}");
    let file = servers.dir().join("password");
    let login = |password: &str| {
        std::fs::write(&file, format!("{password}\n")).unwrap();
        EtcdConfig {
            user: Some("manager".to_owned()),
            password_file: Some(file.to_str().unwrap().to_owned()),
            compact: false,
            ..servers.config()
        }
    };
    let wrong = EtcdLog::bootstrap(login("guess"), "c", member(1), Entries::default()).await;
    let text = wrong.err().unwrap().to_string();
    assert!(text.contains("authentication failed"), "{text}");
    assert!(!text.contains("guess"), "{text}");
    let (one, entries) = first(login("secret")).await;
    write(&one, "a").await;
    one.read_barrier().await.unwrap();
    assert_eq!(entries.data(), ["a"]);
    let elsewhere = EtcdConfig {
        prefix: "/others".to_owned(),
        ..login("secret")
    };
    let denied = EtcdLog::bootstrap(elsewhere, "c", member(1), Entries::default()).await;
    assert!(denied.err().unwrap().to_string().contains("permission denied"));
}

#[tokio::test]
async fn certificates_are_checked_on_both_sides() {
    let authority = Authority::new();
    let dir = tempfile::TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let put = |name: &str, pem: &str| std::fs::write(path(name), pem).unwrap();
    for name in ["server", "client"] {
        let (certificate, key) = authority.issue();
        put(&format!("{name}.pem"), &certificate);
        put(&format!("{name}.key"), &key);
    }
    put("ca.pem", &authority.pem());
    put("other.pem", &Authority::new().pem());
    let arguments = [
        "--cert-file",
        "server.pem",
        "--key-file",
        "server.key",
        "--trusted-ca-file",
        "ca.pem",
    ];
    let mut arguments: Vec<_> = arguments
        .iter()
        .map(|word| {
            if word.starts_with("--") {
                (*word).to_owned()
            } else {
                path(word)
            }
        })
        .collect();
    arguments.push("--client-cert-auth".to_owned());
    let servers = Servers::start_with(1, "https", &arguments).await;
    let with = |ca: &str, client: bool| EtcdConfig {
        cacert: Some(path(ca)),
        identity: client.then(|| (path("client.pem"), path("client.key"))),
        patience: Duration::from_millis(500),
        ..servers.config()
    };
    for (config, what) in [
        (with("other.pem", true), "another authority"),
        (with("ca.pem", false), "no certificate"),
    ] {
        let refused = EtcdLog::bootstrap(config, "c", member(1), Entries::default()).await;
        assert!(refused.is_err(), "{what}");
    }
    let (one, entries) = first(with("ca.pem", true)).await;
    write(&one, "a").await;
    assert_eq!(entries.data(), ["a"]);
    let lacking = EtcdLog::bootstrap(with("nothing.pem", true), "c", member(1), Entries::default()).await;
    let text = lacking.err().unwrap().to_string();
    assert!(text.contains("can't read etcd's root certificates"), "{text}");
}

/// An authority that issues certificates for 127.0.0.1.
struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Self(rcgen::CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn issue(&self) -> (String, String) {
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}
