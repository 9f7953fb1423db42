//! What ends, pauses and awaits containers: `stop`, `restart`, `kill`, `pause`, `unpause`, `wait`.

use clap::Args;
use pontoon_proto::v1::engine_client::EngineClient;
use pontoon_proto::v1::{
    ContainerRequest, Empty, KillContainerRequest, StopContainerRequest, WaitCondition, WaitContainerRequest,
};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::client::Client;
use crate::error::{Outcome, for_each_at_once, for_each_target};

/// Commands that take containers only.
#[derive(Args, Debug)]
pub struct Targets {
    /// Containers, by name or id
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// `stop|restart [OPTIONS] CONTAINER [CONTAINER...]`
#[derive(Args, Debug)]
pub struct StopArguments {
    /// Signal to send to the container
    #[arg(
        short = 's',
        long,
        value_name = "string",
        default_value = "",
        hide_default_value = true
    )]
    signal: String,
    /// Seconds to wait before killing the container
    #[arg(
        short = 't',
        long,
        visible_alias = "time",
        value_name = "int",
        allow_hyphen_values = true
    )]
    timeout: Option<i32>,
    /// Containers, by name or id
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl StopArguments {
    fn request(&self, target: String) -> StopContainerRequest {
        StopContainerRequest {
            target,
            timeout: self.timeout,
            signal: self.signal.clone(),
        }
    }
}

/// `kill [OPTIONS] CONTAINER [CONTAINER...]`
#[derive(Args, Debug)]
pub struct KillArguments {
    /// Signal to send to the container
    #[arg(
        short = 's',
        long,
        value_name = "string",
        default_value = "",
        hide_default_value = true
    )]
    signal: String,
    /// Containers, by name or id
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

type Engine = EngineClient<Channel>;

/// Makes a call for each container, and prints the names of those for which it went well.
async fn each<F, Fut>(host: Option<&str>, containers: &[String], call: F) -> Outcome
where
    F: Fn(Engine, String) -> Fut,
    Fut: Future<Output = Result<Response<Empty>, Status>>,
{
    let client = Client::connect(host).await?;
    for_each_at_once(containers, |target| {
        let called = call(client.engine(), target.clone());
        async move {
            called.await?;
            Ok(target)
        }
    })
    .await
}

/// Runs `stop`.
///
/// # Errors
/// The daemon's, one line a container.
pub async fn stop(host: Option<&str>, arguments: StopArguments) -> Outcome {
    each(host, &arguments.containers, |mut engine, target| {
        let request = arguments.request(target);
        async move { engine.stop_container(request).await }
    })
    .await
}

/// Runs `restart`; one after the other, as Docker.
///
/// # Errors
/// The daemon's, one line a container.
pub async fn restart(host: Option<&str>, arguments: StopArguments) -> Outcome {
    let client = Client::connect(host).await?;
    for_each_target(&arguments.containers, |target| {
        let (mut engine, request) = (client.engine(), arguments.request(target.clone()));
        async move {
            engine.restart_container(request).await?;
            Ok(target)
        }
    })
    .await
}

/// Runs `kill`.
///
/// # Errors
/// The daemon's, one line a container.
pub async fn kill(host: Option<&str>, arguments: KillArguments) -> Outcome {
    each(host, &arguments.containers, |mut engine, target| {
        let signal = arguments.signal.clone();
        async move {
            engine
                .kill_container(KillContainerRequest { target, signal })
                .await
        }
    })
    .await
}

/// Runs `pause`.
///
/// # Errors
/// The daemon's, one line a container.
pub async fn pause(host: Option<&str>, arguments: Targets) -> Outcome {
    each(host, &arguments.containers, |mut engine, target| async move {
        engine.pause_container(ContainerRequest { target }).await
    })
    .await
}

/// Runs `unpause`.
///
/// # Errors
/// The daemon's, one line a container.
pub async fn unpause(host: Option<&str>, arguments: Targets) -> Outcome {
    each(host, &arguments.containers, |mut engine, target| async move {
        engine.unpause_container(ContainerRequest { target }).await
    })
    .await
}

/// Runs `wait`.
///
/// # Errors
/// The daemon's, one line a container.
pub async fn wait(host: Option<&str>, arguments: Targets) -> Outcome {
    let client = Client::connect(host).await?;
    for_each_target(&arguments.containers, |target| {
        let mut engine = client.engine();
        async move {
            let request = WaitContainerRequest {
                target,
                condition: WaitCondition::NotRunning.into(),
            };
            let ended = engine.wait_container(request).await?.into_inner();
            Ok(ended.exit_code.to_string())
        }
    })
    .await
}
