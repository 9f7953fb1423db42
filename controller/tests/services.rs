//! One manager and fake agents. A service's way to RUNNING on fake agents, nodes that fall silent, validation, networks.

#![allow(clippy::unwrap_used)]

mod support;

use pontoon_proto::v1::change::Change;
use pontoon_proto::v1::{
    Annotations, CreateClusterNetworkRequest, CreateServiceRequest, GetRequest, ListRequest,
    ListTasksRequest, NetworkAttachmentConfig, NetworkSpec, NodeState, UpdateServiceRequest, WatchRequest,
};
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use support::{FakeAgent, Host, create, eventually, spec, wait_ready, wait_running};
use tonic::Code;

#[tokio::test]
async fn a_service_is_one_entry_and_runs() {
    let host = Host::bootstrap().await;
    let agents = [
        FakeAgent::join(&host, "a1").await,
        FakeAgent::join(&host, "a2").await,
    ];
    wait_ready(&host, 2).await;
    let mut client = host.client();

    let since = host.manager.snapshot().version();
    let service = create(&mut client, "web", 6).await.unwrap();
    let request = WatchRequest {
        since,
        ..WatchRequest::default()
    };
    let mut watch = client.watch(request).await.unwrap().into_inner();
    // Whatever else was written meanwhile (nothing is): the service comes with all its placed tasks.
    let entry = loop {
        let response = watch.message().await.unwrap().unwrap();
        let has_service = |change: &pontoon_proto::v1::Change| matches!(&change.change, Some(Change::PutService(put)) if put.id == service.id);
        if response.changes.iter().any(has_service) {
            break response;
        }
    };
    let nodes: Vec<String> = entry
        .changes
        .iter()
        .filter_map(|change| match &change.change {
            Some(Change::PutTask(task)) if task.service_id == service.id => Some(task.node_id.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(nodes.len(), 6, "all tasks in one entry");
    assert!(
        nodes
            .iter()
            .all(|node| agents.iter().any(|agent| agent.node_id() == *node)),
        "{nodes:?}"
    );

    wait_running(&client, "web", 6).await;
    assert_eq!(agents[0].wanted() + agents[1].wanted(), 6);
    assert_eq!(agents[0].wanted(), 3);
    eventually("reports are acknowledged", || async {
        agents
            .iter()
            .all(|agent| agent.known.lock().unwrap().acked > 0)
            .then_some(())
    })
    .await;

    // Scale down, then remove: the agents hear of it.
    let request = UpdateServiceRequest {
        target: "web".into(),
        spec: Some(spec("web", 1)),
        ..UpdateServiceRequest::default()
    };
    client.update_service(request).await.unwrap();
    eventually("one task is wanted", || async {
        (agents.iter().map(FakeAgent::wanted).sum::<usize>() == 1).then_some(())
    })
    .await;
    client
        .remove_service(GetRequest { target: "web".into() })
        .await
        .unwrap();
    eventually("no task is left", || async {
        let tasks = host
            .client()
            .list_tasks(ListTasksRequest::default())
            .await
            .unwrap()
            .into_inner()
            .tasks;
        tasks.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn silence_moves_a_nodes_tasks() {
    let host = Host::bootstrap().await;
    let agents = [
        FakeAgent::join(&host, "a1").await,
        FakeAgent::join(&host, "a2").await,
    ];
    wait_ready(&host, 2).await;
    create(&mut host.client(), "web", 4).await.unwrap();
    wait_running(&host.client(), "web", 4).await;

    // The agent keeps its session and says nothing.
    agents[0].beats.store(false, Ordering::Relaxed);
    eventually("all tasks are on the other node", || async {
        (agents[1].wanted() == 4).then_some(())
    })
    .await;
    let node = host
        .client()
        .get_node(GetRequest {
            target: agents[0].node_id(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(node.status.as_ref().unwrap().state(), NodeState::Down);
    assert_eq!(node.status.unwrap().message, "heartbeat failure");
    wait_running(&host.client(), "web", 4).await;

    // It comes back and is told that its tasks are to end.
    agents[0].beats.store(true, Ordering::Relaxed);
    wait_ready(&host, 2).await;
    eventually("its old tasks end", || async {
        (agents[0].wanted() == 0).then_some(())
    })
    .await;

    // A death without a word.
    agents[1].kill();
    eventually("the tasks have moved again", || async {
        (agents[0].wanted() == 4).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_bad_input_spoils_nothing_for_the_others() {
    let host = Host::bootstrap().await;
    // All at once, so that many share a batch: of each name one may win, and each spec that is wrong fails alone.
    let calls = (0..40).map(|number| {
        let mut client = host.client();
        tokio::spawn(async move { create(&mut client, &format!("svc{}", number % 10), 0).await })
    });
    let mut made = 0;
    let mut taken = 0;
    for call in calls.collect::<Vec<_>>() {
        match call.await.unwrap() {
            Ok(_) => made += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
                taken += 1;
            }
        }
    }
    assert_eq!((made, taken), (10, 30));
    let list = host
        .client()
        .list_services(ListRequest::default())
        .await
        .unwrap()
        .into_inner();
    let names: HashSet<String> = list
        .services
        .into_iter()
        .map(|status| status.service.unwrap().spec.unwrap().annotations.unwrap().name)
        .collect();
    assert_eq!(names.len(), 10);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let host = Host::bootstrap().await;
    let mut client = host.client();
    let code = |result: Result<_, tonic::Status>| result.map(|_: tonic::Response<_>| ()).unwrap_err();

    let error = create(&mut client, "not a name", 1).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    let error = client
        .create_service(CreateServiceRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let error = client
        .get_service(GetRequest {
            target: "nothing".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::NotFound, "service nothing not found")
    );

    let service = create(&mut client, "web", 1).await.unwrap();
    let update = |version, name: &str| UpdateServiceRequest {
        target: "web".into(),
        version,
        spec: Some(spec(name, 2)),
        rollback: false,
        ..UpdateServiceRequest::default()
    };
    let error = code(client.update_service(update(u64::MAX, "web")).await);
    assert_eq!(error.message(), "update out of sequence");
    let error = code(client.update_service(update(0, "other")).await);
    assert_eq!(error.message(), "renaming services is not supported");
    let version = service.meta.unwrap().version;
    let current = client
        .get_service(GetRequest { target: "web".into() })
        .await
        .unwrap()
        .into_inner();
    assert!(current.meta.unwrap().version >= version);
    let rollback = UpdateServiceRequest {
        target: "web".into(),
        rollback: true,
        ..UpdateServiceRequest::default()
    };
    let error = client.update_service(rollback.clone()).await.unwrap_err();
    assert!(
        error.message().contains("does not have a previous spec"),
        "{error:?}"
    );
    client.update_service(update(0, "web")).await.unwrap();
    let back = client.update_service(rollback).await.unwrap().into_inner();
    assert!(matches!(
        back.spec.unwrap().mode,
        Some(pontoon_proto::v1::service_spec::Mode::Replicated(mode)) if mode.replicas == 1
    ));

    let error = client
        .watch(WatchRequest {
            kinds: vec!["pod".into()],
            since: 0,
            ..WatchRequest::default()
        })
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn networks_are_named_and_not_removed_under_services() {
    let host = Host::bootstrap().await;
    let agent = FakeAgent::join(&host, "a1").await;
    wait_ready(&host, 1).await;
    let mut client = host.client();
    let network = |name: &str| CreateClusterNetworkRequest {
        spec: Some(NetworkSpec {
            annotations: Some(Annotations {
                name: name.into(),
                ..Annotations::default()
            }),
            ..NetworkSpec::default()
        }),
    };
    let made = client.create_network(network("back")).await.unwrap().into_inner();
    assert!(made.vni >= 4096, "{made:?}");
    let error = client.create_network(network("back")).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists);

    let mut wish = spec("web", 2);
    let attachment = NetworkAttachmentConfig {
        target: "back".into(),
        ..NetworkAttachmentConfig::default()
    };
    wish.task.as_mut().unwrap().networks = vec![attachment];
    let service = client
        .create_service(CreateServiceRequest {
            spec: Some(wish),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(service.spec.unwrap().task.unwrap().networks[0].target, made.id);
    wait_running(&client, "web", 2).await;
    eventually("the agent knows the network's endpoints and backends", || async {
        let known = agent.known.lock().unwrap();
        let network = known.networks.get(&made.id)?;
        let backends = network
            .services
            .first()
            .map_or(0, |service| service.backends.len());
        (network.peers.len() == 2 && backends == 2).then_some(())
    })
    .await;

    let error = client
        .remove_network(GetRequest {
            target: "back".into(),
        })
        .await
        .unwrap_err();
    assert_eq!(error.message(), "network back is in use by service web");
    client
        .remove_service(GetRequest { target: "web".into() })
        .await
        .unwrap();
    eventually("the network can go", || async {
        host.client()
            .remove_network(GetRequest {
                target: "back".into(),
            })
            .await
            .ok()
    })
    .await;
}
