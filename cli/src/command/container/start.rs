//! `start`.

use clap::Args;
use pontoon_proto::v1::{AttachStart, ContainerRequest};

use super::exec::open_attach;
use super::run::{finish, start_failure_status};
use crate::client::Client;
use crate::error::{EXIT_ENGINE, Failure, Outcome};
use crate::output::listing;
use crate::terminal::{self, DetachKeys};

/// `start [OPTIONS] CONTAINER [CONTAINER...]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short = 'a', long)]
    attach: bool,
    /// Restore from this checkpoint (not supported)
    #[arg(long, value_name = "string")]
    checkpoint: Option<String>,
    /// Use a custom checkpoint storage directory (not supported)
    #[arg(long, value_name = "string")]
    checkpoint_dir: Option<String>,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string", default_value = DetachKeys::DEFAULT, hide_default_value = true)]
    detach_keys: String,
    /// Attach container's STDIN
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Containers to start
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Starts each, goes on after failures, and names those at the end.
async fn start_all(client: &Client, containers: &[String]) -> Outcome {
    let mut failed = Vec::new();
    for target in containers {
        let request = ContainerRequest {
            target: target.clone(),
        };
        match client.engine().start_container(request).await {
            Ok(_) => listing::write(&format!("{target}\n")),
            Err(status) => {
                eprintln!("{}", Failure::from(status));
                failed.push(target.as_str());
            }
        }
    }
    if failed.is_empty() {
        Ok(0)
    } else {
        Err(Failure::new(format!(
            "Error: failed to start containers: {}",
            failed.join(", ")
        )))
    }
}

/// Runs `start`.
///
/// # Errors
/// The daemon's, one line a container; with `-a` the container's exit status.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    for (flag, given) in [
        ("--checkpoint", &arguments.checkpoint),
        ("--checkpoint-dir", &arguments.checkpoint_dir),
    ] {
        if given.is_some() {
            return Err(Failure::new(format!(
                "{flag} is not supported: containers can't be restored from checkpoints"
            )));
        }
    }
    let client = Client::connect(host).await?;
    if !arguments.attach && !arguments.interactive {
        return start_all(&client, &arguments.containers).await;
    }
    let [target] = arguments.containers.as_slice() else {
        return Err(Failure::new(
            "you cannot start and attach multiple containers at once",
        ));
    };
    let keys =
        DetachKeys::parse(&arguments.detach_keys).map_err(|e| Failure::new(e).with_code(EXIT_ENGINE))?;
    let container = client
        .engine()
        .inspect_container(ContainerRequest {
            target: target.clone(),
        })
        .await?
        .into_inner();
    let config = container.config.unwrap_or_default();
    let stdin = arguments.interactive && config.open_stdin;
    let attach = AttachStart {
        target: container.id.clone(),
        stdin,
        stdout: true,
        stderr: true,
        logs: false,
    };
    let session = open_attach(&client, attach).await?;
    let _raw = if config.tty && stdin && terminal::is_interactive() {
        Some(terminal::RawMode::enter()?)
    } else {
        None
    };
    let started = client
        .engine()
        .start_container(ContainerRequest {
            target: container.id.clone(),
        })
        .await;
    if let Err(status) = started {
        let code = start_failure_status(status.message());
        return Err(Failure::from(status).with_code(if code == EXIT_ENGINE { 1 } else { code }));
    }
    let ended = finish(&client, &container.id, session, config.tty, !config.tty, keys).await?;
    Ok(ended.unwrap_or(0))
}
