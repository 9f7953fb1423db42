//! `builder prune`.

use clap::Args;
use pontoon_proto::v1::{FilterValues, PruneRequest};

use crate::client::Client;
use crate::command::filters;
use crate::command::system::prune::{is_confirmed, tell};
use crate::error::Outcome;
use crate::output::human::parse_size;

/// `builder prune [OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Remove all unused build cache, not just dangling ones
    #[arg(short = 'a', long)]
    all: bool,
    /// Provide filter values (e.g. "until=24h")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short = 'f', long)]
    force: bool,
    /// Amount of disk space to keep for cache
    #[arg(long, value_name = "bytes", value_parser = parse_size, default_value = "0", hide_default_value = true)]
    keep_storage: i64,
}

/// Runs `builder prune`.
///
/// # Errors
/// A bad filter, or the daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let mut filters = filters(&arguments.filter)?;
    let mut add = |key: &str, value: String| {
        filters.insert(key.to_owned(), FilterValues { values: vec![value] });
    };
    if arguments.all {
        add("all", "true".into());
    }
    if arguments.keep_storage > 0 {
        add("keep-storage", arguments.keep_storage.to_string());
    }
    let warning = match arguments.all {
        true => "WARNING! This will remove all build cache.",
        false => "WARNING! This will remove all dangling build cache.",
    };
    if !arguments.force && !is_confirmed(warning) {
        return Ok(0);
    }
    let client = Client::connect(host).await?;
    let pruned = client
        .engine()
        .prune_build_cache(PruneRequest { filters })
        .await?
        .into_inner();
    tell("Deleted build cache objects:", &pruned);
    Ok(0)
}
