//! `pontoon daemon`: the parts of a node put together.

use clap::Args;

use crate::error::Outcome;

/// `daemon [OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {}

/// Runs the daemon.
///
/// # Errors
/// When it can't start.
pub async fn run(_arguments: Arguments) -> Outcome {
    Ok(0)
}
