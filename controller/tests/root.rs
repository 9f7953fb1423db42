//! The root's rotation with managers and agents, and those that are to stay outside: certificates of the old root, old tokens, removed
//! nodes, those that guess.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pontoon_identity::{
    CertificateRequest, Credentials, Endpoint, Error, Identity, JoinRequest, JoinToken, Refusal, RootCa,
    connect, fetch_root_pinned, generate_secret, renew, request_certificate,
};
use pontoon_proto::v1::ca_client::CaClient;
use pontoon_proto::v1::control_client::ControlClient;
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::raft_client::RaftClient;
use pontoon_proto::v1::{
    AgentMessage, Availability, Cluster, GetClusterRequest, IssueCertificateRequest, ListRequest, NodeRole,
    NodeSpec, RaftBatch, RaftJoinRequest, RemoveNodeRequest, RotateRootRequest, TlsInfo, UpdateNodeRequest,
};
use support::{FakeAgent, Host, create, eventually, wait_ready, wait_running};
use tonic::Code;

async fn cluster(host: &Host) -> Cluster {
    let read = host.client().get_cluster(GetClusterRequest {}).await;
    read.unwrap().into_inner()
}

async fn rotate(host: &Host) -> Cluster {
    let begun = host.client().rotate_root(RotateRootRequest::default()).await;
    begun.unwrap().into_inner()
}

/// Waits until the root of `target` is in force and the old one forgotten.
async fn settled(host: &Host, target: &Cluster) {
    let wanted = target.tls_info.clone().unwrap().trust_root;
    eventually("the new root is the only one", || async {
        let root = cluster(host).await.root_ca.unwrap();
        (root.certificate == wanted && root.rotation.is_none() && root.cross_signed.is_empty()).then_some(())
    })
    .await;
}

/// What a node had at this moment, as a thief of its folder would have it.
fn stolen(identity: &Identity, folder: &std::path::Path) -> Credentials {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let credentials = Credentials {
        certificate: read("cert.pem"),
        key: read("key.pem").into(),
        root: read("root.pem"),
    };
    assert_eq!(credentials.verify().unwrap(), identity.peer());
    credentials
}

fn join(addr: &str, token: &str) -> JoinRequest {
    JoinRequest {
        addr: addr.to_owned(),
        token: token.parse().unwrap(),
        availability: Availability::Active,
    }
}

