//! `rm` and `rename`.

use clap::Args;
use pontoon_proto::v1::{RemoveContainerRequest, RenameContainerRequest};

use crate::client::Client;
use crate::error::{Failure, Outcome, for_each_at_once};

/// `rm [OPTIONS] CONTAINER [CONTAINER...]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short = 'f', long)]
    force: bool,
    /// Remove the specified link
    #[arg(short = 'l', long)]
    link: bool,
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
    if arguments.link {
        return Err(no_link(&arguments.containers));
    }
    let client = Client::connect(host).await?;
    for_each_at_once(&arguments.containers, |target| {
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

/// Links are part of a container's settings from its creation to its end; the daemon keeps none that could be removed by itself.
fn no_link(names: &[String]) -> Failure {
    let refused = names.iter().map(|name| {
        if name.trim_start_matches('/').contains('/') {
            format!("--link: {name} can't be removed: a link lasts as long as its container")
        } else {
            "Error response from daemon: Conflict, cannot remove the default link name of the container"
                .to_owned()
        }
    });
    Failure::new(refused.collect::<Vec<_>>().join("\n"))
}

/// Runs `rename`.
///
/// # Errors
/// The daemon's.
pub async fn rename(host: Option<&str>, arguments: RenameArguments) -> Outcome {
    if arguments.container.is_empty() || arguments.new_name.is_empty() {
        return Err(Failure::new("Error: Neither old nor new names may be empty"));
    }
    let client = Client::connect(host).await?;
    let request = RenameContainerRequest {
        target: arguments.container.clone(),
        name: arguments.new_name,
    };
    match client.engine().rename_container(request).await {
        Ok(_) => Ok(0),
        Err(status) => Err(Failure::new(format!(
            "{}\nError: failed to rename container named {}",
            Failure::from(status),
            arguments.container
        ))),
    }
}
