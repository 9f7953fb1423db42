//! `service create`.

use clap::{Args, ValueEnum};
use pontoon_proto::v1::{
    Annotations, ContainerSpec, CreateServiceRequest, Dependency, GlobalJobMode, GlobalMode, Placement,
    ReplicatedJobMode, ReplicatedMode, Service, ServiceSpec, TaskSpec, UpdateConfig, service_spec::Mode,
};

use super::depends;
use super::options::ServiceOptions;
use super::progress::{self, Waiting};
use super::refused::RefusedInCreate;
use super::spec;
use crate::client::Client;
use crate::command::container::config::{environment, label, mount, pair, ulimit};
use crate::credentials;
use crate::error::{Failure, Outcome};
use crate::generic;
use crate::output::listing;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ModeFlag {
    #[default]
    Replicated,
    Global,
    ReplicatedJob,
    GlobalJob,
}

/// `service create [OPTIONS] IMAGE [COMMAND] [ARG...]`
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    options: ServiceOptions,
    #[command(flatten)]
    refused: RefusedInCreate,
    /// Placement constraints
    #[arg(long, value_name = "list")]
    constraint: Vec<String>,
    /// Container labels
    #[arg(long, value_name = "list")]
    container_label: Vec<String>,
    /// Services to wait for before tasks start ("SERVICE[:started|healthy|completed][:optional]")
    #[arg(long, value_name = "list", value_parser = depends::read)]
    depends_on: Vec<Dependency>,
    /// Set custom DNS servers
    #[arg(long, value_name = "list")]
    dns: Vec<String>,
    /// Set DNS options
    #[arg(long, value_name = "list")]
    dns_option: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long, value_name = "list")]
    dns_search: Vec<String>,
    /// Set environment variables
    #[arg(short = 'e', long, value_name = "list")]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "list")]
    env_file: Vec<std::path::PathBuf>,
    /// User defined resources
    #[arg(long, value_name = "list", value_parser = generic::pair)]
    generic_resource: Vec<String>,
    /// Set one or more supplementary user groups for the container
    #[arg(long, value_name = "list")]
    group: Vec<String>,
    /// Set one or more custom host-to-IP mappings (host:ip)
    #[arg(long, value_name = "list")]
    host: Vec<String>,
    /// Service labels
    #[arg(short = 'l', long, value_name = "list")]
    label: Vec<String>,
    /// Service mode ("replicated", "global", "replicated-job", "global-job")
    #[arg(long, value_name = "string", value_enum, default_value_t)]
    mode: ModeFlag,
    /// Attach a filesystem mount to the service
    #[arg(long, value_name = "mount")]
    mount: Vec<String>,
    /// Service name
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    name: String,
    /// Network attachments
    #[arg(long, value_name = "network")]
    network: Vec<String>,
    /// Add a placement preference
    #[arg(long, value_name = "pref")]
    placement_pref: Vec<String>,
    /// Publish a port as a node port
    #[arg(short = 'p', long, value_name = "port")]
    publish: Vec<String>,
    /// Sysctl options
    #[arg(long, value_name = "list")]
    sysctl: Vec<String>,
    /// Ulimit options
    #[arg(long, value_name = "ulimit")]
    ulimit: Vec<String>,
    /// The image, then the command's arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"])]
    image_and_args: Vec<String>,
}

/// Runs `service create`.
///
/// # Errors
/// A flag whose value is no good, the daemon's, or that the service did not converge.
pub async fn run(client: &Client, arguments: Arguments) -> Outcome {
    arguments.options.check()?;
    arguments.refused.check()?;
    let (detach, quiet) = (arguments.options.detach, arguments.options.quiet);
    let mut spec = service_spec(&arguments)?;
    if arguments.options.with_registry_auth {
        add_auth(&mut spec)?;
    }
    let service = client
        .control()
        .create_service(CreateServiceRequest {
            spec: Some(spec),
            resolve_image: !arguments.options.no_resolve_image,
        })
        .await?
        .into_inner();
    if !arguments.options.no_resolve_image {
        warn_unpinned(&service);
    }
    listing::write(&format!("{}\n", service.id));
    if detach {
        return Ok(0);
    }
    let spec = service.spec.clone().unwrap_or_default();
    let name = spec.annotations.unwrap_or_default().name;
    progress::wait(client, &[Waiting::on(&service, name, false)], quiet).await
}

