//! `image prune`.

use clap::Args;
use pontoon_proto::v1::{FilterValues, PruneRequest};

use crate::client::Client;
use crate::command::filters;
use crate::command::system::prune::{is_confirmed, tell};
use crate::error::Outcome;

/// `image prune [OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Remove all unused images, not just dangling ones
    #[arg(short = 'a', long)]
    all: bool,
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short = 'f', long)]
    force: bool,
}

/// Runs `image prune`.
///
/// # Errors
/// A bad filter, or the daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let mut filters = filters(&arguments.filter)?;
    let dangling = FilterValues {
        values: vec![(!arguments.all).to_string()],
    };
    filters.insert("dangling".to_owned(), dangling);
    let warning = match arguments.all {
        true => "WARNING! This will remove all images without at least one container associated to them.",
        false => "WARNING! This will remove all dangling images.",
    };
    if !arguments.force && !is_confirmed(warning) {
        return Ok(0);
    }
    let client = Client::connect(host).await?;
    let pruned = client
        .engine()
        .prune_images(PruneRequest { filters })
        .await?
        .into_inner();
    tell("Deleted Images:", &pruned);
    Ok(0)
}
