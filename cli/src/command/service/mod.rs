//! `pontoon service …`.
//!
//! # Layout
//! - [`options`]: the flags of `create` and `update`, [`spec`]: those flags to a `ServiceSpec`
//! - [`create`], [`update`] (with scale and rollback), [`list`] (ls, rm), [`tasks`] (ps), [`logs`], [`pretty`] (inspect --pretty)
//! - [`depends`]: services that wait for others; [`capabilities`]; [`refused`]: flags; [`write`]: a spec that was read before
//! - [`progress`]: waits until services have converged, shared with `stack deploy`

mod capabilities;
pub mod create;
pub mod depends;
pub mod list;
pub mod logs;
pub mod options;
pub mod pretty;
pub mod progress;
mod refused;
pub mod spec;
pub mod tasks;
pub mod update;
pub mod write;

use clap::{Args, Subcommand};
use pontoon_proto::v1::ListTasksRequest;

use crate::client::Client;
use crate::error::Outcome;

/// `pontoon service …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a new service
    Create(Box<create::Arguments>),
    /// Display detailed information on one or more services
    Inspect(InspectArguments),
    /// Fetch the logs of a service or task
    Logs(logs::Arguments),
    /// List services
    #[command(visible_alias = "list")]
    Ls(list::Arguments),
    /// List the tasks of one or more services
    Ps(PsArguments),
    /// Remove one or more services
    #[command(visible_alias = "remove")]
    Rm(list::RemoveArguments),
    /// Revert changes to a service's configuration
    Rollback(update::RollbackArguments),
    /// Scale one or multiple replicated services
    Scale(update::ScaleArguments),
    /// Update a service
    Update(Box<update::Arguments>),
}

/// `service inspect [OPTIONS] SERVICE [SERVICE...]`
#[derive(Args, Debug)]
pub struct InspectArguments {
    #[command(flatten)]
    shared: super::inspect::KindArguments,
    /// Print the information in a human friendly format
    #[arg(long, conflicts_with = "format")]
    pretty: bool,
}

/// `service ps [OPTIONS] SERVICE [SERVICE...]`
#[derive(Args, Debug)]
pub struct PsArguments {
    #[command(flatten)]
    listing: tasks::ListingOptions,
    /// Services, by name or id
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

/// Runs a `service` command.
///
/// # Errors
/// The command's.
pub async fn dispatch(host: Option<&str>, command: Command) -> Outcome {
    if let Command::Inspect(InspectArguments {
        shared,
        pretty: false,
    }) = command
    {
        return super::inspect::one_kind(host, super::inspect::Kind::Service, shared).await;
    }
    let client = Client::connect(host).await?;
    match command {
        Command::Create(arguments) => create::run(&client, *arguments).await,
        Command::Inspect(arguments) => pretty::run(&client, &arguments.shared.names).await,
        Command::Logs(arguments) => logs::run(&client, arguments).await,
        Command::Ls(arguments) => list::run(&client, arguments).await,
        Command::Ps(arguments) => {
            let mut services = Vec::new();
            for name in &arguments.services {
                let request = pontoon_proto::v1::GetRequest { target: name.clone() };
                services.push(client.control().get_service(request).await?.into_inner().id);
            }
            tasks::print(
                &client,
                ListTasksRequest {
                    services,
                    ..Default::default()
                },
                &arguments.listing,
            )
            .await
        }
        Command::Rm(arguments) => list::remove(&client, arguments).await,
        Command::Rollback(arguments) => update::rollback(&client, arguments).await,
        Command::Scale(arguments) => update::scale(&client, arguments).await,
        Command::Update(arguments) => Box::pin(update::run(&client, *arguments)).await,
    }
}
