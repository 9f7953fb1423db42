//! `container prune`.

use clap::Args;
use pontoon_proto::v1::PruneRequest;

use crate::client::Client;
use crate::command::filters;
use crate::command::system::prune::{is_confirmed, tell};
use crate::error::Outcome;

/// `container prune [OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short = 'f', long)]
    force: bool,
}

/// Runs `container prune`.
///
/// # Errors
/// A bad filter, or the daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let filters = filters(&arguments.filter)?;
    if !arguments.force && !is_confirmed("WARNING! This will remove all stopped containers.") {
        return Ok(0);
    }
    let client = Client::connect(host).await?;
    let pruned = client
        .engine()
        .prune_containers(PruneRequest { filters })
        .await?
        .into_inner();
    tell("Deleted Containers:", &pruned);
    Ok(0)
}
