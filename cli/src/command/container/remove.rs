//! `rm` and `rename`.

use clap::Args;
use pontoon_proto::v1::{RemoveContainerRequest, RenameContainerRequest};

use crate::client::Client;
use crate::error::{Failure, Outcome, for_each_target};

/// `rm [OPTIONS] CONTAINER [CONTAINER...]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short = 'f', long)]
    force: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(short = 'v', long)]
    volumes: bool,
    /// Containers, by name or id
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// `rename CONTAINER NEW_NAME`
#[derive(Args, Debug)]
pub struct RenameArguments {
    /// The container
    container: String,
    /// Its new name
    new_name: String,
}

/// Runs `rm`.
///
/// # Errors
/// The daemon's, one line a container; with `-f` a missing container is told but is no failure.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let client = Client::connect(host).await?;
    for_each_target(&arguments.containers, |target| {
        let client = client.clone();
        let (force, volumes) = (arguments.force, arguments.volumes);
        async move {
            let request = RemoveContainerRequest {
                target: target.clone(),
                force,
                volumes,
            };
            match client.engine().remove_container(request).await {
                Ok(_) => Ok(target),
                Err(status) if force && status.code() == tonic::Code::NotFound => {
                    eprintln!("{}", Failure::from(status));
                    Ok(String::new())
                }
                Err(status) => Err(status.into()),
            }
        }
    })
    .await
}

/// Runs `rename`.
///
/// # Errors
/// The daemon's.
pub async fn rename(host: Option<&str>, arguments: RenameArguments) -> Outcome {
    let client = Client::connect(host).await?;
    let request = RenameContainerRequest {
        target: arguments.container,
        name: arguments.new_name,
    };
    client.engine().rename_container(request).await?;
    Ok(0)
}
