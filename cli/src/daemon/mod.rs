//! `pontoon daemon`: the parts of a node put together. Called by `main` only.
//!
//! # Layout
//! - [`config`]: flags to settings, [`file`]: the settings file to flags; [`local`]: the services of the local socket; [`address`]: which address to advertise
//! - [`membership`]: this node's place in a cluster: init, join, leave, what is kept of it on disk
//! - [`service`]: the Swarm service over it; [`roles`]: promotion and demotion
//! - [`recovery`]: a cluster begun anew or restored; [`backups`]: on a schedule
//! - [`port`]: the cluster port; [`images`]: what services' images are pinned to
//! - [`node`]: what runs while the node is in a cluster: agent, and on managers the controller; [`supervise`]: brings that back after a full
//!   disk; [`unlock`]: autolock
//!
//! # Start order
//! folders and lock → engine (finds running containers again) → local socket → cluster part, if the node is in one. Stopping is the
//! same backwards; containers and `netd` go on.

mod address;
mod backups;
mod config;
pub mod file;
mod images;
mod local;
mod membership;
mod node;
mod port;
mod recovery;
mod reload;
mod roles;
mod service;
mod supervise;
mod unlock;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pontoon_engine::{BuildInfo, Engine, EngineConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{Failure, Outcome};
pub use backups::keep as keep_file;
pub use config::Arguments;
use config::Config;
use membership::Membership;

/// So long may calls of clients take to end once the daemon stops; then they are cut off.
const LAST_CALLS: Duration = Duration::from_secs(2);

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// When it can't start: bad settings, another daemon on the same folders, a damaged state.
pub async fn run(arguments: Arguments) -> Outcome {
    let config = Config::new(arguments)?;
    let set_level = config::start_logging(&config);
    config.make_folders()?;
    let _locks = [lock(&config.data_dir)?, lock(&config.run_dir)?];
    let engine = Engine::open(engine_config(&config))
        .await
        .map_err(|error| Failure::new(describe(&error)))?;
    let stop = CancellationToken::new();
    let membership = Membership::open(&config, engine.clone()).map_err(Failure::from)?;
    let mut server = local::serve(&config, engine.clone(), membership.clone(), stop.clone())?;
    tracing::info!(socket = %config.socket().display(), "Pontoon daemon is ready");
    membership.resume().await;
    pontoon_runtime::trim_memory();
    wait_for_signal(&engine, &set_level).await?;
    tracing::info!("stopping; containers go on");
    membership.stop().await;
    stop.cancel();
    // The engine ends what its callers wait for: logs that are followed, stops with a long grace period.
    engine.shutdown().await;
    match tokio::time::timeout(LAST_CALLS, &mut server).await {
        Ok(Ok(Ok(()))) => Ok(0),
        Ok(Ok(Err(error))) => Err(Failure::new(format!("serve the local socket: {error}"))),
        Ok(Err(error)) => Err(Failure::new(format!("serve the local socket: {error}"))),
        Err(_) => {
            server.abort();
            // The task that serves would have removed it.
            let _ = std::fs::remove_file(config.socket());
            Ok(0)
        }
    }
}

/// Until SIGTERM or SIGINT; SIGHUP reloads the settings.
async fn wait_for_signal(engine: &Engine, set_level: &reload::SetLevel) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => reload::reload(engine, set_level),
        }
    }
}

/// Takes one of the daemon's folders for this process; the lock goes with it.
fn lock(folder: &Path) -> Result<File, Failure> {
    use rustix::fs::{FlockOperation, flock};
    let path = folder.join("daemon.lock");
    let file =
        File::create(&path).map_err(|error| Failure::new(format!("create {}: {error}", path.display())))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Failure::new(format!(
            "another daemon uses {}: stop it, or give this one its own --data-dir and --run-dir",
            folder.display()
        ))
    })?;
    Ok(file)
}

fn engine_config(config: &Config) -> EngineConfig {
    let mut engine = EngineConfig::new(&config.data_dir, &config.run_dir);
    engine.cgroup_parent.clone_from(&config.cgroup_parent);
    engine.default_runtime.clone_from(&config.default_runtime);
    engine.log = config.log.clone();
    engine.runtimes.extend(config.runtimes.clone());
    engine.labels.clone_from(&config.labels);
    engine.generic_resources.clone_from(&config.generic_resources);
    engine.networks = config.networks.clone();
    engine.registries = config.registries.clone();
    engine.containers = config.containers.defaults.clone();
    engine.userns_remap.clone_from(&config.containers.userns_remap);
    engine.storage.clone_from(&config.storage);
    engine.image_gc.clone_from(&config.image_gc);
    engine.in_cluster = membership::has_cluster(&config.data_dir);
    engine.build = BuildInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..BuildInfo::default()
    };
    engine
}

/// An error with all of its causes, in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

/// The engine and what the node makes of it, shared by the local services.
pub(crate) type SharedEngine = Arc<Engine>;
