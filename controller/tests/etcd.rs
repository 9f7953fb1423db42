//! The contract of the Control API once more, with the cluster's state in a real etcd: the same tests as on the embedded log; and
//! what is another way there. What the log itself does when etcd's servers die, compact, refuse is tested in `controller/etcd`.

#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used)]
// Each file is a test program of its own as well.
#![allow(clippy::duplicate_mod)]

#[path = "demoted.rs"]
mod demoted;
#[path = "images.rs"]
mod images;
#[path = "managers.rs"]
mod managers;
#[path = "nodes.rs"]
mod nodes;
#[path = "reading.rs"]
mod reading;
#[path = "../etcd/tests/support/servers.rs"]
#[allow(dead_code)]
mod servers;
#[path = "services.rs"]
mod services;
mod support;

use pontoon_controller::{BackupKey, StopReason, read_backup};
use pontoon_proto::v1::{
    GetClusterRequest, GetRequest, ListRequest, NodeRole, NodeSpec, RemoveNodeRequest, UpdateClusterRequest,
    UpdateNodeRequest,
};
use servers::Servers;
use support::{Host, create, eventually};
use zeroize::Zeroizing;

fn worker(target: &str) -> UpdateNodeRequest {
    UpdateNodeRequest {
        target: target.to_owned(),
        version: 0,
        spec: Some(NodeSpec {
            role: NodeRole::Worker.into(),
            ..NodeSpec::default()
        }),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_manager_of_three_is_enough_and_the_others_are_removed_there() {
    let first = Host::bootstrap().await;
    let (second, third) = (Host::join(&first).await, Host::join(&first).await);
    first.wait_voters(3).await;
    create(&mut third.client(), "before", 0).await.unwrap();
    let lost = [first.identity.node_id(), second.identity.node_id()];
    let dir = first.stop().await;
    let addr = second.addr.clone();
    drop(second.stop().await);
    // Without any majority of managers: etcd has one.
    eventually("the last one leads and writes", || async {
        create(&mut third.client(), "after", 0).await.ok()
    })
    .await;
    let mut client = third.client();
    for node in &lost {
        client.update_node(worker(node)).await.unwrap();
    }
    third.wait_voters(1).await;
    for node in &lost {
        eventually("it is no manager any more", || async {
            let node = third.manager.snapshot().node(node).cloned()?;
            (node.role() == NodeRole::Worker).then_some(())
        })
        .await;
        let remove = RemoveNodeRequest {
            target: node.clone(),
            force: true,
        };
        client.remove_node(remove).await.unwrap();
    }
    // One that comes back is told so, and takes no part.
    let back = Host::reopen(dir, &addr).await;
    eventually("it is told", || async {
        (*back.manager.stopped().borrow() == Some(StopReason::Removed)).then_some(())
    })
    .await;
    let nodes = client
        .list_nodes(ListRequest::default())
        .await
        .unwrap()
        .into_inner()
        .nodes;
    assert_eq!(nodes.len(), 1);
}

#[tokio::test]
async fn what_can_not_be_is_refused_with_the_way_to_go() {
    let host = Host::bootstrap().await;
    let mut client = host.client();
    let cluster = client
        .get_cluster(GetClusterRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut spec = cluster.spec.unwrap();
    spec.autolock_managers = true;
    let request = UpdateClusterRequest {
        spec: Some(spec),
        ..UpdateClusterRequest::default()
    };
    let refused = client.update_cluster(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(
        refused.message().starts_with("autolock is not possible"),
        "{refused:?}"
    );
    assert!(refused.message().contains("seal-key-file"), "{refused:?}");
    // A manager that would keep the log itself.
    let (identity, dir) = Host::identity_of_joiner(&host).await;
    let refused = Host::try_join(identity, dir, std::slice::from_ref(&host.addr)).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("with the same --store"), "{refused}");
    let addr = host.addr.clone();
    let dir = host.stop().await;
    let refused = Host::try_force_new(dir, &addr).await.unwrap_err().to_string();
    assert!(refused.contains("any one manager is enough there"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_makes_the_cluster_in_another_place_of_etcd_and_without_etcd() {
    let host = Host::bootstrap().await;
    create(&mut host.client(), "kept", 3).await.unwrap();
    let key = || BackupKey::Passphrase(Zeroizing::new("a long passphrase".to_owned()));
    let file = tempfile::NamedTempFile::new().unwrap();
    host.manager.backup(key(), file.reopen().unwrap()).await.unwrap();
    let read = || read_backup(file.reopen().unwrap(), &key()).unwrap();
    // Where it is already, it is not made again.
    let refused = Host::try_restore(&host, read()).await.unwrap_err();
    let refused = pontoon_identity::describe(&refused);
    assert!(
        refused.contains("etcd already holds a cluster cluster1"),
        "{refused}"
    );
    for in_etcd in [true, false] {
        let restored = Host::restored(read(), in_etcd).await;
        restored
            .manager
            .wait_ready(std::time::Duration::from_secs(60))
            .await
            .unwrap();
        let request = GetRequest {
            target: "kept".to_owned(),
        };
        restored.client().get_service(request).await.unwrap();
        create(&mut restored.client(), "more", 0).await.unwrap();
        let addr = restored.addr.clone();
        let dir = restored.stop().await;
        let again = Host::reopen(dir, &addr).await;
        eventually("both are there after a restart", || async {
            let list = again.client().list_services(ListRequest::default()).await.ok()?;
            (list.into_inner().services.len() == 2).then_some(())
        })
        .await;
    }
}

/// Makes a service, whoever has to be waited for. One whose answer was lost may be there already.
async fn create_somehow(host: &Host, name: &str) {
    eventually(name, || async {
        match create(&mut host.client(), name, 0).await {
            Ok(_) => Some(()),
            Err(status) => (status.code() == tonic::Code::AlreadyExists).then_some(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_etcd_members_history_and_leases() {
    let mut servers = Servers::start(3).await;
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let store = format!("etcd://{}", servers.config().endpoints.join(","));
    support::store::set(dir.path(), &store);
    let first = Host::bootstrap_in(dir, std::time::Duration::from_millis(500)).await;
    let second = Host::join(&first).await;
    first.wait_voters(2).await;
    let mut names = Vec::new();
    for member in 0..3 {
        servers.kill(member);
        for host in [&first, &second] {
            let name = format!("s{}", names.len());
            create_somehow(host, &name).await;
            names.push(name);
        }
        servers.restart(member);
        servers.wait(member).await;
    }
    let mut client = servers.client().await;
    let now = client
        .get("none", None)
        .await
        .unwrap()
        .header()
        .unwrap()
        .revision();
    client.compact(now, None).await.unwrap();
    create_somehow(&second, "compacted").await;
    for lease in client.leases().await.unwrap().leases() {
        client.lease_revoke(lease.id()).await.unwrap();
    }
    create_somehow(&first, "revoked").await;
    names.extend(["compacted".to_owned(), "revoked".to_owned()]);
    names.sort();
    for host in [&first, &second] {
        let list = eventually("the list", || async {
            host.client().list_services(ListRequest::default()).await.ok()
        })
        .await;
        let listed = list.into_inner().services.into_iter();
        let mut listed: Vec<String> = listed
            .filter_map(|status| Some(status.service?.spec?.annotations?.name))
            .collect();
        listed.sort();
        assert_eq!(listed, names);
    }
}
