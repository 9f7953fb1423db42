//! Checks of overlay networks: every node is asked, what it answers is told under its name, and so is who does not answer.

#![allow(clippy::unwrap_used)]

mod support;

use pontoon_identity::{Endpoint, connect};
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::{
    Annotations, CheckNetworksRequest, CreateClusterNetworkRequest, NetworkCheckReport, NetworkSpec,
    NodeNetworkCheck,
};
use support::{FakeAgent, Host, wait_ready};
use tonic::Code;

async fn network(host: &Host, name: &str) -> String {
    let spec = NetworkSpec {
        annotations: Some(Annotations {
            name: name.to_owned(),
            ..Annotations::default()
        }),
        ..NetworkSpec::default()
    };
    let request = CreateClusterNetworkRequest { spec: Some(spec) };
    host.client()
        .create_network(request)
        .await
        .unwrap()
        .into_inner()
        .id
}

fn of<'a>(nodes: &'a [NodeNetworkCheck], name: &str) -> &'a NodeNetworkCheck {
    nodes.iter().find(|node| node.hostname == name).unwrap()
}

#[tokio::test]
async fn all_nodes_are_asked_and_who_is_silent_is_named() {
    let host = Host::bootstrap().await;
    let mut agents = Vec::new();
    for name in ["a1", "a2", "sick", "mute"] {
        agents.push(FakeAgent::join(&host, name).await);
    }
    wait_ready(&host, 4).await;
    let (red, blue) = (network(&host, "red").await, network(&host, "blue").await);
    let ask = |networks: &[&str], repair| {
        let request = CheckNetworksRequest {
            networks: networks.iter().map(|name| (*name).to_owned()).collect(),
            repair,
        };
        let mut client = host.client();
        async move { client.check_networks(request).await }
    };
    let found = ask(&["red", &red], true).await.unwrap().into_inner();
    assert_eq!(found.networks.len(), 1, "named twice, checked once");
    assert_eq!(
        (&found.networks[0].id, found.networks[0].name.as_str()),
        (&red, "red")
    );
    for name in ["a1", "a2"] {
        let node = of(&found.nodes, name);
        let drifts = &node.findings.as_ref().unwrap().drifts;
        assert_eq!((drifts.len(), drifts[0].what.as_str()), (1, name));
        assert_eq!(
            (&drifts[0].expected, drifts[0].repaired, node.error.as_str()),
            (&red, true, "")
        );
    }
    assert_eq!(
        (
            of(&found.nodes, "sick").findings.as_ref(),
            of(&found.nodes, "sick").error.as_str()
        ),
        (None, "can't look")
    );
    let mute = of(&found.nodes, "mute");
    assert!(
        mute.findings.is_none() && mute.error.contains("no answer within"),
        "{mute:?}"
    );
    // The manager of this test has no agent.
    let silent = found
        .nodes
        .iter()
        .filter(|node| node.error == "it has no session with the managers");
    assert!(silent.count() <= 1);

    let error = ask(&["red", "nosuch"], false).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message().contains("nosuch")),
        (Code::NotFound, true),
        "{error:?}"
    );

    // Without names all networks are meant, and what belongs to none.
    agents.pop().unwrap().kill();
    let found = ask(&[], false).await.unwrap().into_inner();
    let names: Vec<_> = found
        .networks
        .iter()
        .map(|network| network.name.as_str())
        .collect();
    assert!(names.contains(&"red") && names.contains(&"blue"), "{names:?}");
    let drift = &of(&found.nodes, "a1").findings.as_ref().unwrap().drifts[0];
    assert_eq!((drift.expected.as_str(), drift.repaired), ("", false));
    assert!(!blue.is_empty());

    // An answer that nobody waits for any more.
    let channel = connect(&agents[0].identity, &Endpoint::manager(&host.addr))
        .await
        .unwrap();
    let late = DispatcherClient::new(channel)
        .report_network_check(NetworkCheckReport::default())
        .await;
    assert_eq!(late.unwrap_err().code(), Code::NotFound);
}
