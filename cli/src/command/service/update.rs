//! `service update`, `service scale`, `service rollback`. [`ports`] has published ports.

mod ports;

use clap::Args;
use pontoon_proto::v1::{
    Dependency, DnsConfig, GetRequest, Service, ServiceSpec, UpdateServiceRequest, service_spec::Mode,
};

use super::depends;
use super::options::ServiceOptions;
use super::progress::{self, Waiting};
use super::refused::RefusedInUpdate;
use super::spec;
use super::write::write;
use crate::client::Client;
use crate::command::container::config::{environment, label, mount, pair, ulimit};
use crate::error::{Failure, Outcome};
use crate::generic;
use crate::output::listing;

/// `service update [OPTIONS] SERVICE`
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct Arguments {
    #[command(flatten)]
    options: ServiceOptions,
    #[command(flatten)]
    refused: RefusedInUpdate,
    /// Service command args
    #[arg(long, value_name = "command")]
    args: Option<String>,
    /// Add or update a placement constraint
    #[arg(long, value_name = "list")]
    constraint_add: Vec<String>,
    /// Remove a constraint
    #[arg(long, value_name = "list")]
    constraint_rm: Vec<String>,
    /// Add or update a container label
    #[arg(long, value_name = "list")]
    container_label_add: Vec<String>,
    /// Remove a container label by its key
    #[arg(long, value_name = "list")]
    container_label_rm: Vec<String>,
    /// Add or update a service to wait for before tasks start ("SERVICE[:started|healthy|completed][:optional]")
    #[arg(long, value_name = "list", value_parser = depends::read)]
    depends_on_add: Vec<Dependency>,
    /// No longer wait for a service
    #[arg(long, value_name = "list")]
    depends_on_rm: Vec<String>,
    /// Add or update a custom DNS server
    #[arg(long, value_name = "list")]
    dns_add: Vec<String>,
    /// Remove a custom DNS server
    #[arg(long, value_name = "list")]
    dns_rm: Vec<String>,
    /// Add or update a DNS option
    #[arg(long, value_name = "list")]
    dns_option_add: Vec<String>,
    /// Remove a DNS option
    #[arg(long, value_name = "list")]
    dns_option_rm: Vec<String>,
    /// Add or update a custom DNS search domain
    #[arg(long, value_name = "list")]
    dns_search_add: Vec<String>,
    /// Remove a DNS search domain
    #[arg(long, value_name = "list")]
    dns_search_rm: Vec<String>,
    /// Add or update an environment variable
    #[arg(long, value_name = "list")]
    env_add: Vec<String>,
    /// Remove an environment variable
    #[arg(long, value_name = "list")]
    env_rm: Vec<String>,
    /// Force update even if no changes require it
    #[arg(long)]
    force: bool,
    /// Add a Generic resource
    #[arg(long, value_name = "list", value_parser = generic::pair)]
    generic_resource_add: Vec<String>,
    /// Remove a Generic resource
    #[arg(long, value_name = "list")]
    generic_resource_rm: Vec<String>,
    /// Add an additional supplementary user group to the container
    #[arg(long, value_name = "list")]
    group_add: Vec<String>,
    /// Remove a previously added supplementary user group from the container
    #[arg(long, value_name = "list")]
    group_rm: Vec<String>,
    /// Add a custom host-to-IP mapping (host:ip)
    #[arg(long, value_name = "list")]
    host_add: Vec<String>,
    /// Remove a custom host-to-IP mapping (host:ip)
    #[arg(long, value_name = "list")]
    host_rm: Vec<String>,
    /// Service image tag
    #[arg(long, value_name = "string")]
    image: Option<String>,
    /// Add or update a service label
    #[arg(long, value_name = "list")]
    label_add: Vec<String>,
    /// Remove a label by its key
    #[arg(long, value_name = "list")]
    label_rm: Vec<String>,
    /// Add or update a mount on a service
    #[arg(long, value_name = "mount")]
    mount_add: Vec<String>,
    /// Remove a mount by its target path
    #[arg(long, value_name = "list")]
    mount_rm: Vec<String>,
    /// Add a network
    #[arg(long, value_name = "network")]
    network_add: Vec<String>,
    /// Remove a network
    #[arg(long, value_name = "list")]
    network_rm: Vec<String>,
    /// Add a placement preference
    #[arg(long, value_name = "pref")]
    placement_pref_add: Vec<String>,
    /// Remove a placement preference
    #[arg(long, value_name = "pref")]
    placement_pref_rm: Vec<String>,
    /// Add or update a published port
    #[arg(long, value_name = "port")]
    publish_add: Vec<String>,
    /// Remove a published port by its target port
    #[arg(long, value_name = "port")]
    publish_rm: Vec<String>,
    /// Rollback to previous specification
    #[arg(long)]
    rollback: bool,
    /// Add or update a Sysctl option
    #[arg(long, value_name = "list")]
    sysctl_add: Vec<String>,
    /// Remove a Sysctl option
    #[arg(long, value_name = "list")]
    sysctl_rm: Vec<String>,
    /// Add or update a ulimit option
    #[arg(long, value_name = "ulimit")]
    ulimit_add: Vec<String>,
    /// Remove a ulimit option
    #[arg(long, value_name = "list")]
    ulimit_rm: Vec<String>,
    /// The service
    service: String,
}

