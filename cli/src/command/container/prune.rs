//! `container prune`.

use clap::Args;
use pontoon_proto::v1::PruneRequest;

use crate::client::Client;
use crate::command::filters;
use crate::command::system::prune::is_confirmed;
use crate::error::Outcome;
use crate::output::{human, listing};

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
    if !pruned.deleted.is_empty() {
        listing::write(&format!("Deleted Containers:\n{}\n\n", pruned.deleted.join("\n")));
    }
    let reclaimed = i64::try_from(pruned.space_reclaimed).unwrap_or(i64::MAX);
    listing::write(&format!("Total reclaimed space: {}\n", human::size(reclaimed)));
    Ok(0)
}
