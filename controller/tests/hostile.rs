//! Hostile input on every call of the cluster port: without a certificate, with a worker's and with a manager's. Nothing panics, memory is
//! bounded, the manager works on, and what is refused is refused with a reason.
//!
//! The calls are read from the `.proto` files, so that a new one is not forgotten.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use pontoon_fuzz::{Random, mutate, resident};
use pontoon_identity::{CertificateRequest, Credentials, Endpoint, Identity, RootCa, connect};
use pontoon_proto::v1::{
    AgentMessage, AttachNetworkRequest, ContainerAttachment, CreateServiceRequest, FindImageRequest,
    IssueCertificateRequest, ListRequest, NodeDescription, NodeRole, PublishLogsMessage, RaftBatch,
    RaftJoinRequest, Register, RotateRootRequest, SnapshotChunk, StatusReport, TaskStatus, TaskStatusUpdate,
    UpdateNodeRequest, WatchRequest, agent_message::Message as FromAgent,
};
use prost::Message;
use support::{FakeAgent, Host, create, spec, wait_ready};
use tonic::transport::Channel;
use tower::ServiceExt;

/// Inputs a call without a budget of time.
const CASES: usize = 40;
/// Memory that all of it may take.
const MEMORY: u64 = 512 << 20;

/// Every call of the services on the cluster port: `/pontoon.v1.Service/Call`.
fn calls() -> Vec<String> {
    const SERVICES: &[&str] = &[
        include_str!("../../proto/api/v1/ca.proto"),
        include_str!("../../proto/api/v1/control.proto"),
        include_str!("../../proto/api/v1/dispatcher.proto"),
        include_str!("../../proto/api/v1/raft.proto"),
    ];
    let mut calls = Vec::new();
    for text in SERVICES {
        let mut service = "";
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("service ") {
                service = rest.split_whitespace().next().unwrap();
            } else if let Some(rest) = line.strip_prefix("rpc ") {
                calls.push(format!(
                    "/pontoon.v1.{service}/{}",
                    rest.split('(').next().unwrap()
                ));
            }
        }
    }
    assert!(calls.len() > 25, "{calls:?}");
    calls
}

fn attach_request() -> AttachNetworkRequest {
    let wish = ContainerAttachment {
        network_id: "n".into(),
        container_id: "c".into(),
        wished_addr: "10.0.1.7".into(),
        names: vec!["c".into()],
        ..ContainerAttachment::default()
    };
    AttachNetworkRequest { wish: Some(wish) }
}

/// Messages that are good for one call or another.
fn good() -> Vec<Vec<u8>> {
    let update = TaskStatusUpdate {
        task_id: "t1".into(),
        status: Some(TaskStatus::default()),
    };
    let register = Register {
        description: Some(NodeDescription {
            hostname: "h".into(),
            ..NodeDescription::default()
        }),
        tasks: vec![update.clone()],
        ..Register::default()
    };
    let from_agent = |message| {
        AgentMessage {
            message: Some(message),
        }
        .encode_to_vec()
    };
    vec![
        from_agent(FromAgent::Register(register)),
        from_agent(FromAgent::Status(StatusReport {
            sequence: 1,
            updates: vec![update],
        })),
        IssueCertificateRequest {
            csr: CertificateRequest::generate().unwrap().csr_pem.into(),
            ..IssueCertificateRequest::default()
        }
        .encode_to_vec(),
        CreateServiceRequest {
            spec: Some(spec("web", 2)),
            ..CreateServiceRequest::default()
        }
        .encode_to_vec(),
        UpdateNodeRequest {
            target: "a1".into(),
            ..UpdateNodeRequest::default()
        }
        .encode_to_vec(),
        RaftBatch {
            messages: vec![Bytes::from_static(&[8, 3, 16, 1, 24, 2, 32, 7])],
            from: 4711,
            cluster_id: "cluster1".into(),
            addr: String::new(),
        }
        .encode_to_vec(),
        RaftJoinRequest {
            node_id: "x".into(),
            addr: "127.0.0.1:1".into(),
        }
        .encode_to_vec(),
        SnapshotChunk::default().encode_to_vec(),
        WatchRequest {
            kinds: vec!["node".into()],
            since: u64::MAX,
            exact: true,
        }
        .encode_to_vec(),
        RotateRootRequest {
            certificate: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
            key: "k".into(),
            ..RotateRootRequest::default()
        }
        .encode_to_vec(),
        FindImageRequest {
            image: "sha256:00".into(),
            ..FindImageRequest::default()
        }
        .encode_to_vec(),
        attach_request().encode_to_vec(),
        PublishLogsMessage {
            subscription_id: "s".into(),
            ..PublishLogsMessage::default()
        }
        .encode_to_vec(),
    ]
}

/// A gRPC frame: flags, length, message.
fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0][..], &length.to_be_bytes(), message].concat()
}

/// What came back: the gRPC code and message, if the server said so at once or at the end.
async fn send(channel: &Channel, call: &str, body: Vec<u8>) -> Option<tonic::Status> {
    let request = http::Request::post(call)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(Full::new(Bytes::from(body))))
        .unwrap();
    let answer = async {
        let response = channel.clone().oneshot(request).await.ok()?;
        if let Some(status) = tonic::Status::from_header_map(response.headers()) {
            return Some(status);
        }
        let body = Limited::new(response.into_body(), 1 << 20).collect().await.ok()?;
        tonic::Status::from_header_map(body.trailers()?)
    };
    // Streams that the server keeps open are left.
    tokio::time::timeout(Duration::from_millis(200), answer)
        .await
        .ok()
        .flatten()
}

