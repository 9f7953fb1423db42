//! What ends, pauses and awaits containers: `stop`, `restart`, `kill`, `pause`, `unpause`, `wait`.

use clap::Args;
use pontoon_proto::v1::{
    ContainerRequest, KillContainerRequest, StopContainerRequest, WaitCondition, WaitContainerRequest,
};

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

/// Runs `stop`.
///
/// # Errors
/// The daemon's, one line a container.
pub async fn stop(host: Option<&str>, arguments: StopArguments) -> Outcome {
    let client = Client::connect(host).await?;
    let StopArguments {
        signal,
        timeout,
        containers,
    } = arguments;
    for_each_at_once(&containers, |target| {
        let (client, signal) = (client.clone(), signal.clone());
        async move {
            client
                .engine()
                .stop_container(StopContainerRequest {
                    target: target.clone(),
                    timeout,
                    signal,
                })
                .await?;
            Ok(target)
        }
    })
    .await
}

/// Runs `restart`.
///
/// # Errors
/// The daemon's, one line a container.
pub async fn restart(host: Option<&str>, arguments: StopArguments) -> Outcome {
    let client = Client::connect(host).await?;
    let StopArguments {
        signal,
        timeout,
        containers,
    } = arguments;
    for_each_target(&containers, |target| {
        let (client, signal) = (client.clone(), signal.clone());
        async move {
            client
                .engine()
                .restart_container(StopContainerRequest {
                    target: target.clone(),
                    timeout,
                    signal,
                })
                .await?;
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
    let client = Client::connect(host).await?;
    for_each_at_once(&arguments.containers, |target| {
        let (client, signal) = (client.clone(), arguments.signal.clone());
        async move {
            client
                .engine()
                .kill_container(KillContainerRequest {
                    target: target.clone(),
                    signal,
                })
                .await?;
            Ok(target)
        }
    })
    .await
}

/// Runs `pause`.
///
/// # Errors
/// The daemon's, one line a container.
pub async fn pause(host: Option<&str>, arguments: Targets) -> Outcome {
    let client = Client::connect(host).await?;
    for_each_at_once(&arguments.containers, |target| {
        let client = client.clone();
        async move {
            client
                .engine()
                .pause_container(ContainerRequest {
                    target: target.clone(),
                })
                .await?;
            Ok(target)
        }
    })
    .await
}

/// Runs `unpause`.
///
/// # Errors
/// The daemon's, one line a container.
pub async fn unpause(host: Option<&str>, arguments: Targets) -> Outcome {
    let client = Client::connect(host).await?;
    for_each_at_once(&arguments.containers, |target| {
        let client = client.clone();
        async move {
            client
                .engine()
                .unpause_container(ContainerRequest {
                    target: target.clone(),
                })
                .await?;
            Ok(target)
        }
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
        let client = client.clone();
        async move {
            let request = WaitContainerRequest {
                target,
                condition: WaitCondition::NotRunning.into(),
            };
            Ok(client
                .engine()
                .wait_container(request)
                .await?
                .into_inner()
                .exit_code
                .to_string())
        }
    })
    .await
}
