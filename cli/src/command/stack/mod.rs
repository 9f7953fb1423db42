//! `pontoon stack …`.

use clap::Subcommand;

use crate::error::Outcome;

/// `pontoon stack …`
#[derive(Debug, Subcommand)]
pub enum Command {}

/// Runs a `stack` command.
///
/// # Errors
/// The command's.
pub async fn dispatch(_host: Option<&str>, command: Command) -> Outcome {
    match command {}
}
