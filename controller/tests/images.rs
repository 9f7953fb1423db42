//! Images of services: pinned by the manager that is asked, by what nodes have, or as they were; credentials, which come back to nobody
//! but the agents; and who is told where an image is.

#![allow(clippy::unwrap_used)]

mod support;

use pontoon_identity::{Endpoint, connect};
use pontoon_proto::v1::dispatcher_client::DispatcherClient;
use pontoon_proto::v1::find_image_response::Answer;
use pontoon_proto::v1::{
    CheckImageRequest, CreateServiceRequest, FindImageRequest, GetRequest, ImageName, RegistryAuth,
    ReportFetchRequest, ReportImagesRequest, Service, ServiceSpec, UpdateServiceRequest,
};
use support::{FakeAgent, Host, eventually, spec, wait_ready, wait_running};
use tonic::Code;
use tonic::transport::Channel;

fn with_image(image: &str, auth: Option<RegistryAuth>) -> ServiceSpec {
    let mut spec = spec("web", 1);
    let task = spec.task.as_mut().unwrap();
    image.clone_into(&mut task.container.as_mut().unwrap().image);
    task.registry_auth = auth;
    spec
}

fn auth(password: &str) -> Option<RegistryAuth> {
    Some(RegistryAuth {
        username: "user".to_owned(),
        password: password.to_owned(),
        ..RegistryAuth::default()
    })
}

fn image(service: &Service) -> &str {
    let task = service.spec.as_ref().unwrap().task.as_ref().unwrap();
    &task.container.as_ref().unwrap().image
}

async fn create(host: &Host, spec: ServiceSpec) -> Service {
    let request = CreateServiceRequest {
        spec: Some(spec),
        resolve_image: true,
    };
    host.client().create_service(request).await.unwrap().into_inner()
}

async fn update(host: &Host, spec: ServiceSpec, unless_same: bool) -> Service {
    let request = UpdateServiceRequest {
        target: "web".into(),
        spec: Some(spec),
        resolve_image: true,
        unless_same,
        ..UpdateServiceRequest::default()
    };
    host.client().update_service(request).await.unwrap().into_inner()
}

async fn dispatcher(agent: &FakeAgent, host: &Host) -> DispatcherClient<Channel> {
    let channel = connect(&agent.identity, &Endpoint::manager(&host.addr)).await;
    DispatcherClient::new(channel.unwrap())
}

/// The digest that begins with zeros and ends so.
fn digest(end: &str) -> String {
    format!("sha256:{end:0>64}")
}

fn pinned(name: &str, end: &str) -> String {
    format!("{name}@{}", digest(end))
}

/// What a node has under a name.
async fn report(agent: &FakeAgent, host: &Host, name: &str, digest: &str) {
    let request = ReportImagesRequest {
        images: vec![digest.to_owned()],
        names: vec![ImageName {
            name: name.to_owned(),
            image: digest.to_owned(),
        }],
    };
    let mut client = dispatcher(agent, host).await;
    client.report_images(request).await.unwrap();
}

#[tokio::test]
async fn images_are_pinned_as_far_as_anybody_knows_them() {
    let host = Host::bootstrap().await;
    let follower = Host::join(&host).await;
    host.wait_voters(2).await;
    let agents = [
        FakeAgent::join(&host, "a1").await,
        FakeAgent::join(&host, "a2").await,
    ];
    wait_ready(&host, 2).await;

    // The manager that is asked resolves it, also when another one leads; with what the user has sent.
    let service = create(&follower, with_image("known", auth("aa"))).await;
    assert_eq!(image(&service), pinned("known:latest", "aa"));
    let service = update(&follower, with_image("known:1", auth("aa")), false).await;
    assert_eq!(image(&service), pinned("known:1", "aa"));

    // What nobody knows stays as it is typed; then a node reports it; then another says something else.
    let service = update(&host, with_image("app", None), false).await;
    assert_eq!(image(&service), "app");
    report(&agents[0], &host, "app:latest", &digest("11")).await;
    let service = update(&host, with_image("app", None), false).await;
    assert_eq!(image(&service), pinned("app:latest", "11"));
    report(&agents[1], &host, "app:latest", &digest("22")).await;
    let service = update(&host, with_image("app", None), false).await;
    assert_eq!(
        image(&service),
        pinned("app:latest", "11"),
        "what is pinned stays"
    );
    let service = update(&host, with_image("app:2", None), false).await;
    assert_eq!(image(&service), "app:2", "another name is not");

    // Not asked for: as it is typed.
    let request = UpdateServiceRequest {
        target: "web".into(),
        spec: Some(with_image("known:1", None)),
        ..UpdateServiceRequest::default()
    };
    let typed = host.client().update_service(request).await.unwrap().into_inner();
    assert_eq!(image(&typed), "known:1");
}

