//! Managers in this process, with real logs in temporary folders and real mTLS on loopback; and fake agents that speak the
//! dispatcher's protocol.

#![allow(clippy::unwrap_used, dead_code, unused_imports)] // Each test binary uses its part.

mod agent;
mod host;
pub mod store;

use std::future::Future;
use std::time::Duration;

use pontoon_proto::v1::control_client::ControlClient;
use pontoon_proto::v1::{
    Annotations, ContainerSpec, CreateServiceRequest, ListRequest, Node, NodeRole, NodeSpec, NodeState,
    ReplicatedMode, Service, ServiceSpec, TaskSpec, UpdateNodeRequest, service_spec::Mode,
};
use tonic::transport::Channel;

pub use agent::FakeAgent;
pub use host::Host;

/// Asks until the answer is `Some`; fails with `what` after a minute.
pub async fn eventually<T, F, Fut>(what: &str, mut ask: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "not within a minute: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn spec(name: &str, replicas: u64) -> ServiceSpec {
    let container = ContainerSpec {
        image: "busybox".to_owned(),
        ..ContainerSpec::default()
    };
    ServiceSpec {
        annotations: Some(Annotations {
            name: name.to_owned(),
            ..Annotations::default()
        }),
        task: Some(TaskSpec {
            container: Some(container),
            ..TaskSpec::default()
        }),
        mode: Some(Mode::Replicated(ReplicatedMode { replicas })),
        ..ServiceSpec::default()
    }
}

pub async fn create(
    client: &mut ControlClient<Channel>,
    name: &str,
    replicas: u64,
) -> Result<Service, tonic::Status> {
    let request = CreateServiceRequest {
        spec: Some(spec(name, replicas)),
        ..CreateServiceRequest::default()
    };
    client
        .create_service(request)
        .await
        .map(tonic::Response::into_inner)
}

/// Running tasks of a service, as `service ls` shows them.
pub async fn running(client: &mut ControlClient<Channel>, name: &str) -> u64 {
    let request = ListRequest {
        names: vec![name.to_owned()],
        ..ListRequest::default()
    };
    match client.list_services(request).await {
        Ok(list) => list
            .into_inner()
            .services
            .first()
            .map_or(0, |status| status.running_tasks),
        Err(_) => 0,
    }
}

pub async fn wait_running(client: &ControlClient<Channel>, name: &str, count: u64) {
    eventually(&format!("{count} tasks of {name} run"), || {
        let mut client = client.clone();
        async move { (running(&mut client, name).await == count).then_some(()) }
    })
    .await;
}

pub async fn wait_ready(host: &Host, count: usize) {
    eventually(&format!("{count} nodes are ready"), || async {
        let nodes = host
            .client()
            .list_nodes(ListRequest::default())
            .await
            .ok()?
            .into_inner()
            .nodes;
        let ready = |node: &&Node| {
            node.status
                .as_ref()
                .is_some_and(|status| status.state() == NodeState::Ready)
        };
        (nodes.iter().filter(ready).count() == count).then_some(())
    })
    .await;
}

/// Three managers that vote.
pub async fn three() -> Vec<Host> {
    let first = Host::bootstrap().await;
    let second = Host::join(&first).await;
    // Through a follower: the certificate and the membership are the leader's to give.
    let third = Host::join(&second).await;
    let hosts = vec![first, second, third];
    for host in &hosts {
        host.wait_voters(3).await;
    }
    hosts
}

/// A wish for a node's role.
pub fn role(target: &str, role: NodeRole) -> UpdateNodeRequest {
    UpdateNodeRequest {
        target: target.to_owned(),
        version: 0,
        spec: Some(NodeSpec {
            role: role.into(),
            ..NodeSpec::default()
        }),
    }
}
