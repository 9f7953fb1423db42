//! Container commands, under their own names and under `container`.
//!
//! # Layout
//! - [`options`]: the flags that `run` and `create` share, [`config`]: those flags to a request
//! - [`run`], [`start`], [`exec`] (with attach), [`signal`] (stop, kill, wait, …), [`remove`], [`list`], [`logs`], [`copy`] (cp), [`commit`], [`diff`], [`export`]

pub mod commit;
pub mod config;
pub mod copy;
pub mod diff;
pub mod exec;
pub mod export;
pub mod list;
pub mod logs;
pub mod options;
pub mod ports;
pub mod prune;
pub mod remove;
pub mod run;
pub mod signal;
pub mod start;
pub mod stats;
pub mod top;
pub mod update;

use clap::Subcommand;

use crate::error::Outcome;
use crate::usage::run_failure;

/// `pontoon container …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create and run a new container from an image
    Run(Box<run::Arguments>),
    /// Create a new container
    Create(Box<run::CreateArguments>),
    /// Start one or more stopped containers
    Start(start::Arguments),
    /// Stop one or more running containers
    Stop(signal::StopArguments),
    /// Restart one or more containers
    Restart(signal::StopArguments),
    /// Kill one or more running containers
    Kill(signal::KillArguments),
    /// Pause all processes within one or more containers
    Pause(signal::Targets),
    /// Unpause all processes within one or more containers
    Unpause(signal::Targets),
    /// Remove one or more containers
    #[command(visible_alias = "remove")]
    Rm(remove::Arguments),
    /// Rename a container
    Rename(remove::RenameArguments),
    /// Copy files/folders between a container and the local filesystem
    Cp(copy::Arguments),
    /// Export a container's filesystem as a tar archive
    Export(export::Arguments),
    /// Inspect changes to files or directories on a container's filesystem
    Diff(diff::Arguments),
    /// Create a new image from a container's changes
    Commit(commit::Arguments),
    /// Block until one or more containers stop, then print their exit codes
    Wait(signal::Targets),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(list::Arguments),
    /// Fetch the logs of a container
    Logs(logs::Arguments),
    /// Execute a command in a running container
    Exec(exec::Arguments),
    /// Attach local standard input, output, and error streams to a running container
    Attach(exec::AttachArguments),
    /// List port mappings or a specific mapping for the container
    Port(ports::Arguments),
    /// Remove all stopped containers
    Prune(prune::Arguments),
    /// Display a live stream of container(s) resource usage statistics
    Stats(stats::Arguments),
    /// Display the running processes of a container
    Top(top::Arguments),
    /// Update configuration of one or more containers
    Update(update::Arguments),
    /// Display detailed information on one or more containers
    Inspect(super::inspect::ContainerArguments),
}

/// Runs a `container` command.
///
/// # Errors
/// The command's.
pub async fn dispatch(host: Option<&str>, command: Command) -> Outcome {
    match command {
        Command::Run(arguments) => Box::pin(run::run(host, arguments))
            .await
            .map_err(|failure| run_failure("container run", failure)),
        Command::Create(arguments) => Box::pin(run::create(host, arguments))
            .await
            .map_err(|failure| run_failure("container create", failure)),
        Command::Start(arguments) => start::run(host, arguments).await,
        Command::Stop(arguments) => signal::stop(host, arguments).await,
        Command::Restart(arguments) => signal::restart(host, arguments).await,
        Command::Kill(arguments) => signal::kill(host, arguments).await,
        Command::Pause(arguments) => signal::pause(host, arguments).await,
        Command::Unpause(arguments) => signal::unpause(host, arguments).await,
        Command::Rm(arguments) => remove::run(host, arguments).await,
        Command::Rename(arguments) => remove::rename(host, arguments).await,
        Command::Cp(arguments) => copy::run(host, arguments).await,
        Command::Export(arguments) => export::run(host, arguments).await,
        Command::Diff(arguments) => diff::run(host, arguments).await,
        Command::Commit(arguments) => commit::run(host, arguments).await,
        Command::Wait(arguments) => signal::wait(host, arguments).await,
        Command::Ls(arguments) => list::run(host, arguments).await,
        Command::Logs(arguments) => logs::run(host, arguments).await,
        Command::Exec(arguments) => exec::run(host, arguments).await,
        Command::Attach(arguments) => exec::attach(host, arguments).await,
        Command::Port(arguments) => ports::run(host, arguments).await,
        Command::Prune(arguments) => prune::run(host, arguments).await,
        Command::Stats(arguments) => stats::run(host, arguments).await,
        Command::Top(arguments) => top::run(host, arguments).await,
        Command::Update(arguments) => update::run(host, arguments).await,
        Command::Inspect(arguments) => super::inspect::container(host, arguments).await,
    }
}