/// Counts panics of any thread: tokio would only print them.
fn count_panics() -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let (counter, usual) = (count.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        counter.fetch_add(1, Ordering::SeqCst);
        usual(info);
    }));
    count
}

/// A channel without a certificate, as joining nodes have it.
async fn stranger(host: &Host) -> Channel {
    // Without TLS in between there is no certificate either, and the guard is the same.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let routes = host.manager.cluster_routes();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_routes(routes);
    tokio::spawn(async move { server.serve_with_incoming(incoming).await });
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{addr}")).unwrap();
    endpoint.connect().await.unwrap()
}

/// A manager's certificate of a node that is none of the log's members.
fn other_manager(host: &Host, dir: &std::path::Path) -> Arc<Identity> {
    let snapshot = host.manager.snapshot();
    let root = snapshot.cluster().unwrap().root_ca.clone().unwrap();
    let root = RootCa::from_pem(&root.certificate, &root.key).unwrap();
    let subject = pontoon_identity::PeerIdentity {
        node_id: "intruder".into(),
        role: NodeRole::Manager,
        cluster_id: "cluster1".into(),
    };
    let credentials: Credentials = root
        .issue_credentials(&subject, Duration::from_secs(3600))
        .unwrap();
    Identity::install(dir, &credentials).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_messages_on_every_call() {
    let panics = count_panics();
    let host = Host::bootstrap().await;
    let agent = FakeAgent::join(&host, "a1").await;
    wait_ready(&host, 1).await;
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::manager(&host.addr);
    let worker = connect(&agent.identity, &endpoint).await.unwrap();
    let intruder = connect(&other_manager(&host, dir.path()), &endpoint)
        .await
        .unwrap();
    let seconds: Option<u64> = std::env::var("FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = std::env::var("FUZZ_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let until = seconds.map(|seconds| tokio::time::Instant::now() + Duration::from_secs(seconds));
    let good = good();
    let good: Vec<&[u8]> = good.iter().map(Vec::as_slice).collect();
    let framed: Vec<Vec<u8>> = good.iter().map(|message| frame(message)).collect();
    let framed: Vec<&[u8]> = framed.iter().map(Vec::as_slice).collect();
    let mut random = Random::new(seed);
    let (calls, before) = (calls(), resident());
    let mut sent = 0;
    for round in 0.. {
        match until {
            Some(until) if tokio::time::Instant::now() >= until => break,
            None if round == CASES => break,
            _ => {}
        }
        let mut pending = Vec::new();
        for call in &calls {
            for channel in [&stranger_of(&host).await, &worker, &intruder] {
                // Frames that lie as well as messages that are odd.
                let body = match random.below(3) {
                    0 => mutate(&mut random, &framed),
                    1 => frame(&mutate(&mut random, &good)),
                    _ => [
                        frame(&mutate(&mut random, &good)),
                        frame(&mutate(&mut random, &good)),
                    ]
                    .concat(),
                };
                let (channel, call) = (channel.clone(), call.clone());
                pending.push(tokio::spawn(async move { send(&channel, &call, body).await }));
                sent += 1;
            }
        }
        for answer in pending {
            answer.await.unwrap();
        }
        assert_eq!(
            panics.load(Ordering::SeqCst),
            0,
            "round {round} from FUZZ_SEED={seed}"
        );
    }
    assert!(host.manager.stopped().borrow().is_none(), "the log goes on");
    let taken = resident().saturating_sub(before);
    assert!(taken < MEMORY, "{sent} messages took {taken} bytes");
    create(&mut host.client(), "after", 1).await.unwrap();
    eprintln!(
        "{sent} messages on {} calls from FUZZ_SEED={seed}, {taken} bytes more",
        calls.len()
    );
}

/// One for all rounds.
async fn stranger_of(host: &Host) -> Channel {
    static CHANNEL: tokio::sync::OnceCell<Channel> = tokio::sync::OnceCell::const_new();
    CHANNEL.get_or_init(|| stranger(host)).await.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_refused_with_the_limit() {
    let host = Host::bootstrap().await;
    let agent = FakeAgent::join(&host, "a1").await;
    wait_ready(&host, 1).await;
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::manager(&host.addr);
    let worker = connect(&agent.identity, &endpoint).await.unwrap();
    let manager = connect(&other_manager(&host, dir.path()), &endpoint)
        .await
        .unwrap();
    let stranger = stranger(&host).await;
    let before = resident();
    // A length that is claimed and never comes costs nothing.
    let lie = [&[0, 0xff, 0xff, 0xff, 0xff][..], &[0; 64]].concat();
    let large = |bytes: usize| frame(&vec![0x0a; bytes]);
    for (channel, call, bytes) in [
        (&stranger, "/pontoon.v1.Ca/IssueCertificate", 65 << 10),
        (&stranger, "/pontoon.v1.Ca/GetRoot", 65 << 10),
        (&worker, "/pontoon.v1.Dispatcher/ReportImages", 5 << 20),
        (&manager, "/pontoon.v1.Control/ListNodes", 5 << 20),
        (&manager, "/pontoon.v1.Control/ListTasks", 5 << 20),
    ] {
        for body in [large(bytes), lie.clone()] {
            let refused = send(&channel.clone(), call, body).await;
            let refused = refused.unwrap_or_else(|| panic!("{call}: no answer"));
            let known = ["too large", "is not part of the swarm"];
            assert!(
                known.iter().any(|text| refused.message().contains(text)),
                "{call}: {refused:?}"
            );
        }
    }
    assert!(resident().saturating_sub(before) < 256 << 20);
    host.client().list_nodes(ListRequest::default()).await.unwrap();
}
