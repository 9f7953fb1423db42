//! Several managers: writes through followers, the leader's death, promotion and demotion, a lost majority, restarts.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pontoon_controller::StopReason;
use pontoon_identity::{Endpoint, connect, renew};
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::{
    AgentMessage, GetRequest, ListRequest, LogSelector, NodeRole, Reachability, RemoveNodeRequest,
    ServiceLogsRequest,
};
use support::{FakeAgent, Host, create, eventually, role, three, wait_running};
use tonic::Code;

/// Takes the leader out of the list.
async fn take_leader(hosts: &mut Vec<Host>) -> Host {
    let position = eventually("somebody leads", || async {
        hosts.iter().position(Host::is_leader)
    })
    .await;
    hosts.remove(position)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path))
        } else {
            found.push(path)
        }
    }
    assert!(!found.is_empty());
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_manager_writes_and_reads_what_was_written() {
    let hosts = three().await;
    for (number, writer) in hosts.iter().enumerate() {
        let name = format!("svc{number}");
        let service = create(&mut writer.client(), &name, 0).await.unwrap();
        for reader in &hosts {
            let request = GetRequest { target: name.clone() };
            let read = reader.client().get_service(request).await.unwrap().into_inner();
            assert_eq!(read.id, service.id);
        }
    }
    // An error of the leader comes back as it is.
    let error = create(&mut hosts[1].client(), "svc0", 0).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists, "{error:?}");
    eventually("the managers are shown", || async {
        let nodes = hosts[1]
            .client()
            .list_nodes(ListRequest::default())
            .await
            .ok()?
            .into_inner()
            .nodes;
        let statuses: Vec<_> = nodes.into_iter().filter_map(|node| node.manager_status).collect();
        let leaders = statuses.iter().filter(|status| status.leader).count();
        let up = statuses
            .iter()
            .all(|status| status.reachability() == Reachability::Reachable);
        (statuses.len() == 3 && leaders == 1 && up).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_takes_over() {
    let mut hosts = three().await;
    let agents = [
        FakeAgent::join(&hosts[1], "a1").await,
        FakeAgent::join(&hosts[2], "a2").await,
    ];
    eventually("the agents have sessions", || async {
        agents
            .iter()
            .all(|agent| agent.known.lock().unwrap().sessions > 0)
            .then_some(())
    })
    .await;
    create(&mut hosts[2].client(), "before", 4).await.unwrap();
    wait_running(&hosts[2].client(), "before", 4).await;
    // Logs are gathered at the leader; a follower passes the stream on.
    let follower = hosts.iter().position(|host| !host.is_leader()).unwrap();
    let selector = LogSelector {
        target: "before".into(),
        ..LogSelector::default()
    };
    let request = ServiceLogsRequest {
        selector: Some(selector),
    };
    let mut logs = hosts[follower]
        .client()
        .service_logs(request)
        .await
        .unwrap()
        .into_inner();
    let mut lines = 0;
    while logs.message().await.unwrap().is_some() {
        lines += 1;
    }
    assert_eq!(lines, 4);

    take_leader(&mut hosts).await.stop().await;
    // The first write after it waits for the election at most, and goes on where the dead leader left off.
    eventually("a service is made under the new leader", || async {
        create(&mut hosts[0].client(), "after", 4).await.ok()
    })
    .await;
    wait_running(&hosts[1].client(), "after", 4).await;
    wait_running(&hosts[0].client(), "before", 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_tells_agents_who_leads() {
    let hosts = three().await;
    let agent = FakeAgent::join(&hosts[0], "a1").await;
    let leader = eventually("somebody leads", || async {
        hosts.iter().find(|host| host.is_leader())
    })
    .await;
    let follower = hosts.iter().find(|host| host.addr != leader.addr).unwrap();
    let channel = connect(&agent.identity, &Endpoint::manager(&follower.addr))
        .await
        .unwrap();
    let refused = DispatcherClient::new(channel)
        .session(tokio_stream::pending::<AgentMessage>())
        .await;
    let refused = refused.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(
        refused
            .metadata()
            .get("pontoon-leader")
            .unwrap()
            .to_str()
            .unwrap(),
        leader.addr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_the_reason_is_told() {
    if support::store::is_external() {
        println!("skipped: one manager is enough on etcd");
        return;
    }
    let mut hosts = three().await;
    let last = hosts.remove(0);
    for host in hosts {
        host.stop().await;
    }
    // Once the survivor has noticed, neither reads nor writes hang.
    let error = eventually("reads fail", || async {
        last.client().list_nodes(ListRequest::default()).await.err()
    })
    .await;
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("does not have a leader"), "{error:?}");
    let error = eventually("writes fail for want of a leader", || async {
        let error = create(&mut last.client(), "web", 1).await.unwrap_err();
        error
            .message()
            .contains("does not have a leader")
            .then_some(error)
    })
    .await;
    assert!(
        error
            .message()
            .contains("Make sure more than half of the managers are online"),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promotion_and_demotion() {
    let first = Host::bootstrap().await;
    let agent = FakeAgent::join(&first, "a1").await;
    let node_id = agent.node_id();
    eventually("the agent has a session", || async {
        (agent.known.lock().unwrap().sessions > 0).then_some(())
    })
    .await;
    first
        .client()
        .update_node(role("a1", NodeRole::Manager))
        .await
        .unwrap();
    eventually("the agent hears of its new role", || async {
        let known = agent.known.lock().unwrap();
        (known.node.as_ref()?.spec.as_ref()?.role() == NodeRole::Manager).then_some(())
    })
    .await;
    renew(&agent.identity, &first.addr).await.unwrap();
    assert_eq!(agent.identity.role(), NodeRole::Manager);
    let second = Host::join_with(
        agent.identity.clone(),
        agent.dir.clone(),
        std::slice::from_ref(&first.addr),
    )
    .await;
    second.wait_voters(2).await;

    // By itself, through the leader; the member goes before the role does.
    let demoted_by = second
        .client()
        .update_node(role(&node_id, NodeRole::Worker))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(demoted_by.spec.unwrap().role(), NodeRole::Worker);
    first.wait_voters(1).await;
    eventually("the demoted manager is told", || async {
        (*second.manager.stopped().borrow() == Some(StopReason::Removed)).then_some(())
    })
    .await;
    eventually("the node's role follows", || async {
        let node = first
            .client()
            .get_node(GetRequest {
                target: node_id.clone(),
            })
            .await
            .ok()?
            .into_inner();
        (node.role() == NodeRole::Worker && node.manager_status.is_none()).then_some(())
    })
    .await;
    renew(&agent.identity, &first.addr).await.unwrap();
    assert_eq!(agent.identity.role(), NodeRole::Worker);
    let error = first
        .client()
        .update_node(role("manager1", NodeRole::Worker))
        .await
        .unwrap_err();
    assert_eq!(
        error.message(),
        "attempting to demote the last manager of the swarm"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demotion_that_would_lose_the_quorum_is_refused() {
    if support::store::is_external() {
        println!("skipped: one manager is enough on etcd");
        return;
    }
    let mut hosts = three().await;
    let leader = take_leader(&mut hosts).await;
    let (kept, dead) = (hosts.remove(0), hosts.remove(0));
    let (kept_id, dead_id) = (kept.identity.node_id(), dead.identity.node_id());
    // No manager is removed by its node.
    let remove = RemoveNodeRequest {
        target: kept_id.clone(),
        force: true,
    };
    let error = leader.client().remove_node(remove).await.unwrap_err();
    assert!(
        error
            .message()
            .contains("must be demoted to worker before removal"),
        "{error:?}"
    );
    dead.stop().await;
    eventually("the dead one is seen to be", || async {
        let node = leader
            .client()
            .get_node(GetRequest {
                target: dead_id.clone(),
            })
            .await
            .ok()?
            .into_inner();
        (node.manager_status?.reachability() == Reachability::Unreachable).then_some(())
    })
    .await;
    // Leader and dead one would be left: no majority of two.
    let error = leader
        .client()
        .update_node(role(&kept_id, NodeRole::Worker))
        .await
        .unwrap_err();
    assert_eq!(
        error.message(),
        "can't remove member from the raft: this would result in a loss of quorum (1 of 2 remaining managers are reachable)"
    );
    // The dead one may go, and then the other.
    for (id, left) in [(dead_id, 2), (kept_id, 1)] {
        leader
            .client()
            .update_node(role(&id, NodeRole::Worker))
            .await
            .unwrap();
        leader.wait_voters(left).await;
    }
    create(&mut leader.client(), "alone", 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_leader_hands_over() {
    let mut hosts = three().await;
    let leader = take_leader(&mut hosts).await;
    let node_id = leader.identity.node_id();
    leader
        .client()
        .update_node(role(&node_id, NodeRole::Worker))
        .await
        .unwrap();
    hosts[0].wait_voters(2).await;
    eventually("its role follows", || async {
        let node = hosts[0]
            .client()
            .get_node(GetRequest {
                target: node_id.clone(),
            })
            .await
            .ok()?
            .into_inner();
        (node.role() == NodeRole::Worker).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_leaves_and_one_restarts() {
    let mut hosts = three().await;
    let gone = hosts.pop().unwrap();
    gone.manager.leave().await.unwrap();
    gone.stop().await;
    for host in &hosts {
        host.wait_voters(2).await;
    }
    create(&mut hosts[0].client(), "kept", 0).await.unwrap();
    let second = hosts.pop().unwrap();
    let addr = second.addr.clone();
    let dir: Arc<_> = second.stop().await;
    let again = Host::reopen(dir, &addr).await;
    eventually("the restarted manager reads and writes", || async {
        again
            .client()
            .get_service(GetRequest {
                target: "kept".into(),
            })
            .await
            .ok()
    })
    .await;
    create(&mut again.client(), "new", 0).await.unwrap();
    hosts[0]
        .client()
        .get_service(GetRequest { target: "new".into() })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_cluster_restarts_from_disk() {
    if support::store::is_external() {
        println!("skipped: managers on etcd have no log on their disks");
        return;
    }
    let host = Host::bootstrap().await;
    create(&mut host.client(), "kept", 0).await.unwrap();
    let tokens = host.tokens().await;
    let addr = host.addr.clone();
    let dir = host.stop().await;
    // The root's key is in these files.
    for file in files(&dir.path().join("data/raft")) {
        let metadata = std::fs::metadata(&file).unwrap();
        let is_open = metadata.len() > 0 && metadata.permissions().mode() & 0o077 != 0;
        assert!(!is_open, "{}", file.display());
    }
    let again = Host::reopen(dir, &addr).await;
    eventually("the service is there", || async {
        again
            .client()
            .get_service(GetRequest {
                target: "kept".into(),
            })
            .await
            .ok()
    })
    .await;
    assert_eq!(again.tokens().await, tokens);
}
