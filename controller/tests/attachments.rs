//! Containers that are no tasks in attachable networks: who may ask for an address, who hears of it, and what becomes of it when a session
//! begins, another manager leads, or the node goes.

#![allow(clippy::unwrap_used)]

mod support;

use pontoon_identity::{Endpoint, connect};
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::{
    Annotations, AttachNetworkRequest, ContainerAttachment, CreateClusterNetworkRequest,
    DetachNetworkRequest, FindNetworkRequest, GetRequest, Network, NetworkSpec,
};
use support::{FakeAgent, Host, eventually, three, wait_ready};
use tonic::transport::Channel;
use tonic::{Code, Status};

async fn network(host: &Host, name: &str, attachable: bool) -> Network {
    let annotations = Annotations {
        name: name.to_owned(),
        ..Annotations::default()
    };
    let spec = NetworkSpec {
        annotations: Some(annotations),
        driver: "overlay".to_owned(),
        attachable,
        ..NetworkSpec::default()
    };
    let request = CreateClusterNetworkRequest { spec: Some(spec) };
    host.client().create_network(request).await.unwrap().into_inner()
}

async fn dispatcher(agent: &FakeAgent, host: &Host) -> DispatcherClient<Channel> {
    let channel = connect(&agent.identity, &Endpoint::manager(&host.addr)).await;
    DispatcherClient::new(channel.unwrap())
}

async fn attach(
    client: &mut DispatcherClient<Channel>,
    network: &str,
    container: &str,
    wished: &str,
) -> Result<String, Status> {
    let wish = ContainerAttachment {
        network_id: network.to_owned(),
        container_id: container.to_owned(),
        wished_addr: wished.to_owned(),
        names: vec![container.to_owned()],
        ..ContainerAttachment::default()
    };
    let answer = client
        .attach_network(AttachNetworkRequest { wish: Some(wish) })
        .await?;
    Ok(answer.into_inner().attachment.unwrap().addr)
}

fn detach(network: &str, container: &str) -> DetachNetworkRequest {
    DetachNetworkRequest {
        network_id: network.to_owned(),
        container_id: container.to_owned(),
    }
}

