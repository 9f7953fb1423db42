//! Who gets through the cluster port and who does not, and that the error says why: on loopback with real TLS.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, SystemTime};

use pontoon_identity::{
    Endpoint, Error, Identity, JoinRequest, JoinToken, Refusal, RootCa, connect, connect_lazy, describe,
    fetch_root_pinned, generate_secret, never_connected, renew, renew_forever, request_certificate,
};
use pontoon_proto::v1::ca_client::CaClient;
use pontoon_proto::v1::{Availability, GetRootRequest, NodeRole};
use support::{CLUSTER, Server, credentials, identity, peer};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

async fn whoami(channel: &tonic::transport::Channel) -> Result<String, tonic::Status> {
    let answer = CaClient::new(channel.clone()).get_root(GetRootRequest {}).await?;
    Ok(String::from_utf8(answer.into_inner().certificate.to_vec()).unwrap())
}

#[tokio::test]
async fn identity_reaches_the_handler() {
    let server = Server::start(NodeRole::Manager).await;
    for (name, role) in [("node7", NodeRole::Worker), ("node8", NodeRole::Manager)] {
        let client = identity(server.dir.path(), &server.root, name, role);
        let channel = connect(&client, &Endpoint::manager(&server.addr)).await.unwrap();
        assert_eq!(
            whoami(&channel).await.unwrap(),
            format!("{name} {role:?} {CLUSTER}")
        );
    }
}

