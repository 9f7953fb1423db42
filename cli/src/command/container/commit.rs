//! `commit`: an image from a container's changes.

use clap::Args;
use pontoon_proto::v1::CommitContainerRequest;

use crate::client::Client;
use crate::error::Outcome;
use crate::output::listing;

/// `commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(
        short = 'a',
        long,
        value_name = "string",
        default_value = "",
        hide_default_value = true
    )]
    author: String,
    /// Apply Dockerfile instruction to the created image
    #[arg(short = 'c', long, value_name = "list")]
    change: Vec<String>,
    /// Commit message
    #[arg(
        short = 'm',
        long,
        value_name = "string",
        default_value = "",
        hide_default_value = true
    )]
    message: String,
    /// Pause container during commit (default true)
    #[arg(
        short = 'p',
        long,
        value_name = "bool",
        default_value = "true",
        default_missing_value = "true",
        hide_default_value = true,
        num_args = 0..=1,
        require_equals = true
    )]
    pause: bool,
    /// The container
    container: String,
    /// Name for the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

/// Runs `commit`.
///
/// # Errors
/// The daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let request = CommitContainerRequest {
        target: arguments.container,
        reference: arguments.reference.unwrap_or_default(),
        author: arguments.author,
        message: arguments.message,
        changes: arguments.change,
        pause: arguments.pause,
    };
    let client = Client::connect(host).await?;
    let committed = client.engine().commit_container(request).await?.into_inner();
    listing::write(&format!("{}\n", committed.id));
    Ok(0)
}