#[tokio::test]
async fn what_comes_out_the_same_changes_nothing_if_that_is_wished() {
    let host = Host::bootstrap().await;
    let first = create(&host, with_image("known:1", auth("aa"))).await;
    let again = update(&host, with_image("known:1", auth("aa")), true).await;
    assert_eq!(again, first);
    let moved = update(&host, with_image("known:1", auth("bb")), true).await;
    assert_eq!(image(&moved), pinned("known:1", "bb"));
    assert!(moved.previous_spec.is_some());
    let plain = update(&host, with_image("known:1", auth("bb")), false).await;
    assert!(plain.meta.unwrap().version > moved.meta.unwrap().version);
}

#[tokio::test]
async fn credentials_go_to_agents_only_and_stay_until_others_come() {
    let host = Host::bootstrap().await;
    let agent = FakeAgent::join(&host, "a1").await;
    wait_ready(&host, 1).await;
    let assigned = || {
        let known = agent.known.lock().unwrap();
        let task = known.assigned.values().next()?.clone();
        task.spec?.registry_auth
    };
    let service = create(&host, with_image("known:1", auth("aabbcc"))).await;
    assert_eq!(image(&service), pinned("known:1", "aabbcc"));
    wait_running(&host.client(), "web", 1).await;
    assert_eq!(assigned(), auth("aabbcc"));
    let mut same = with_image("known:2", None);
    same.annotations
        .as_mut()
        .unwrap()
        .labels
        .insert("a".into(), "b".into());
    let updated = update(&host, same, false).await;
    let got = host
        .client()
        .get_service(GetRequest { target: "web".into() })
        .await
        .unwrap()
        .into_inner();
    for spec in got.spec.iter().chain(&got.previous_spec) {
        assert_eq!(spec.task.as_ref().unwrap().registry_auth, None);
    }
    for retained in &got.retained {
        let task = retained.spec.as_ref().unwrap().task.as_ref().unwrap();
        assert_eq!(task.registry_auth, None);
    }
    eventually("the new task has them too", || async {
        let image_of = |task: &pontoon_proto::v1::TaskAssignment| {
            Some(task.spec.as_ref()?.container.as_ref()?.image.clone())
        };
        let known = agent.known.lock().unwrap();
        let new = known
            .assigned
            .values()
            .find(|task| image_of(task).is_some_and(|image| image.starts_with("known:2")))?;
        (new.spec.as_ref()?.registry_auth == auth("aabbcc")).then_some(())
    })
    .await;
    // Empty ones end it; for that alone no task is replaced.
    wait_running(&host.client(), "web", 1).await;
    let before = updated.spec_version;
    let mut ended = updated.spec.clone().unwrap();
    ended.task.as_mut().unwrap().registry_auth = Some(RegistryAuth::default());
    let updated = update(&host, ended, false).await;
    assert_eq!(updated.spec_version, before);
    let snapshot = host.manager.snapshot();
    let stored = snapshot.find_service("web").unwrap();
    let task = stored.spec.as_ref().unwrap().task.as_ref().unwrap();
    assert_eq!(task.registry_auth, None);
}

#[tokio::test]
async fn only_a_node_that_runs_it_is_told_where_an_image_is() {
    let host = Host::bootstrap().await;
    let agents = [
        FakeAgent::join(&host, "a1").await,
        FakeAgent::join(&host, "a2").await,
    ];
    wait_ready(&host, 2).await;
    create(&host, with_image("known:1", auth("aa"))).await;
    wait_running(&host.client(), "web", 1).await;
    let (runs, other) = match agents[0].wanted() {
        1 => (&agents[0], &agents[1]),
        _ => (&agents[1], &agents[0]),
    };
    let request = |image: &str| FindImageRequest {
        image: image.to_owned(),
        ..FindImageRequest::default()
    };
    report(other, &host, "known:1", &digest("aa")).await;
    report(runs, &host, "other:1", &digest("bb")).await;
    let mut asks = dispatcher(runs, &host).await;
    let answer = asks
        .find_image(request(&digest("aa")))
        .await
        .unwrap()
        .into_inner();
    let Some(Answer::Peers(peers)) = answer.answer else {
        panic!("{answer:?}")
    };
    assert_eq!(peers.peers.len(), 1);
    assert_eq!(peers.peers[0].node_id, other.node_id());
    let mut stranger = dispatcher(other, &host).await;
    for (client, image) in [(&mut stranger, digest("aa")), (&mut asks, digest("bb"))] {
        let refused = client.find_image(request(&image)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        let report = ReportFetchRequest {
            image: image.clone(),
            ..ReportFetchRequest::default()
        };
        let refused = client.report_fetch(report).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    // The holder asks whether it may give it.
    let mut allowed = async |node: String, image: &str| {
        let request = CheckImageRequest {
            image: image.to_owned(),
            node_id: node,
        };
        stranger.check_image(request).await.unwrap().into_inner().allowed
    };
    assert!(allowed(runs.node_id(), &digest("aa")).await);
    assert!(!allowed(runs.node_id(), &digest("bb")).await);
    assert!(!allowed(other.node_id(), &digest("aa")).await);
    assert!(!allowed("nobody".into(), &digest("aa")).await);
}