#[tokio::test]
async fn a_server_of_the_wrong_role_is_refused() {
    let server = Server::start(NodeRole::Worker).await;
    let client = identity(server.dir.path(), &server.root, "node7", NodeRole::Worker);
    let error = connect(&client, &Endpoint::manager(&server.addr))
        .await
        .unwrap_err();
    let Error::PeerRefused { reason, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(
        *reason,
        Refusal::WrongRole {
            expected: "swarm-manager"
        }
    );
    assert!(
        error
            .to_string()
            .contains("is not the certificate of a swarm-manager"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_of_another_cluster_is_refused() {
    let server = Server::start(NodeRole::Manager).await;
    let foreign = RootCa::generate(CLUSTER).unwrap_or_else(|e| panic!("{e}"));
    let other = RootCa::generate("cluster2").unwrap();
    for root in [foreign, other] {
        let dir = tempfile::tempdir().unwrap();
        let client = identity(dir.path(), &root, "node7", NodeRole::Worker);
        let error = connect(&client, &Endpoint::manager(&server.addr))
            .await
            .unwrap_err();
        assert!(
            matches!(
                &error,
                Error::PeerRefused {
                    reason: Refusal::ForeignRoot | Refusal::BadSignature,
                    ..
                }
            ),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_client_of_another_cluster_is_told_so() {
    let server = Server::start(NodeRole::Manager).await;
    let other = RootCa::generate("cluster2").unwrap();
    let mut stolen = credentials(
        &other,
        &peer("node7", NodeRole::Manager),
        SystemTime::now(),
        Duration::from_secs(60),
    );
    // The client trusts our root, so that the refusal can only come from the server: TLS 1.3's late alert.
    stolen.root = server.root.certificate_pem().to_owned();
    let client = Identity::install(&server.dir.path().join("stolen"), &stolen).unwrap();
    let error = connect(&client, &Endpoint::manager(&server.addr))
        .await
        .unwrap_err();
    let Error::RefusedByPeer { reason, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(*reason, Refusal::ForeignRoot);
    assert!(
        error
            .to_string()
            .contains("issued by the root of another cluster"),
        "{error}"
    );
}

#[tokio::test]
async fn a_certificate_that_names_another_cluster_is_dropped() {
    let server = Server::start(NodeRole::Manager).await;
    let mut wrong = peer("node7", NodeRole::Worker);
    wrong.cluster_id = "cluster2".to_owned();
    let wrong = credentials(&server.root, &wrong, SystemTime::now(), Duration::from_secs(60));
    let client = Identity::install(&server.dir.path().join("wrong"), &wrong).unwrap();
    let error = connect(&client, &Endpoint::manager(&server.addr))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Handshake { .. }), "{error:?}");
}

#[tokio::test]
async fn an_expired_certificate_is_told_so_on_both_sides() {
    let server = Server::start(NodeRole::Manager).await;
    let long_ago = SystemTime::now() - Duration::from_secs(7200);
    let old = credentials(
        &server.root,
        &peer("node7", NodeRole::Worker),
        long_ago,
        Duration::from_secs(60),
    );
    assert!(old.verify().unwrap_err().to_string().contains("expired"));
    let client = Identity::install(&server.dir.path().join("old"), &old).unwrap();
    let error = connect(&client, &Endpoint::manager(&server.addr))
        .await
        .unwrap_err();
    let Error::RefusedByPeer {
        reason: Refusal::Expired,
        ..
    } = &error
    else {
        panic!("{error:?}")
    };

    let good = identity(server.dir.path(), &server.root, "node8", NodeRole::Worker);
    let mine = credentials(
        &server.root,
        &peer("server", NodeRole::Manager),
        long_ago,
        Duration::from_secs(60),
    );
    server.identity.replace(&mine).unwrap();
    let error = connect(&good, &Endpoint::manager(&server.addr))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::PeerRefused {
                reason: Refusal::Expired,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_token_joins_and_a_wrong_one_is_told_why() {
    let server = Server::start(NodeRole::Manager).await;
    let token = server.token.lock().unwrap().clone();
    let join = |token: JoinToken| JoinRequest {
        addr: server.addr.clone(),
        token,
        availability: Availability::Active,
    };
    assert_eq!(
        fetch_root_pinned(&server.addr, &token).await.unwrap(),
        server.root.certificate_pem()
    );

    let issued = request_certificate(&join(token.clone())).await.unwrap();
    assert_eq!(
        (issued.node_id.as_str(), issued.role),
        ("newnode", NodeRole::Worker)
    );
    let joined = Identity::install(&server.dir.path().join("joined"), &issued.credentials).unwrap();
    let channel = connect(&joined, &Endpoint::manager(&server.addr)).await.unwrap();
    assert_eq!(
        whoami(&channel).await.unwrap(),
        format!("newnode Worker {CLUSTER}")
    );

    let other = RootCa::generate("cluster2")
        .unwrap()
        .join_token(generate_secret());
    let error = request_certificate(&join(other)).await.unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error:?}");
    assert!(error.to_string().contains("of another cluster"), "{error}");

    let wrong_secret = JoinToken::new(token.root_digest, generate_secret());
    let error = request_certificate(&join(wrong_secret)).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Answer {
                code: tonic::Code::PermissionDenied,
                ..
            }
        ),
        "{error:?}"
    );

    // Rotation: the old token is void, the new one works.
    let rotated = server.root.join_token(generate_secret());
    *server.token.lock().unwrap() = rotated.clone();
    let error = request_certificate(&join(token)).await.unwrap_err();
    assert!(
        error.to_string().contains("a valid join token is necessary"),
        "{error}"
    );
    request_certificate(&join(rotated)).await.unwrap();
}

#[tokio::test]
async fn a_node_without_a_certificate_is_nobody() {
    let server = Server::start(NodeRole::Manager).await;
    // A pinned dial shows no certificate; the service sees no peer.
    let token = server.token.lock().unwrap().clone();
    fetch_root_pinned(&server.addr, &token).await.unwrap();
    assert!(server.connections.nodes().is_empty());
}

#[tokio::test]
async fn live_reload_keeps_old_connections() {
    let server = Server::start(NodeRole::Manager).await;
    let client = identity(server.dir.path(), &server.root, "node7", NodeRole::Worker);
    let channel = connect(&client, &Endpoint::manager(&server.addr)).await.unwrap();
    whoami(&channel).await.unwrap();

    // The server moves to another root: the old connection goes on, new ones need the new root.
    let new_root = RootCa::generate("cluster1").unwrap();
    let new = credentials(
        &new_root,
        &peer("server", NodeRole::Manager),
        SystemTime::now(),
        Duration::from_secs(60),
    );
    server.identity.replace(&new).unwrap();
    assert_eq!(server.connections.count("node7"), 1);
    whoami(&channel).await.unwrap();
    assert_eq!(server.connections.count("node7"), 1);
    connect(&client, &Endpoint::manager(&server.addr))
        .await
        .unwrap_err();

    let moved = credentials(
        &new_root,
        &peer("node7", NodeRole::Worker),
        SystemTime::now(),
        Duration::from_secs(60),
    );
    client.replace(&moved).unwrap();
    let channel = connect(&client, &Endpoint::manager(&server.addr)).await.unwrap();
    whoami(&channel).await.unwrap();
}

#[tokio::test]
async fn renewal_takes_a_new_certificate_at_once() {
    let server = Server::start(NodeRole::Manager).await;
    let client = identity(server.dir.path(), &server.root, "node7", NodeRole::Worker);
    let key = server.dir.path().join("node7/key.pem");
    let before = std::fs::read(&key).unwrap();
    let mut changes = client.changes();
    renew(&client, &server.addr).await.unwrap();
    changes.changed().await.unwrap();
    assert_ne!(before, std::fs::read(&key).unwrap());
    let reopened = Identity::open(&server.dir.path().join("node7")).unwrap();
    assert_eq!(reopened.peer(), client.peer());
    connect(&reopened, &Endpoint::manager(&server.addr))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_certificate_near_its_end_renews_itself() {
    let server = Server::start(NodeRole::Manager).await;
    let made = SystemTime::now() - Duration::from_secs(3600);
    let old = credentials(
        &server.root,
        &peer("node7", NodeRole::Worker),
        made,
        Duration::from_secs(3660),
    );
    let client = Identity::install(&server.dir.path().join("node7"), &old).unwrap();
    let mut changes = client.changes();
    let stop = CancellationToken::new();
    let addr = server.addr.clone();
    // A dead manager comes first: the next one is asked.
    let managers = move || vec!["127.0.0.1:1".to_owned(), addr.clone()];
    let task = tokio::spawn(renew_forever(client.clone(), managers, stop.clone()));
    changes.changed().await.unwrap();
    assert!(client.validity().1 > SystemTime::now() + Duration::from_secs(600));
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn cutting_a_node_ends_its_connections_only() {
    let server = Server::start(NodeRole::Manager).await;
    let mut channels = Vec::new();
    for name in ["node7", "node8"] {
        let client = identity(server.dir.path(), &server.root, name, NodeRole::Worker);
        let channel = connect(&client, &Endpoint::manager(&server.addr)).await.unwrap();
        whoami(&channel).await.unwrap();
        channels.push(channel);
    }
    assert_eq!(server.connections.cut("node7"), 1);
    assert_eq!(server.connections.count("node8"), 1);
    assert_eq!(
        whoami(&channels[1]).await.unwrap(),
        format!("node8 Worker {CLUSTER}")
    );
}

#[tokio::test]
async fn a_client_that_says_nothing_is_dropped_and_holds_up_nobody() {
    let server = Server::start(NodeRole::Manager).await;
    let mut silent = tokio::net::TcpStream::connect(&server.addr).await.unwrap();
    let client = identity(server.dir.path(), &server.root, "node7", NodeRole::Worker);
    connect(&client, &Endpoint::manager(&server.addr)).await.unwrap();
    let mut rest = Vec::new();
    // The handshake's time-out closes it.
    silent.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn nobody_there_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let root = RootCa::generate(CLUSTER).unwrap();
    let client = identity(dir.path(), &root, "node7", NodeRole::Worker);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = connect(&client, &Endpoint::manager(&addr)).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    let status = whoami(&connect_lazy(&client, &Endpoint::manager(addr)).unwrap())
        .await
        .unwrap_err();
    assert!(never_connected(&status), "{status:?}");
    assert!(
        describe(&status).contains("can't connect to"),
        "{}",
        describe(&status)
    );
    let error = connect(&client, &Endpoint::manager("no port")).await.unwrap_err();
    assert!(matches!(error, Error::Address(_)), "{error:?}");
}
