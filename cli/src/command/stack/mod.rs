//! `pontoon stack …`: the services and networks of Compose files as one thing.
//!
//! # Layout
//! - [`deploy`]: makes a stack so, [`change`]: what that takes, worked out from the cluster's objects alone
//! - [`remove`]: takes a stack away, and its networks once their tasks are gone
//! - [`list`]: ls, ps, services; [`config`]: the merged files
//!
//! The files themselves are [`compose`](crate::compose)'s.

mod change;
mod config;
mod deploy;
mod list;
mod remove;

use clap::Subcommand;
use pontoon_proto::v1::{Annotations, ListRequest, Service, ServiceSpec, ServiceStatus};

use crate::client::Client;
use crate::compose::NAMESPACE_LABEL;
use crate::error::{Failure, Outcome};

/// `pontoon stack …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Outputs the final config file, after doing merges and interpolations
    Config(config::Arguments),
    /// Deploy a new stack or update an existing stack
    #[command(visible_alias = "up")]
    Deploy(deploy::Arguments),
    /// List stacks
    #[command(visible_alias = "list")]
    Ls(list::Arguments),
    /// List the tasks in the stack
    Ps(list::PsArguments),
    /// Remove one or more stacks
    #[command(visible_aliases = ["down", "remove"])]
    Rm(remove::Arguments),
    /// List the services in the stack
    Services(list::ServicesArguments),
}

/// Runs a `stack` command.
///
/// # Errors
/// The command's.
pub async fn dispatch(host: Option<&str>, command: Command) -> Outcome {
    match command {
        Command::Config(arguments) => config::run(&arguments),
        Command::Deploy(arguments) => Box::pin(deploy::run(host, arguments)).await,
        Command::Ls(arguments) => list::run(host, arguments).await,
        Command::Ps(arguments) => list::tasks(host, arguments).await,
        Command::Rm(arguments) => remove::run(host, arguments).await,
        Command::Services(arguments) => list::services(host, arguments).await,
    }
}

/// The label that all objects of a stack have.
fn label_of(stack: &str) -> String {
    format!("{NAMESPACE_LABEL}={stack}")
}

/// The services of a stack, or of all stacks, by name.
async fn services_of(client: &Client, stack: Option<&str>) -> Result<Vec<ServiceStatus>, Failure> {
    let request = ListRequest {
        labels: vec![stack.map_or(NAMESPACE_LABEL.to_owned(), label_of)],
        ..Default::default()
    };
    let mut services = client
        .control()
        .list_services(request)
        .await?
        .into_inner()
        .services;
    services.sort_by(|a, b| service_name(a.service.as_ref()).cmp(service_name(b.service.as_ref())));
    Ok(services)
}

fn spec_name(spec: &ServiceSpec) -> &str {
    name_of(spec.annotations.as_ref())
}

fn service_name(service: Option<&Service>) -> &str {
    service
        .and_then(|service| service.spec.as_ref())
        .map_or("", spec_name)
}

fn name_of(annotations: Option<&Annotations>) -> &str {
    annotations.map_or("", |annotations| annotations.name.as_str())
}

/// The stack that an object belongs to.
fn stack_of(annotations: Option<&Annotations>) -> Option<&str> {
    annotations?.labels.get(NAMESPACE_LABEL).map(String::as_str)
}
