//! A cluster that has lost its majority begins anew by force, and one that was lost altogether by a backup.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};

use pontoon_controller::{BackupKey, Manager, StopReason, read_backup};
use pontoon_identity::{DEFAULT_EXPIRY, Endpoint, Identity, PeerIdentity, RootCa, connect};
use pontoon_proto::v1::control_client::ControlClient;
use pontoon_proto::v1::raft_client::RaftClient;
use pontoon_proto::v1::{
    Annotations, CreateClusterNetworkRequest, GetRequest, ListRequest, NetworkSpec, NodeRole, RaftJoinRequest,
};
use support::{FakeAgent, Host, create, eventually, wait_running};

async fn three() -> Vec<Host> {
    let first = Host::bootstrap().await;
    let hosts = vec![Host::join(&first).await, Host::join(&first).await];
    let hosts: Vec<Host> = std::iter::once(first).chain(hosts).collect();
    for host in &hosts {
        host.wait_voters(3).await;
    }
    hosts
}

async fn network(host: &Host, name: &str) {
    let spec = NetworkSpec {
        annotations: Some(Annotations {
            name: name.to_owned(),
            ..Annotations::default()
        }),
        driver: "overlay".to_owned(),
        ..NetworkSpec::default()
    };
    let request = CreateClusterNetworkRequest { spec: Some(spec) };
    host.client().create_network(request).await.unwrap();
}

async fn node_ids(host: &Host) -> Vec<String> {
    let nodes = host.client().list_nodes(ListRequest::default()).await.unwrap();
    let mut ids: Vec<String> = nodes.into_inner().nodes.into_iter().map(|node| node.id).collect();
    ids.sort();
    ids
}

fn key() -> BackupKey {
    BackupKey::File(vec![3; 32].into())
}

