//! SIGHUP: the daemon's settings are read again. What can change while it runs does (labels, generic resources, logging level, registries); for the rest a
//! restart is due, which containers don't notice. Called by the daemon's main loop.

use pontoon_engine::Engine;
use tracing_subscriber::filter::LevelFilter;

use super::config::Config;
use crate::cli;
use crate::error::Failure;

/// Sets the daemon's logging level.
pub type SetLevel = Box<dyn Fn(LevelFilter) + Send + Sync>;

/// Reads command line, environment and settings file anew and takes over what can change. Settings that are no good change
/// nothing.
pub fn reload(engine: &Engine, set_level: &SetLevel) {
    match read() {
        Ok(config) => {
            set_level(config.log_level());
            engine.reload(config.labels, config.generic_resources, config.registries);
            tracing::info!(
                "settings reloaded; those other than label, node-generic-resource, log-level and registries' take effect at the next start"
            );
        }
        Err(failure) => tracing::error!(error = %failure, "settings not reloaded"),
    }
}

fn read() -> Result<Config, Failure> {
    let arguments = cli::parse()?.into_daemon();
    let arguments = arguments.ok_or_else(|| Failure::new("the command line is no longer the daemon's"))?;
    Config::new(arguments)
}
