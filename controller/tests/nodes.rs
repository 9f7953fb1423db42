//! One manager and fake agents. Who may call what, tokens, removal and availability of nodes.

#![allow(clippy::unwrap_used)]

mod support;

use pontoon_identity::{
    Connections, Endpoint, Error, Identity, JoinRequest, JoinToken, connect, fetch_root_pinned,
    generate_secret, renew, request_certificate,
};
use pontoon_proto::v1::ca_client::CaClient;
use pontoon_proto::v1::control_client::ControlClient;
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::raft_client::RaftClient;
use pontoon_proto::v1::{
    AgentMessage, Availability, GetRequest, IssueCertificateRequest, ListRequest, NodeRole, NodeSpec,
    RaftLeaveRequest, RemoveNodeRequest, RotateJoinTokenRequest, UpdateNodeRequest,
};
use support::{FakeAgent, Host, create, eventually, running, wait_ready, wait_running};
use tonic::Code;

#[tokio::test]
async fn roles_limit_what_a_certificate_may_call() {
    let host = Host::bootstrap().await;
    let agent = FakeAgent::join(&host, "a1").await;
    wait_ready(&host, 1).await;
    let channel = connect(&agent.identity, &Endpoint::manager(&host.addr))
        .await
        .unwrap();
    let error = ControlClient::new(channel.clone())
        .list_nodes(ListRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert!(error.message().contains("for managers only"), "{error:?}");
    let error = RaftClient::new(channel.clone())
        .leave(RaftLeaveRequest::default())
        .await
        .unwrap_err();
    // Managers that keep their log elsewhere have no such service at all.
    let refused = match support::store::is_external() {
        true => Code::Unimplemented,
        false => Code::PermissionDenied,
    };
    assert_eq!(error.code(), refused);

    // A worker that claims to speak for a manager gets a certificate for itself, as a worker.
    let csr = pontoon_identity::CertificateRequest::generate().unwrap().csr_pem;
    let mut request = tonic::Request::new(IssueCertificateRequest {
        csr: csr.clone().into(),
        ..Default::default()
    });
    request
        .metadata_mut()
        .insert("pontoon-caller", "manager:manager1".parse().unwrap());
    let issued = CaClient::new(channel)
        .issue_certificate(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (issued.node_id.clone(), issued.role()),
        (agent.node_id(), NodeRole::Worker)
    );

    // A manager may call all.
    let channel = connect(&host.identity, &Endpoint::manager(&host.addr))
        .await
        .unwrap();
    ControlClient::new(channel)
        .list_nodes(ListRequest::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn without_a_certificate_only_the_ca_answers() {
    let host = Host::bootstrap().await;
    let token: JoinToken = host.tokens().await.worker.parse().unwrap();
    let root = fetch_root_pinned(&host.addr, &token).await.unwrap();
    assert_eq!(root, host.identity.root_pem());
    // A server behind the same routes without TLS: nobody has a certificate there.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let routes = host.manager.cluster_routes();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_routes(routes);
    let task = tokio::spawn(async move { server.serve_with_incoming(incoming).await });
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{addr}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let session = DispatcherClient::new(channel.clone())
        .session(tokio_stream::iter([AgentMessage::default()]))
        .await;
    assert_eq!(session.map(|_| ()).unwrap_err().code(), Code::Unauthenticated);
    let error = ControlClient::new(channel.clone())
        .list_nodes(ListRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    let root = CaClient::new(channel.clone())
        .get_root(pontoon_proto::v1::GetRootRequest {})
        .await
        .unwrap();
    assert_eq!(root.into_inner().certificate, host.identity.root_pem());
    let csr = pontoon_identity::CertificateRequest::generate().unwrap().csr_pem;
    let request = IssueCertificateRequest {
        csr: csr.into(),
        ..Default::default()
    };
    let error = CaClient::new(channel)
        .issue_certificate(request)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    task.abort();
}

#[tokio::test]
async fn tokens_let_in_and_rotated_ones_do_not() {
    let host = Host::bootstrap().await;
    let tokens = host.tokens().await;
    let join = |token: &str| {
        let token = token.parse().unwrap();
        JoinRequest {
            addr: host.addr.clone(),
            token,
            availability: Availability::Drain,
        }
    };
    let issued = request_certificate(&join(&tokens.worker)).await.unwrap();
    let node = host
        .client()
        .get_node(GetRequest {
            target: issued.node_id.clone(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(node.role(), NodeRole::Worker);
    assert_eq!(node.spec.unwrap().availability(), Availability::Drain);
    assert_eq!(issued.manager_addrs, std::slice::from_ref(&host.addr));
    let manager = request_certificate(&join(&tokens.manager)).await.unwrap();
    assert_eq!(manager.role, NodeRole::Manager);

    let worker: JoinToken = tokens.worker.parse().unwrap();
    let guess = JoinToken::new(worker.root_digest, generate_secret()).to_string();
    let error = request_certificate(&join(&guess)).await.unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Answer {
                code: Code::PermissionDenied,
                ..
            }
        ),
        "{error:?}"
    );

    let rotate = RotateJoinTokenRequest {
        role: NodeRole::Worker.into(),
    };
    let rotated = host
        .client()
        .rotate_join_token(rotate)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(rotated.manager, tokens.manager);
    let error = request_certificate(&join(&tokens.worker)).await.unwrap_err();
    assert!(error.to_string().contains("it was rotated"), "{error}");
    request_certificate(&join(&rotated.worker)).await.unwrap();
    // A request that can't be signed leaves no node behind.
    let before = host
        .client()
        .list_nodes(ListRequest::default())
        .await
        .unwrap()
        .into_inner()
        .nodes
        .len();
    let (dir, _) = (tempfile::tempdir().unwrap(), Connections::new());
    let identity = Identity::install(dir.path(), &issued.credentials).unwrap();
    let channel = connect(&identity, &Endpoint::manager(&host.addr)).await.unwrap();
    let bad = IssueCertificateRequest {
        csr: "nonsense".into(),
        token: rotated.worker,
        ..IssueCertificateRequest::default()
    };
    let error = CaClient::new(channel).issue_certificate(bad).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let after = host
        .client()
        .list_nodes(ListRequest::default())
        .await
        .unwrap()
        .into_inner()
        .nodes
        .len();
    assert_eq!(before, after);
}

#[tokio::test]
async fn nodes_are_removed_when_down_and_cut_off() {
    let host = Host::bootstrap().await;
    let agent = FakeAgent::join(&host, "a1").await;
    wait_ready(&host, 1).await;
    let mut client = host.client();
    let remove = |force| RemoveNodeRequest {
        target: agent.node_id(),
        force,
    };
    let error = client.remove_node(remove(false)).await.unwrap_err();
    assert!(
        error.message().contains("is not down and can't be removed"),
        "{error:?}"
    );
    let own = RemoveNodeRequest {
        target: "manager1".into(),
        force: true,
    };
    let error = client.remove_node(own).await.unwrap_err();
    assert!(
        error
            .message()
            .contains("must be demoted to worker before removal"),
        "{error:?}"
    );
    let demote = UpdateNodeRequest {
        target: "manager1".into(),
        version: 0,
        spec: Some(NodeSpec {
            role: NodeRole::Worker.into(),
            ..NodeSpec::default()
        }),
    };
    let error = client.update_node(demote).await.unwrap_err();
    assert_eq!(
        error.message(),
        "attempting to demote the last manager of the swarm"
    );

    client.remove_node(remove(true)).await.unwrap();
    eventually("the agent hears that it was removed", || async {
        let known = agent.known.lock().unwrap();
        known
            .last_error
            .as_ref()
            .filter(|status| status.code() == Code::NotFound)
            .map(|_| ())
    })
    .await;
    let error = renew(&agent.identity, &host.addr).await.unwrap_err();
    assert!(error.to_string().contains("it was removed"), "{error}");
}

#[tokio::test]
async fn availability_and_labels_are_written_with_a_version() {
    let host = Host::bootstrap().await;
    let agent = FakeAgent::join(&host, "a1").await;
    wait_ready(&host, 1).await;
    let mut client = host.client();
    create(&mut client, "web", 1).await.unwrap();
    wait_running(&client, "web", 1).await;
    let drain = |version| UpdateNodeRequest {
        target: "a1".into(),
        version,
        spec: Some(NodeSpec {
            availability: Availability::Drain.into(),
            ..NodeSpec::default()
        }),
    };
    let error = client.update_node(drain(1)).await.unwrap_err();
    assert_eq!(error.message(), "update out of sequence");
    let node = client
        .get_node(GetRequest { target: "a1".into() })
        .await
        .unwrap()
        .into_inner();
    let version = node.meta.unwrap().version;
    let node = client.update_node(drain(version)).await.unwrap().into_inner();
    assert!(node.meta.unwrap().version > version);
    eventually("the drained node's tasks end, and it knows of it", || async {
        let drained = agent
            .known
            .lock()
            .unwrap()
            .node
            .as_ref()?
            .spec
            .as_ref()?
            .availability()
            == Availability::Drain;
        (drained && agent.wanted() == 0 && running(&mut host.client(), "web").await == 0).then_some(())
    })
    .await;
}
