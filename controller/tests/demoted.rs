//! A manager that was demoted and keeps its certificate: it has a worker's rights, and no voice in the log.

#![allow(clippy::unwrap_used)]

mod support;

use pontoon_identity::{Endpoint, connect};
use pontoon_proto::v1::ca_client::CaClient;
use pontoon_proto::v1::control_client::ControlClient;
use pontoon_proto::v1::raft_client::RaftClient;
use pontoon_proto::v1::{IssueCertificateRequest, ListRequest, NodeRole, RaftBatch, SnapshotProgressRequest};
use support::{Host, eventually, role, three};

/// The leader, and a manager that was demoted and has not renewed its certificate.
async fn demoted(hosts: &[Host]) -> (&Host, &Host) {
    let leader = eventually("somebody leads", || async {
        hosts.iter().find(|host| host.is_leader())
    })
    .await;
    let other = hosts.iter().find(|host| host.addr != leader.addr).unwrap();
    let node_id = other.identity.node_id();
    leader
        .client()
        .update_node(role(&node_id, NodeRole::Worker))
        .await
        .unwrap();
    leader.wait_voters(2).await;
    eventually("its role is taken", || async {
        let node = leader.manager.snapshot().node(&node_id).cloned()?;
        (node.role() == NodeRole::Worker).then_some(())
    })
    .await;
    assert_eq!(other.identity.role(), NodeRole::Manager);
    (leader, other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_manager_has_no_voice_in_the_log() {
    if support::store::is_external() {
        println!("skipped: managers on etcd don't talk to each other");
        return;
    }
    let hosts = three().await;
    let member = |host: &Host| {
        let node_id = host.identity.node_id();
        let members = hosts[0].manager.members();
        members
            .iter()
            .find(|member| member.node_id == node_id)
            .unwrap()
            .id
    };
    let ids: Vec<u64> = hosts.iter().map(member).collect();
    let (leader, other) = demoted(&hosts).await;
    let id_of = |host: &Host| ids[hosts.iter().position(|other| other.addr == host.addr).unwrap()];
    for at in hosts.iter().filter(|host| host.addr != other.addr) {
        let node_id = other.identity.node_id();
        eventually("it knows of the demotion", || async {
            let node = at.manager.snapshot().node(&node_id).cloned()?;
            (node.role() == NodeRole::Worker).then_some(())
        })
        .await;
        let channel = connect(&other.identity, &Endpoint::manager(&at.addr))
            .await
            .unwrap();
        let mut client = RaftClient::new(channel.clone());
        let mut say = async |from| {
            let batch = RaftBatch {
                from,
                cluster_id: "cluster1".to_owned(),
                ..RaftBatch::default()
            };
            client.messages(tokio_stream::iter([batch])).await.unwrap_err()
        };
        // As what it was, it is told so, and stops; as a member that nobody knows yet, or as another one, it is refused.
        let told = say(id_of(other)).await;
        assert!(told.metadata().contains_key("pontoon-removed"), "{told:?}");
        for id in [4711, id_of(leader)] {
            let refused = say(id).await;
            assert!(refused.message().contains("no longer a manager"), "{refused:?}");
        }
        let mut client = RaftClient::new(channel);
        let progress = client.snapshot_progress(SnapshotProgressRequest {
            from: 4711,
            cluster_id: "cluster1".to_owned(),
            ..SnapshotProgressRequest::default()
        });
        let refused = progress.await.unwrap_err();
        assert!(refused.message().contains("no longer a manager"), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_managers_certificate_is_worth_a_workers() {
    let hosts = three().await;
    let (leader, other) = demoted(&hosts).await;
    let node_id = other.identity.node_id();
    let channel = connect(&other.identity, &Endpoint::manager(&leader.addr))
        .await
        .unwrap();
    let error = ControlClient::new(channel.clone())
        .list_nodes(ListRequest::default())
        .await
        .unwrap_err();
    assert!(error.message().contains("no longer a manager"), "{error:?}");
    // It can't speak for another node any more.
    let csr = pontoon_identity::CertificateRequest::generate().unwrap().csr_pem;
    let mut request = tonic::Request::new(IssueCertificateRequest {
        csr: csr.into(),
        ..Default::default()
    });
    let victim = format!("manager:{}", leader.identity.node_id());
    request
        .metadata_mut()
        .insert("pontoon-caller", victim.parse().unwrap());
    let issued = CaClient::new(channel)
        .issue_certificate(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (issued.node_id.clone(), issued.role()),
        (node_id, NodeRole::Worker)
    );
}