impl Arguments {
    /// Whether a rollback is all that is asked for, and how to wait for it.
    fn only_rolls_back(&self) -> bool {
        let alone = Self {
            rollback: true,
            service: self.service.clone(),
            options: ServiceOptions {
                detach: self.options.detach,
                quiet: self.options.quiet,
                ..ServiceOptions::default()
            },
            ..Self::default()
        };
        *self == alone
    }
}

/// `service scale SERVICE=REPLICAS [SERVICE=REPLICAS...]`
#[derive(Args, Debug)]
pub struct ScaleArguments {
    /// Exit immediately instead of waiting for the service to converge
    #[arg(short = 'd', long)]
    detach: bool,
    /// Services and their numbers of tasks
    #[arg(required = true, value_name = "SERVICE=REPLICAS")]
    scales: Vec<String>,
}

/// `service rollback [OPTIONS] SERVICE`
#[derive(Args, Debug)]
pub struct RollbackArguments {
    /// Exit immediately instead of waiting for the service to converge
    #[arg(short = 'd', long)]
    detach: bool,
    /// Suppress progress output
    #[arg(short = 'q', long)]
    quiet: bool,
    /// The service
    service: String,
}

async fn get(client: &Client, target: &str) -> Result<Service, Failure> {
    Ok(client
        .control()
        .get_service(GetRequest {
            target: target.to_owned(),
        })
        .await?
        .into_inner())
}

fn request(service: &Service, spec: Option<ServiceSpec>) -> UpdateServiceRequest {
    UpdateServiceRequest {
        target: service.id.clone(),
        version: service.meta.unwrap_or_default().version,
        rollback: spec.is_none(),
        spec,
        resolve_image: false,
        unless_same: false,
    }
}

/// Runs `service update`.
///
/// # Errors
/// A flag whose value is no good, the daemon's, or that the update was paused or rolled back.
pub async fn run(client: &Client, arguments: Arguments) -> Outcome {
    arguments.options.check()?;
    arguments.refused.check()?;
    if arguments.rollback && !arguments.only_rolls_back() {
        return Err(Failure::new("other flags may not be combined with --rollback"));
    }
    let service = get(client, &arguments.service).await?;
    let spec = if arguments.rollback {
        None
    } else {
        let mut spec = service.spec.clone().unwrap_or_default();
        spec::apply(&arguments.options, &mut spec)?;
        change_lists(&arguments, &mut spec, client).await?;
        if arguments.options.with_registry_auth {
            super::create::add_auth(&mut spec)?;
        }
        Some(spec)
    };
    // As Docker's: an image that was not named anew keeps what it is pinned to.
    let resolve_image =
        arguments.image.is_some() && !arguments.rollback && !arguments.options.no_resolve_image;
    let wish = UpdateServiceRequest {
        resolve_image,
        ..request(&service, spec)
    };
    let updated = write(client, &service, wish).await?;
    if resolve_image {
        super::create::warn_unpinned(&updated);
    }
    listing::write(&format!("{}\n", arguments.service));
    if arguments.options.detach {
        return Ok(0);
    }
    progress::wait(
        client,
        &[Waiting::on(&updated, arguments.service, arguments.rollback)],
        arguments.options.quiet,
    )
    .await
}