/// Waits until an agent was told that the name is found there, or nowhere.
async fn wait_found(agent: &FakeAgent, network: &str, name: &str, addr: Option<&str>) {
    eventually(&format!("{name} is at {addr:?}"), || async {
        let known = agent.known.lock().unwrap();
        let mut tasks = known.networks.get(network).into_iter().flat_map(|n| &n.tasks);
        let found = tasks
            .find(|record| record.name == name)
            .map(|record| record.addr.as_str());
        (found == addr).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_asks_for_its_own_containers_and_all_of_the_network_hear_of_them() {
    let host = Host::bootstrap().await;
    let agents = [
        FakeAgent::join(&host, "a1").await,
        FakeAgent::join(&host, "a2").await,
    ];
    wait_ready(&host, 2).await;
    let (app, closed) = (
        network(&host, "app", true).await,
        network(&host, "closed", false).await,
    );
    let mut first = dispatcher(&agents[0], &host).await;
    let mut second = dispatcher(&agents[1], &host).await;

    let find = |target: &str| FindNetworkRequest {
        target: target.to_owned(),
    };
    let found = first
        .find_network(find("app"))
        .await
        .unwrap()
        .into_inner()
        .network;
    assert_eq!(found.unwrap().id, app.id);
    for refused in [
        first.find_network(find("closed")).await.unwrap_err(),
        attach(&mut first, &closed.id, "c", "").await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert_eq!(refused.message(), "network closed not manually attachable");
    }
    assert_eq!(
        first.find_network(find("none")).await.unwrap_err().code(),
        Code::NotFound
    );

    let given = attach(&mut first, &app.id, "c1", "").await.unwrap();
    assert_eq!(
        attach(&mut first, &app.id, "c1", "").await.unwrap(),
        given,
        "it has it"
    );
    let other = attach(&mut second, &app.id, "c2", "10.0.1.200").await.unwrap();
    assert_eq!(other, "10.0.1.200/24");
    let (own, bare) = (given.clone(), given.split('/').next().unwrap());
    for agent in &agents {
        wait_found(agent, &app.id, "c1", Some(bare)).await;
        wait_found(agent, &app.id, "c2", Some("10.0.1.200")).await;
    }

    // What can't be given leaves nothing.
    let refused = attach(&mut first, &app.id, "c3", "10.0.1.200").await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, "Address already in use")
    );
    let view = host.manager.snapshot();
    let held = |node: &str| view.node(node).unwrap().containers.len();
    assert_eq!((held(&agents[0].node_id()), held(&agents[1].node_id())), (1, 1));

    // Another node's containers are not a node's business.
    second.detach_network(detach(&app.id, "c1")).await.unwrap();
    assert_eq!(attach(&mut first, &app.id, "c1", "").await.unwrap(), own);
    let target = "app".to_owned();
    let refused = host
        .client()
        .remove_network(GetRequest { target })
        .await
        .unwrap_err();
    assert!(refused.message().contains("in use by container c"), "{refused}");
    second.detach_network(detach(&app.id, "c2")).await.unwrap();
    wait_found(&agents[0], &app.id, "c2", None).await;
    eventually("the other node is told to forget the network", || async {
        let known = agents[1].known.lock().unwrap();
        (!known.networks.contains_key(&app.id)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_new_session_says_what_is_left_and_a_removed_node_frees_all() {
    let host = Host::bootstrap().await;
    let agent = FakeAgent::join(&host, "a1").await;
    wait_ready(&host, 1).await;
    let app = network(&host, "app", true).await;
    let mut client = dispatcher(&agent, &host).await;
    attach(&mut client, &app.id, "c1", "10.0.1.9").await.unwrap();
    // This agent knows of no containers when it comes again.
    let agent = agent.revive("a1");
    eventually("the address is free", || async {
        let view = host.manager.snapshot();
        view.node(&agent.node_id())?.containers.is_empty().then_some(())
    })
    .await;
    let mut client = dispatcher(&agent, &host).await;
    attach(&mut client, &app.id, "c2", "10.0.1.9").await.unwrap();
    let (node, other) = (agent.node_id(), FakeAgent::join(&host, "a2").await);
    agent.kill();
    eventually("the node is down, and is removed", || async {
        let request = pontoon_proto::v1::RemoveNodeRequest {
            target: node.clone(),
            ..Default::default()
        };
        host.client().remove_node(request).await.ok()
    })
    .await;
    let mut client = dispatcher(&other, &host).await;
    attach(&mut client, &app.id, "c3", "10.0.1.9").await.unwrap();
}

#[tokio::test]
async fn another_leader_knows_who_has_what() {
    let mut hosts = three().await;
    let agent = FakeAgent::join(&hosts[0], "a1").await;
    wait_ready(&hosts[0], 1).await;
    let app = network(&hosts[0], "app", true).await;
    let leads = hosts.iter().position(Host::is_leader).unwrap();
    let mut client = dispatcher(&agent, &hosts[leads]).await;
    let given = attach(&mut client, &app.id, "c1", "").await.unwrap();
    // A follower says whom to ask.
    let mut asked = dispatcher(&agent, &hosts[(leads + 1) % 3]).await;
    let refused = attach(&mut asked, &app.id, "c2", "").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.metadata().contains_key("pontoon-leader"));
    // The agent, which names nothing, would give it back in its next session.
    agent.kill();
    let gone = hosts.remove(leads);
    gone.stop().await;
    let next = eventually("another manager leads", || async {
        hosts.iter().find(|host| host.is_leader())
    })
    .await;
    let mut client = dispatcher(&agent, next).await;
    let again = eventually("it answers", || {
        let mut client = client.clone();
        let app = app.id.clone();
        async move { attach(&mut client, &app, "c1", "").await.ok() }
    })
    .await;
    assert_eq!(again, given);
    let bare = given.split('/').next().unwrap();
    let refused = attach(&mut client, &app.id, "c2", bare).await.unwrap_err();
    assert_eq!(refused.message(), "Address already in use");
}