async fn the_old_ones_stay_outside(first: &Host, second: &Host, old: Credentials, target: &TlsInfo) {
    // Who comes late with the old root's certificate is told why, whatever it trusts itself.
    let dir = tempfile::tempdir().unwrap();
    let late = Identity::install(&dir.path().join("late"), &old).unwrap();
    let forged = Credentials {
        root: String::from_utf8(target.trust_root.to_vec()).unwrap(),
        ..old
    };
    let forged = Identity::install(&dir.path().join("forged"), &forged).unwrap();
    for (host, identity) in [(first, &late), (first, &forged), (second, &forged)] {
        let error = connect(identity, &Endpoint::manager(&host.addr))
            .await
            .unwrap_err();
        assert!(
            matches!(
                &error,
                Error::RefusedByPeer {
                    reason: Refusal::ForeignRoot,
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(error.to_string().contains("that was replaced"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_moves_all_nodes_and_drops_no_connection() {
    let first = Host::bootstrap().await;
    let second = Host::join(&first).await;
    let hosts = [&first, &second];
    let agents = [
        FakeAgent::of(&first, "m1"),
        FakeAgent::of(&second, "m2"),
        FakeAgent::join(&first, "a1").await,
        FakeAgent::join(&second, "a2").await,
    ];
    wait_ready(&first, 4).await;
    create(&mut first.client(), "web", 6).await.unwrap();
    wait_running(&first.client(), "web", 6).await;
    let folder = agents[2].dir.path().join("identity");
    let old = stolen(&agents[2].identity, &folder);
    let tokens = first.tokens().await;
    let sessions = || -> Vec<u32> {
        let count = |agent: &FakeAgent| agent.known.lock().unwrap().sessions;
        agents.iter().map(count).collect()
    };
    let before = sessions();

    // Through a follower, whichever that is.
    let begun = rotate(&second).await;
    let target = begun.tls_info.clone().unwrap();
    assert_ne!(begun.root_ca.as_ref().unwrap().certificate, target.trust_root);
    assert!(
        begun.root_ca.unwrap().rotation.unwrap().key.is_empty(),
        "the key stays with the managers"
    );
    settled(&first, &begun_of(&target)).await;

    assert_eq!(sessions(), before, "no session was broken");
    wait_ready(&first, 4).await;
    wait_running(&first.client(), "web", 6).await;
    let nodes = first
        .client()
        .list_nodes(ListRequest::default())
        .await
        .unwrap()
        .into_inner()
        .nodes;
    assert!(
        nodes
            .iter()
            .all(|node| node.description.as_ref().unwrap().tls_info.as_ref() == Some(&target))
    );
    for host in hosts {
        assert_eq!(host.identity.tls_info(), target);
    }
    // On disk as well.
    assert_eq!(Identity::open(&folder).unwrap().tls_info(), target);

    the_old_ones_stay_outside(&first, &second, old, &target).await;

    // The tokens went with the root.
    let now = second.tokens().await;
    assert!(now.worker != tokens.worker && now.manager != tokens.manager);
    let error = request_certificate(&join(&first.addr, &tokens.worker))
        .await
        .unwrap_err();
    assert!(matches!(&error, Error::WrongDigest { .. }), "{error:?}");
    let root = fetch_root_pinned(&second.addr, &now.worker.parse().unwrap())
        .await
        .unwrap();
    assert_eq!(root.trim().as_bytes(), target.trust_root.trim_ascii());
    let late = FakeAgent::join(&second, "a3").await;
    wait_ready(&first, 5).await;
    assert_eq!(
        late.identity.tls_info().issuer_public_key,
        target.issuer_public_key
    );
}

fn begun_of(target: &TlsInfo) -> Cluster {
    Cluster {
        tls_info: Some(target.clone()),
        ..Cluster::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_down_holds_a_rotation_up_and_a_second_one_replaces_it() {
    let host = Host::bootstrap().await;
    let _own = FakeAgent::of(&host, "m1");
    let agent = FakeAgent::join(&host, "a1").await;
    wait_ready(&host, 2).await;
    agent.kill();
    let first = rotate(&host).await;
    let wanted = first.tls_info.clone().unwrap();
    eventually("the manager has a certificate of the new root", || async {
        (host.identity.tls_info().issuer_public_key == wanted.issuer_public_key).then_some(())
    })
    .await;
    // Who joins meanwhile does so with the token that is shown, and needs no renewal.
    let tokens = host.tokens().await;
    let joined = FakeAgent::join(&host, "a2").await;
    assert_eq!(
        joined.identity.tls_info().issuer_public_key,
        wanted.issuer_public_key
    );
    assert!(cluster(&host).await.root_ca.unwrap().rotation.is_some());

    let second = rotate(&host).await;
    assert_ne!(second.tls_info, first.tls_info);
    assert_eq!(
        host.tokens().await,
        tokens,
        "the root in force is still the old one"
    );
    eventually("the manager follows", || async {
        let wanted = second.tls_info.as_ref().unwrap();
        (host.identity.tls_info().issuer_public_key == wanted.issuer_public_key).then_some(())
    })
    .await;
    assert!(cluster(&host).await.root_ca.unwrap().rotation.is_some());
    // Its certificate is of the first root, and good enough to come back with.
    let agent = agent.revive("a1");
    settled(&host, &second).await;
    assert_eq!(Some(agent.identity.tls_info()), second.tls_info);

    // A node that never comes back is removed, and with that the rotation ends.
    agent.kill();
    let third = rotate(&host).await;
    let gone = RemoveNodeRequest {
        target: agent.node_id(),
        force: true,
    };
    host.client().remove_node(gone).await.unwrap();
    settled(&host, &third).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_of_the_operators_is_taken_and_a_leader_that_dies_holds_nothing_up() {
    let mut hosts = vec![Host::bootstrap().await];
    for _ in 0..2 {
        let next = Host::join(&hosts[0]).await;
        hosts.push(next);
    }
    for host in &hosts {
        host.wait_voters(3).await;
    }
    let mut agents = vec![FakeAgent::join(&hosts[1], "a1").await];
    for (number, host) in hosts.iter().enumerate() {
        agents.push(FakeAgent::of(host, &format!("m{number}")));
    }
    wait_ready(&hosts[1], 4).await;
    let own = RootCa::generate("operator").unwrap();
    let request = RotateRootRequest {
        certificate: own.certificate_pem().to_owned().into(),
        key: own.key_pem().to_owned().into(),
        node_cert_expiry: Some(2 * 3_600_000_000_000),
        ..RotateRootRequest::default()
    };
    let begun = hosts[1].client().rotate_root(request).await.unwrap().into_inner();
    let leader = eventually("somebody leads", || async {
        hosts.iter().position(Host::is_leader)
    })
    .await;
    // Its agent dies with it: two must not write to one identity's folder.
    drop(agents.remove(leader + 1));
    let leader = hosts.remove(leader);
    let addr = leader.addr.clone();
    let dir = leader.stop().await;
    let back = Host::reopen(dir, &addr).await;
    agents.push(FakeAgent::of(&back, "back"));
    settled(&hosts[0], &begun).await;
    hosts.push(back);
    let node = hosts[0]
        .client()
        .list_nodes(ListRequest::default())
        .await
        .unwrap()
        .into_inner()
        .nodes;
    assert_eq!(node.len(), 4);
    let (from, to) = agents[0].identity.validity();
    assert_eq!(
        to.duration_since(from).unwrap().as_secs(),
        3 * 3600,
        "two hours and the back-dated one"
    );
}

/// Every way in that a certificate might open.
async fn knock(identity: &Arc<Identity>, addr: &str) -> Vec<Code> {
    let channel = connect(identity, &Endpoint::manager(addr)).await.unwrap();
    let mut session = DispatcherClient::new(channel.clone());
    let session = session
        .session(tokio_stream::iter([AgentMessage::default()]))
        .await;
    let listed = ControlClient::new(channel.clone())
        .list_nodes(ListRequest::default())
        .await;
    let mut raft = RaftClient::new(channel.clone());
    let joined = raft.join(RaftJoinRequest {
        node_id: identity.node_id(),
        addr: "127.0.0.1:1".to_owned(),
    });
    let joined = joined.await;
    let csr = CertificateRequest::generate().unwrap().csr_pem;
    let mut ca = CaClient::new(channel);
    let issued = ca.issue_certificate(IssueCertificateRequest {
        csr: csr.into(),
        ..IssueCertificateRequest::default()
    });
    vec![
        session.map(|_| ()).unwrap_err().code(),
        listed.map(|_| ()).unwrap_err().code(),
        joined.map(|_| ()).unwrap_err().code(),
        issued.await.map(|_| ()).unwrap_err().code(),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_stays_out_over_restarts_and_changes_of_the_leader() {
    let first = Host::bootstrap().await;
    let second = Host::join(&first).await;
    let third = Host::join(&first).await;
    let agent = FakeAgent::join(&first, "a1").await;
    wait_ready(&first, 1).await;
    let role = |role: NodeRole| UpdateNodeRequest {
        target: third.identity.node_id(),
        version: 0,
        spec: Some(NodeSpec {
            role: role.into(),
            ..NodeSpec::default()
        }),
    };
    // A manager that was demoted and removed has a manager's certificate still.
    first.client().update_node(role(NodeRole::Worker)).await.unwrap();
    first.wait_voters(2).await;
    let ids = [third.identity.node_id(), agent.node_id()];
    for id in &ids {
        let gone = RemoveNodeRequest {
            target: id.clone(),
            force: true,
        };
        eventually("the node is removed", || async {
            first.client().remove_node(gone.clone()).await.ok()
        })
        .await;
    }
    agent.kill();
    let was_manager = third.identity.clone();
    let _dir = third.stop().await;
    let mut hosts = vec![first, second];
    for _ in 0..3 {
        let at = eventually("somebody leads", || async {
            hosts.iter().position(Host::is_leader)
        })
        .await;
        for identity in [&was_manager, &agent.identity] {
            for code in knock(identity, &hosts[at].addr).await {
                assert!(
                    matches!(code, Code::NotFound | Code::PermissionDenied),
                    "{code:?}"
                );
            }
            // No manager takes it for a member of the log, under whatever number.
            for host in &hosts {
                let channel = connect(identity, &Endpoint::manager(&host.addr)).await.unwrap();
                let batch = RaftBatch {
                    from: 4711,
                    cluster_id: "cluster1".to_owned(),
                    ..RaftBatch::default()
                };
                let refused = RaftClient::new(channel)
                    .messages(tokio_stream::iter([batch]))
                    .await
                    .unwrap_err();
                assert!(
                    matches!(refused.code(), Code::NotFound | Code::PermissionDenied),
                    "{refused:?}"
                );
            }
            // A follower passes the request for a certificate on.
            let error = renew(identity, &hosts[1 - at].addr).await.unwrap_err();
            assert!(error.to_string().contains("it was removed"), "{error}");
        }
        // The leader stops and comes back: the other leads, and what it knows it has from the log.
        let leader = hosts.remove(at);
        let addr = leader.addr.clone();
        let dir = leader.stop().await;
        hosts.push(Host::reopen(dir, &addr).await);
    }
}

#[tokio::test]
async fn who_guesses_tokens_has_to_wait() {
    let host = Host::bootstrap().await;
    let tokens = host.tokens().await;
    let worker: JoinToken = tokens.worker.parse().unwrap();
    let guess = || JoinToken::new(worker.root_digest, generate_secret()).to_string();
    let mut codes = Vec::new();
    for _ in 0..21 {
        match request_certificate(&join(&host.addr, &guess()))
            .await
            .unwrap_err()
        {
            Error::Answer { code, message, .. } => codes.push((code, message)),
            other => panic!("{other:?}"),
        }
    }
    let (last, tries) = codes.split_last().unwrap();
    assert!(
        tries.iter().all(|(code, _)| *code == Code::PermissionDenied),
        "{codes:?}"
    );
    assert_eq!(last.0, Code::ResourceExhausted);
    assert!(last.1.contains("too many failed attempts to join"), "{last:?}");
    let nodes = host
        .client()
        .list_nodes(ListRequest::default())
        .await
        .unwrap()
        .into_inner()
        .nodes;
    assert_eq!(nodes.len(), 1, "no guess left a node behind");
}

/// What a node would have whose certificate was issued `ago` for an hour.
fn expired(host: &Host, peer: pontoon_identity::PeerIdentity, ago: Duration) -> Credentials {
    let snapshot = host.manager.snapshot();
    let root = snapshot.cluster().unwrap().root_ca.clone().unwrap();
    let root = RootCa::from_pem(&root.certificate, &root.key).unwrap();
    let request = CertificateRequest::generate().unwrap();
    let hour = Duration::from_secs(3600);
    let certificate = root
        .issue(request.csr_pem.as_bytes(), &peer, hour, SystemTime::now() - ago)
        .unwrap();
    Credentials {
        certificate,
        key: request.key_pem,
        root: root.certificate_pem().to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_whose_certificate_has_expired_helps_itself_and_a_worker_is_told() {
    let host = Host::bootstrap().await;
    let agent = FakeAgent::join(&host, "a1").await;
    wait_ready(&host, 1).await;
    let days = Duration::from_secs(3 * 24 * 3600);
    let (manager, worker) = (host.identity.peer(), agent.identity.peer());
    let (of_manager, of_worker) = (expired(&host, manager, days), expired(&host, worker, days));
    agent.kill();
    let addr = host.addr.clone();
    let dir = host.stop().await;
    Identity::install(&dir.path().join("identity"), &of_manager).unwrap();
    let host = Host::reopen(dir, &addr).await;
    assert!(host.identity.problem().unwrap().contains("has expired"));
    let error = connect(&agent.identity, &Endpoint::manager(&addr))
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            Error::PeerRefused {
                reason: Refusal::Expired,
                ..
            }
        ),
        "{error:?}"
    );
    host.manager.reissue(Duration::from_secs(60)).await.unwrap();
    assert_eq!(host.identity.problem(), None);
    connect(&agent.identity, &Endpoint::manager(&addr)).await.unwrap();

    agent.identity.replace(&of_worker).unwrap();
    let error = renew(&agent.identity, &addr).await.unwrap_err();
    assert!(
        matches!(
            &error,
            Error::RefusedByPeer {
                reason: Refusal::Expired,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(agent.identity.problem().unwrap().contains("has expired"));
    // It comes back as a new node.
    let again = FakeAgent::join(&host, "a1").await;
    assert_ne!(again.node_id(), agent.node_id());
    wait_ready(&host, 1).await;
}