/// Applies the `-add` and `-rm` pairs.
async fn change_lists(arguments: &Arguments, spec: &mut ServiceSpec, client: &Client) -> Result<(), Failure> {
    let annotations = spec.annotations.get_or_insert_default();
    annotations
        .labels
        .retain(|key, _| !arguments.label_rm.contains(key));
    annotations
        .labels
        .extend(arguments.label_add.iter().map(|text| label(text)));
    depends::change(
        &mut spec.depends_on,
        &arguments.depends_on_add,
        &arguments.depends_on_rm,
    );
    let placement = spec::placement(spec);
    placement
        .constraints
        .retain(|constraint| !arguments.constraint_rm.contains(constraint));
    for constraint in &arguments.constraint_add {
        if !placement.constraints.contains(constraint) {
            placement.constraints.push(constraint.clone());
        }
    }
    for text in &arguments.placement_pref_rm {
        let gone = spec::preference(text)?;
        placement.preferences.retain(|preference| *preference != gone);
    }
    for text in &arguments.placement_pref_add {
        placement.preferences.push(spec::preference(text)?);
    }
    change_container(arguments, spec)?;
    ports::change(
        &mut spec.endpoint.get_or_insert_default().ports,
        &arguments.publish_add,
        &arguments.publish_rm,
    )?;
    let task = spec.task.get_or_insert_default();
    if !arguments.generic_resource_add.is_empty() || !arguments.generic_resource_rm.is_empty() {
        let reserved = &mut task.resources.get_or_insert_default().generic_reservations;
        let (add, remove) = (&arguments.generic_resource_add, &arguments.generic_resource_rm);
        generic::change(reserved, add, remove).map_err(Failure::new)?;
    }
    for name in &arguments.network_rm {
        let network = client
            .control()
            .get_network(GetRequest { target: name.clone() })
            .await?
            .into_inner();
        task.networks.retain(|attachment| attachment.target != network.id);
    }
    for text in &arguments.network_add {
        let mut attachment = spec::network(text)?;
        attachment.target = client
            .control()
            .get_network(GetRequest {
                target: attachment.target,
            })
            .await?
            .into_inner()
            .id;
        task.networks
            .retain(|existing| existing.target != attachment.target);
        task.networks.push(attachment);
    }
    if arguments.force {
        task.force_update += 1;
    }
    Ok(())
}

fn change_container(arguments: &Arguments, spec: &mut ServiceSpec) -> Result<(), Failure> {
    let container = spec
        .task
        .get_or_insert_default()
        .container
        .get_or_insert_default();
    if let Some(image) = &arguments.image {
        container.image.clone_from(image);
    }
    if let Some(args) = &arguments.args {
        container.args = spec::words(args)?;
    }
    container
        .labels
        .retain(|key, _| !arguments.container_label_rm.contains(key));
    container
        .labels
        .extend(arguments.container_label_add.iter().map(|text| label(text)));
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let none: [&std::path::Path; 0] = [];
    let added = environment(&none, &arguments.env_add)?;
    container.env.retain(|variable| {
        let name_of = name(variable);
        !arguments.env_rm.contains(&name_of) && !added.iter().any(|new| name(new) == name_of)
    });
    container.env.extend(added);
    let removed: Vec<&str> = arguments.host_rm.iter().map(|text| host_name(text)).collect();
    container.hosts.retain(|host| !removed.contains(&host_name(host)));
    let hosts = arguments.host_add.iter().map(|text| spec::host(text));
    change_list(&mut container.hosts, &hosts.collect::<Vec<_>>(), &[]);
    container
        .mounts
        .retain(|mount| !arguments.mount_rm.contains(&mount.target));
    for text in &arguments.mount_add {
        let new = mount(text)?;
        container.mounts.retain(|mount| mount.target != new.target);
        container.mounts.push(new);
    }
    container
        .sysctls
        .retain(|key, _| !arguments.sysctl_rm.contains(key));
    for text in &arguments.sysctl_add {
        let (key, value) = pair("sysctl-add", text)?;
        container.sysctls.insert(key, value);
    }
    change_list(&mut container.groups, &arguments.group_add, &arguments.group_rm);
    container
        .ulimits
        .retain(|ulimit| !arguments.ulimit_rm.contains(&ulimit.name));
    for text in &arguments.ulimit_add {
        let new = ulimit(text)?;
        container.ulimits.retain(|ulimit| ulimit.name != new.name);
        container.ulimits.push(new);
    }
    let mut dns = container.dns.take().unwrap_or_default();
    change_list(&mut dns.nameservers, &arguments.dns_add, &arguments.dns_rm);
    change_list(
        &mut dns.options,
        &arguments.dns_option_add,
        &arguments.dns_option_rm,
    );
    change_list(
        &mut dns.search,
        &arguments.dns_search_add,
        &arguments.dns_search_rm,
    );
    container.dns = (dns != DnsConfig::default()).then_some(dns);
    Ok(())
}