/// Sends along what the user has for the registry of the service's image.
///
/// # Errors
/// The credentials can't be read.
pub fn add_auth(spec: &mut ServiceSpec) -> Result<(), Failure> {
    let task = spec.task.get_or_insert_default();
    let image = task
        .container
        .as_ref()
        .map_or("", |container| container.image.as_str());
    task.registry_auth = Some(credentials::for_image(image)?);
    Ok(())
}

/// Warns in Docker's words when the image of a service has no digest although it was asked for.
pub fn warn_unpinned(service: &Service) {
    let image = service
        .spec
        .as_ref()
        .and_then(|spec| spec.task.as_ref())
        .and_then(|task| task.container.as_ref())
        .map_or("", |container| container.image.as_str());
    if !image.is_empty() && !image.contains('@') {
        eprintln!(
            "image {image} could not be accessed on a registry to record\nits digest. Each node will access {image} independently,\n\
             possibly leading to different nodes running different\nversions of the image.\n"
        );
    }
}

fn service_spec(arguments: &Arguments) -> Result<ServiceSpec, Failure> {
    let Some((image, args)) = arguments.image_and_args.split_first() else {
        return Err(Failure::new("requires at least 1 argument: IMAGE"));
    };
    let mode = match arguments.mode {
        ModeFlag::Replicated => Mode::Replicated(ReplicatedMode { replicas: 1 }),
        ModeFlag::Global => Mode::Global(GlobalMode {}),
        ModeFlag::ReplicatedJob => Mode::ReplicatedJob(ReplicatedJobMode {
            max_concurrent: 0,
            total_completions: 1,
        }),
        ModeFlag::GlobalJob => Mode::GlobalJob(GlobalJobMode {}),
    };
    let mut made = ServiceSpec {
        annotations: Some(Annotations {
            name: arguments.name.clone(),
            labels: arguments.label.iter().map(|text| label(text)).collect(),
        }),
        mode: Some(mode),
        depends_on: arguments.depends_on.clone(),
        task: Some(TaskSpec {
            networks: arguments
                .network
                .iter()
                .map(|text| spec::network(text))
                .collect::<Result<_, _>>()?,
            placement: Some(Placement {
                constraints: arguments.constraint.clone(),
                preferences: arguments
                    .placement_pref
                    .iter()
                    .map(|text| spec::preference(text))
                    .collect::<Result<_, _>>()?,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    if !made.is_job() {
        let one_at_a_time = UpdateConfig {
            parallelism: 1,
            ..Default::default()
        };
        made.update = Some(one_at_a_time);
        made.rollback = Some(one_at_a_time);
    }
    spec::apply(&arguments.options, &mut made)?;
    if !arguments.generic_resource.is_empty() {
        let units = generic::requested(&arguments.generic_resource).map_err(Failure::new)?;
        let task = made.task.get_or_insert_default();
        task.resources.get_or_insert_default().generic_reservations = units;
    }
    let ports = arguments
        .publish
        .iter()
        .map(|text| spec::published(text))
        .collect::<Result<Vec<_>, _>>()?
        .concat();
    made.endpoint.get_or_insert_default().ports = ports;
    container(
        arguments,
        image,
        args,
        made.task
            .get_or_insert_default()
            .container
            .get_or_insert_default(),
    )?;
    Ok(made)
}

fn container(
    arguments: &Arguments,
    image: &str,
    args: &[String],
    container: &mut ContainerSpec,
) -> Result<(), Failure> {
    image.clone_into(&mut container.image);
    container.args = args.to_vec();
    container.env = environment(&arguments.env_file, &arguments.env)?;
    container.labels = arguments.container_label.iter().map(|text| label(text)).collect();
    container.groups.clone_from(&arguments.group);
    container.hosts = arguments.host.iter().map(|text| spec::host(text)).collect();
    container.mounts = arguments
        .mount
        .iter()
        .map(|text| mount(text))
        .collect::<Result<_, _>>()?;
    container.sysctls = arguments
        .sysctl
        .iter()
        .map(|text| pair("sysctl", text))
        .collect::<Result<_, _>>()?;
    container.ulimits = arguments
        .ulimit
        .iter()
        .map(|text| ulimit(text))
        .collect::<Result<_, _>>()?;
    if !arguments.dns.is_empty() || !arguments.dns_option.is_empty() || !arguments.dns_search.is_empty() {
        container.dns = Some(pontoon_proto::v1::DnsConfig {
            nameservers: arguments.dns.clone(),
            search: arguments.dns_search.clone(),
            options: arguments.dns_option.clone(),
        });
    }
    Ok(())
}
