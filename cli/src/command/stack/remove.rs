//! `stack rm`: services first; their networks as soon as the last task has left them. `--detach=false` waits for all tasks.

use std::time::Duration;

use clap::Args;
use pontoon_proto::v1::{GetRequest, ListRequest, ListTasksRequest, Network, Service, TaskView};
use tokio::time::Instant;

use super::{change, service_name, services_of};
use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::listing;

/// `stack rm STACK [STACK...]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Do not wait for stack removal (default true)
    #[arg(short = 'd', long, value_name = "bool", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, hide_default_value = true)]
    detach: bool,
    /// Names of the stacks
    #[arg(required = true, value_name = "STACK")]
    stacks: Vec<String>,
}

/// Time that stopping may take beyond the services' own grace period.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a network that was in use is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// Docker's grace period where a service gives none, in nanoseconds.
const DEFAULT_GRACE: i64 = 10_000_000_000;

/// Runs `stack rm`.
///
/// # Errors
/// What could not be removed, one line each.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let client = Client::connect(host).await?;
    let mut failures = Vec::new();
    for stack in &arguments.stacks {
        failures.extend(remove(&client, stack, arguments.detach).await?);
    }
    if failures.is_empty() {
        Ok(0)
    } else {
        Err(Failure::new(failures.join("\n")))
    }
}

async fn remove(client: &Client, stack: &str, detach: bool) -> Result<Vec<String>, Failure> {
    let services = services_of(client, Some(stack)).await?;
    let mut ours = client
        .control()
        .list_networks(ListRequest::default())
        .await?
        .into_inner()
        .networks;
    ours.retain(|network| change::belongs(network, stack));
    ours.sort_by(|a, b| change::network_name(a).cmp(change::network_name(b)));
    if services.is_empty() && ours.is_empty() {
        eprintln!("Nothing found in stack: {stack}");
        return Ok(Vec::new());
    }
    let mut failures = Vec::new();
    let mut removed_services = Vec::new();
    let mut grace = 0;
    for service in services.into_iter().filter_map(|status| status.service) {
        let name = service_name(Some(&service)).to_owned();
        listing::write(&format!("Removing service {name}\n"));
        grace = grace.max(grace_of(&service));
        removed_services.push(service.id.clone());
        let removed = client
            .control()
            .remove_service(GetRequest { target: service.id })
            .await;
        match removed {
            Err(status) if status.code() != tonic::Code::NotFound => {
                failures.push(format!(
                    "failed to remove service {name}: {}",
                    Failure::from(status).message
                ));
            }
            _ => {}
        }
    }
    for network in &ours {
        listing::write(&format!("Removing network {}\n", change::network_name(network)));
    }
    failures.extend(networks(client, &ours, grace).await);
    if !detach && failures.is_empty() {
        failures.extend(tasks_gone(client, stack, removed_services, deadline(grace)).await?);
    }
    Ok(failures)
}

/// Waits until no task of the services is left. Returns what is in the way.
async fn tasks_gone(
    client: &Client,
    stack: &str,
    services: Vec<String>,
    deadline: Instant,
) -> Result<Option<String>, Failure> {
    loop {
        // All of them: the services, by which tasks could be asked for, are gone.
        let tasks = client.control().list_tasks(ListTasksRequest::default()).await?;
        let is_ours = |view: &TaskView| {
            view.task
                .as_ref()
                .is_some_and(|task| services.contains(&task.service_id))
        };
        let left = tasks.into_inner().tasks.into_iter().filter(is_ours).count();
        if left == 0 {
            return Ok(None);
        }
        if Instant::now() >= deadline {
            return Ok(Some(format!(
                "{left} tasks of stack {stack} still stop: their node may be down; see `pontoon node ls`"
            )));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// How long a service's tasks may take to stop, in nanoseconds.
pub fn grace_of(service: &Service) -> i64 {
    let task = service.spec.as_ref().and_then(|spec| spec.task.as_ref());
    let grace = task
        .and_then(|task| task.container.as_ref())
        .map_or(0, |container| container.stop_grace_period);
    if grace > 0 { grace } else { DEFAULT_GRACE }
}

/// Until when tasks may stop whose grace period is so long, in nanoseconds.
fn deadline(grace: i64) -> Instant {
    Instant::now() + PATIENCE + Duration::from_nanos(u64::try_from(grace).unwrap_or(0))
}

/// Removes networks, waiting for tasks that still stop within `grace` nanoseconds. Returns what failed.
pub async fn networks(client: &Client, networks: &[Network], grace: i64) -> Vec<String> {
    let deadline = deadline(grace);
    let mut failures = Vec::new();
    for network in networks {
        if let Err(message) = network_when_free(client, network, deadline).await {
            let name = change::network_name(network);
            failures.push(format!("failed to remove network {name}: {message}"));
        }
    }
    failures
}

async fn network_when_free(client: &Client, network: &Network, deadline: Instant) -> Result<(), String> {
    loop {
        let target = GetRequest {
            target: network.id.clone(),
        };
        let Err(status) = client.control().remove_network(target).await else {
            return Ok(());
        };
        match status.code() {
            tonic::Code::NotFound => return Ok(()),
            tonic::Code::FailedPrecondition => {}
            _ => return Err(Failure::from(status).message),
        }
        if let Some(service) = user_of(client, network).await? {
            return Err(format!(
                "service {service}, which is not of the stack, uses it: remove that service, or take it off the network"
            ));
        }
        if Instant::now() >= deadline {
            return Err(format!(
                "{}: its node may be down; repeat `pontoon stack rm` when it is back",
                status.message()
            ));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// A service that uses a network: one that waiting does not help against.
async fn user_of(client: &Client, network: &Network) -> Result<Option<String>, String> {
    let listed = client.control().list_services(ListRequest::default()).await;
    let services = listed
        .map_err(|status| Failure::from(status).message)?
        .into_inner()
        .services;
    let uses = |service: &&Service| {
        let task = service.spec.as_ref().and_then(|spec| spec.task.as_ref());
        task.is_some_and(|task| {
            task.networks
                .iter()
                .any(|attachment| attachment.target == network.id)
        })
    };
    let mut all = services.iter().filter_map(|status| status.service.as_ref());
    Ok(all
        .find(uses)
        .map(|service| service_name(Some(service)).to_owned()))
}