/// The name of a `name:address`.
fn host_name(text: &str) -> &str {
    text.split([':', '=']).next().unwrap_or(text)
}

fn change_list(list: &mut Vec<String>, add: &[String], remove: &[String]) {
    list.retain(|item| !remove.contains(item) && !add.contains(item));
    list.extend(add.iter().cloned());
}

/// Runs `service rollback`.
///
/// # Errors
/// The daemon's, or that the rollback was paused.
pub async fn rollback(client: &Client, arguments: RollbackArguments) -> Outcome {
    let service = get(client, &arguments.service).await?;
    let updated = write(client, &service, request(&service, None)).await?;
    listing::write(&format!("{}\n", arguments.service));
    if arguments.detach {
        return Ok(0);
    }
    progress::wait(
        client,
        &[Waiting::on(&updated, arguments.service, true)],
        arguments.quiet,
    )
    .await
}

/// Runs `service scale`.
///
/// # Errors
/// A malformed argument, the daemon's (one line a service), or that a service did not converge.
pub async fn scale(client: &Client, arguments: ScaleArguments) -> Outcome {
    let mut wishes = Vec::new();
    for text in &arguments.scales {
        let (name, replicas) = text
            .split_once('=')
            .ok_or_else(|| Failure::new(format!("invalid scale specifier {text:?}: use SERVICE=REPLICAS")))?;
        let replicas: u64 = replicas.parse().map_err(|_| {
            Failure::new(format!(
                "invalid replicas value {replicas:?} for {name}: use a whole number"
            ))
        })?;
        wishes.push((name, replicas));
    }
    let (mut scaled, mut failures) = (Vec::new(), Vec::new());
    for (name, replicas) in wishes {
        match scale_one(client, name, replicas).await {
            Ok(updated) => {
                listing::write(&format!("{name} scaled to {replicas}\n"));
                scaled.push(Waiting::on(&updated, name, false));
            }
            Err(failure) => failures.push(format!("{name}: {}", failure.message)),
        }
    }
    if !arguments.detach && !scaled.is_empty() {
        progress::wait(client, &scaled, false).await?;
    }
    if failures.is_empty() {
        Ok(0)
    } else {
        Err(Failure::new(failures.join("\n")))
    }
}

async fn scale_one(client: &Client, name: &str, replicas: u64) -> Result<Service, Failure> {
    let service = get(client, name).await?;
    let mut spec = service.spec.clone().unwrap_or_default();
    match &mut spec.mode {
        Some(Mode::Replicated(mode)) => mode.replicas = replicas,
        Some(Mode::ReplicatedJob(job)) => job.total_completions = replicas,
        _ => {
            return Err(Failure::new(
                "scale can only be used with replicated or replicated-job mode",
            ));
        }
    }
    Ok(write(client, &service, request(&service, Some(spec))).await?)
}

#[cfg(test)]
mod tests;
