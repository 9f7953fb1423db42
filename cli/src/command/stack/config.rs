//! `stack config`: the files as one, with their variables filled in. Asks no daemon.

use std::path::PathBuf;

use clap::Args;

use crate::compose;
use crate::error::{Failure, Outcome};
use crate::output::listing;

/// `stack config [OPTIONS]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Path to a Compose file, or "-" to read from stdin
    #[arg(short = 'c', long, value_name = "strings", required = true)]
    compose_file: Vec<PathBuf>,
    /// Skip interpolation and output only merged config
    #[arg(long)]
    skip_interpolation: bool,
}

/// Runs `stack config`. With variables filled in, the result is checked as `stack deploy` would.
///
/// # Errors
/// All mistakes of the files.
pub fn run(arguments: &Arguments) -> Outcome {
    let sources = super::deploy::sources(&arguments.compose_file)?;
    let lookup = |name: &str| std::env::var(name).ok();
    let lookup: compose::Lookup<'_> = &lookup;
    if !arguments.skip_interpolation {
        super::deploy::load(&arguments.compose_file, &sources)?;
    }
    let lookup = (!arguments.skip_interpolation).then_some(lookup);
    let merged = compose::merged(&sources, lookup).map_err(|error| Failure::new(error.to_string()))?;
    listing::write(&compose::emit(&merged));
    Ok(0)
}