/// A file in memory that outlives its writer.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_begins_anew_and_the_lost_ones_stay_out() {
    let mut hosts = three().await;
    let agent = FakeAgent::join(&hosts[0], "a1").await;
    create(&mut hosts[1].client(), "kept", 2).await.unwrap();
    wait_running(&hosts[0].client(), "kept", 2).await;
    network(&hosts[2], "wires").await;
    let tokens = hosts[0].tokens().await;
    let (worker, survivor) = (agent.identity.node_id(), hosts[1].identity.node_id());
    agent.kill();
    let (mut dirs, mut addrs) = (Vec::new(), Vec::new());
    // The last one is the survivor: the others are gone when its log is read.
    for position in [2, 0, 0] {
        let host = hosts.remove(position);
        addrs.push(host.addr.clone());
        dirs.push(host.stop().await);
    }
    let (dir, addr) = (dirs.pop().unwrap(), addrs.pop().unwrap());
    let host = Host::force_new(dir, &addr).await;
    host.wait_voters(1).await;
    let mut expected = vec![worker.clone(), survivor.clone()];
    expected.sort();
    eventually("it serves", || async {
        host.client().list_nodes(ListRequest::default()).await.ok()
    })
    .await;
    assert_eq!(node_ids(&host).await, expected);
    assert_eq!(host.tokens().await, tokens);
    let get = |target: &str| GetRequest {
        target: target.to_owned(),
    };
    host.client().get_service(get("kept")).await.unwrap();
    host.client().get_network(get("wires")).await.unwrap();
    create(&mut host.client(), "new", 0).await.unwrap();

    // The lost ones come back: they are two of the old three, and have no part any more.
    for (dir, addr) in dirs.into_iter().zip(&addrs) {
        let lost = Host::reopen(dir, addr).await;
        eventually("it learns that it was taken out", || async {
            (*lost.manager.stopped().borrow() == Some(StopReason::Removed)).then_some(())
        })
        .await;
        // Its certificate is good, but its node is unknown.
        let channel = connect(&lost.identity, &Endpoint::manager(&host.addr))
            .await
            .unwrap();
        let refused = ControlClient::new(channel)
            .list_nodes(ListRequest::default())
            .await;
        assert!(refused.is_err());
        lost.stop().await;
    }
    // And the cluster grows again.
    let second = Host::join(&host).await;
    second.client().get_service(get("kept")).await.unwrap();
    host.wait_voters(2).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_log_that_was_not_finished_is_finished_or_dropped() {
    let host = Host::bootstrap().await;
    create(&mut host.client(), "kept", 0).await.unwrap();
    let addr = host.addr.clone();
    let dir = host.stop().await;
    let data = dir.path().join("data");
    // Cut off before the new log was whole.
    std::fs::create_dir(data.join("raft.new")).unwrap();
    std::fs::write(data.join("raft.new/rubbish"), "x").unwrap();
    let host = Host::reopen(dir, &addr).await;
    assert!(!data.join("raft.new").exists());
    let kept = || async {
        let request = GetRequest {
            target: "kept".to_owned(),
        };
        host.client().get_service(request).await.ok()
    };
    eventually("the service is there", kept).await;
    let dir = host.stop().await;
    // Cut off after it was whole: made here from the old one, which has its id.
    std::fs::rename(data.join("raft"), data.join("raft.new")).unwrap();
    std::fs::create_dir(data.join("raft")).unwrap();
    std::fs::rename(data.join("raft.id"), data.join("raft.new.id")).unwrap();
    std::fs::write(data.join("raft.id"), "7\n").unwrap();
    let host = Host::reopen(dir, &addr).await;
    let kept = || async {
        let request = GetRequest {
            target: "kept".to_owned(),
        };
        host.client().get_service(request).await.ok()
    };
    eventually("the service is there again", kept).await;
    assert!(!data.join("raft.new").exists() && !data.join("raft.new.id").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_makes_the_cluster_on_another_host() {
    let hosts = three().await;
    let agent = FakeAgent::join(&hosts[0], "a1").await;
    create(&mut hosts[0].client(), "kept", 1).await.unwrap();
    wait_running(&hosts[0].client(), "kept", 1).await;
    let tokens = hosts[0].tokens().await;
    // While writes go on, on whichever manager: each acknowledged before is in it.
    let writer = {
        let mut client = hosts[1].client();
        tokio::spawn(async move {
            for number in 0..40 {
                create(&mut client, &format!("during{number}"), 0).await.unwrap();
            }
        })
    };
    let file = Shared::default();
    for host in &hosts {
        file.0.lock().unwrap().clear();
        let info = host.manager.backup(key(), file.clone()).await.unwrap();
        assert_eq!((info.cluster_id.as_str(), info.raft_ids.len()), ("cluster1", 3));
    }
    writer.await.unwrap();
    create(&mut hosts[2].client(), "later", 0).await.unwrap();
    let bytes = file.0.lock().unwrap().clone();
    let wrong = BackupKey::File(vec![4; 32].into());
    assert!(read_backup(bytes.as_slice(), &wrong).is_err());
    let backup = read_backup(bytes.as_slice(), &key()).unwrap();

    // The old cluster is lost; its worker finds the new manager, which has the address of an old one.
    agent.kill();
    let addr = hosts[0].addr.clone();
    let lost = hosts[0].identity.clone();
    for host in hosts {
        host.stop().await;
    }
    let root = backup.snapshot.cluster().unwrap().root_ca.clone().unwrap();
    let root = RootCa::from_pem(&root.certificate, &root.key).unwrap();
    let me = PeerIdentity {
        node_id: "restored".to_owned(),
        role: NodeRole::Manager,
        cluster_id: "cluster1".to_owned(),
    };
    let credentials = root.issue_credentials(&me, DEFAULT_EXPIRY).unwrap();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let identity = Identity::install(&dir.path().join("identity"), &credentials).unwrap();
    let host = Host::restore(identity, dir, &addr, backup).await;
    host.wait_voters(1).await;
    let mut expected = vec!["restored".to_owned(), agent.identity.node_id()];
    expected.sort();
    eventually("it serves", || async {
        host.client().list_nodes(ListRequest::default()).await.ok()
    })
    .await;
    assert_eq!(node_ids(&host).await, expected);
    assert_eq!(host.tokens().await, tokens);
    let get = |target: &str| GetRequest {
        target: target.to_owned(),
    };
    host.client().get_service(get("kept")).await.unwrap();
    // What was written after the backup is gone.
    assert!(host.client().get_service(get("later")).await.is_err());
    // A manager of that time is nobody here.
    let channel = connect(&lost, &Endpoint::manager(&host.addr)).await.unwrap();
    assert!(
        ControlClient::new(channel)
            .list_nodes(ListRequest::default())
            .await
            .is_err()
    );
    let second = Host::join(&host).await;
    second.client().get_service(get("kept")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_whose_leader_is_gone_votes_under_the_next() {
    let mut hosts = three().await;
    // A manager that was taken in and never came up.
    let joiner = Host::identity_of_joiner(&hosts[0]).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let tls = pontoon_identity::TlsListener::new(listener, joiner.0.clone(), Default::default());
    let mute = tokio::spawn(pontoon_identity::serve(
        tls,
        tonic::service::Routes::default(),
        std::future::pending(),
    ));
    let position = eventually("somebody leads", || async {
        hosts.iter().position(Host::is_leader)
    })
    .await;
    let leader = hosts.remove(position);
    let channel = connect(&joiner.0, &Endpoint::manager(&leader.addr))
        .await
        .unwrap();
    let request = RaftJoinRequest {
        node_id: joiner.0.node_id(),
        addr,
    };
    RaftClient::new(channel).join(request).await.unwrap();
    assert_eq!(leader.manager.members().len(), 4);
    leader.stop().await;
    mute.abort();
    // It comes up under another leader, which makes it a voter.
    let remotes: Vec<String> = hosts.iter().map(|host| host.addr.clone()).collect();
    let late = Host::join_with(joiner.0, joiner.1, &remotes).await;
    let voters = late.manager.members();
    assert!(
        voters
            .iter()
            .any(|member| member.node_id == late.identity.node_id())
    );
    create(&mut late.client(), "by-it", 0).await.unwrap();
    assert!(Manager::exists(&late.dir.path().join("data")));
}
