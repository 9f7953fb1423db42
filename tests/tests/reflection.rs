//! Server reflection on the local socket: tools like grpcurl find the services without our `.proto` files.

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use pontoon_tests::{Fleet, with_fleet};
use tonic::transport::{Channel, Endpoint};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

async fn connect(socket: String) -> Result<Channel> {
    let path = socket.strip_prefix("unix://").unwrap_or(&socket).to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://local")
        .connect_with_connector(connector)
        .await?)
}

async fn ask(channel: Channel, request: MessageRequest) -> Result<MessageResponse> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await?
        .into_inner();
    let answer = answers.message().await?.context("no answer")?;
    answer.message_response.context("an empty answer")
}

async fn check(socket: String) -> Result<()> {
    let channel = connect(socket).await?;
    let list = MessageRequest::ListServices(String::new());
    let MessageResponse::ListServicesResponse(listed) = ask(channel.clone(), list).await? else {
        anyhow::bail!("no list of services");
    };
    let names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    for service in ["Engine", "Swarm", "Control"] {
        ensure!(
            names.contains(&format!("pontoon.v1.{service}")),
            "{service} is not in {names:?}"
        );
    }
    let symbol = MessageRequest::FileContainingSymbol("pontoon.v1.Engine.CreateContainer".to_owned());
    let MessageResponse::FileDescriptorResponse(file) = ask(channel, symbol).await? else {
        anyhow::bail!("no description of a method");
    };
    ensure!(!file.file_descriptor_proto.is_empty(), "an empty description");
    Ok(())
}

#[test]
fn the_local_socket_describes_itself() {
    with_fleet(1, |fleet: &Fleet| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(check(fleet.host(1).socket()))
    });
}
