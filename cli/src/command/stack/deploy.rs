//! `stack deploy`: reads the files, works out what differs from the cluster, and makes it so. What fails while it is being made is
//! taken back as far as it was new; what is made then is waited for.

use std::path::PathBuf;

use clap::Args;
use pontoon_proto::v1::{
    CreateClusterNetworkRequest, CreateServiceRequest, GetRequest, ListRequest, Network, Service,
    ServiceSpec, UpdateServiceRequest,
};

use super::change::{self, Change, Step};
use super::{name_of, remove, service_name, spec_name};
use crate::client::Client;
use crate::command::service::create::{add_auth, warn_unpinned};
use crate::command::service::progress::{self, Waiting};
use crate::command::service::write::write;
use crate::compose::{self, Loaded, Source};
use crate::error::{Failure, Outcome};
use crate::output::listing;

/// `stack deploy [OPTIONS] STACK`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Path to a Compose file, or "-" to read from stdin
    #[arg(short = 'c', long, value_name = "strings", required = true)]
    compose_file: Vec<PathBuf>,
    /// Exit immediately instead of waiting for the stack services to converge
    #[arg(short = 'd', long)]
    detach: bool,
    /// Prune services that are no longer referenced
    #[arg(long)]
    prune: bool,
    /// Suppress progress output
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Query the registry to resolve image digest and supported platforms ("always", "changed", "never") (default "always")
    #[arg(long, value_name = "string", default_value = "always")]
    resolve_image: String,
    /// Send registry authentication details to Swarm agents
    #[arg(long)]
    with_registry_auth: bool,
    /// The stack's name
    #[arg(value_name = "STACK")]
    stack: String,
}

/// What `--resolve-image` says: whose images are pinned to what their names stand for at the time of the deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResolveImage {
    /// All services', with each deployment.
    Always,
    /// Those of new services, and of services whose file names another image than before.
    Changed,
    /// None: names stay as they are typed.
    Never,
}

/// How services are made and changed.
#[derive(Clone, Copy)]
struct Manner {
    resolve: ResolveImage,
    with_auth: bool,
}

impl Manner {
    fn of(arguments: &Arguments) -> Result<Self, Failure> {
        let resolve = match arguments.resolve_image.as_str() {
            "always" => ResolveImage::Always,
            "changed" => ResolveImage::Changed,
            "never" => ResolveImage::Never,
            other => {
                return Err(Failure::new(format!(
                    "Invalid option {other} for flag --resolve-image"
                )));
            }
        };
        Ok(Self {
            resolve,
            with_auth: arguments.with_registry_auth,
        })
    }
}

/// Reads the files that `-c` named.
///
/// # Errors
/// A file that can't be read.
pub fn sources(paths: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    compose::read_files(paths).map_err(|error| anyhow::Error::from(error).into())
}

/// Checks the files and reads the stack; variables that are not set are warned of.
///
/// # Errors
/// All mistakes of the files.
pub fn load(paths: &[PathBuf], sources: &[Source]) -> Result<Loaded, Failure> {
    let failed = |error: compose::Error| Failure::from(anyhow::Error::from(error));
    let base = compose::base_folder(paths).map_err(failed)?;
    let loaded = compose::load(sources, &base, &|name| std::env::var(name).ok()).map_err(failed)?;
    for name in &loaded.unset {
        eprintln!("WARNING: the variable {name} is not set: it counts as empty");
    }
    Ok(loaded)
}

/// Runs `stack deploy`.
///
/// # Errors
/// All mistakes of the files, what stands in the way in the cluster, the daemon's, or that a service did not converge.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    compose::check_stack_name(&arguments.stack).map_err(Failure::new)?;
    let manner = Manner::of(&arguments)?;
    let sources = sources(&arguments.compose_file)?;
    let loaded = load(&arguments.compose_file, &sources)?;
    let plan = loaded
        .stack
        .plan(&arguments.stack)
        .map_err(|error| Failure::new(error.to_string()))?;
    let client = Client::connect(host).await?;
    let services = client.control().list_services(ListRequest::default()).await?;
    let networks = client.control().list_networks(ListRequest::default()).await?;
    let (services, networks) = (services.into_inner().services, networks.into_inner().networks);
    let change = change::work_out(&arguments.stack, plan, &services, &networks)
        .map_err(|problems| Failure::new(problems.join("\n")))?;
    let gone = change.gone.clone();
    let waiting = Box::pin(apply(&client, change, manner)).await?;
    if arguments.prune {
        for service in gone {
            listing::write(&format!("Removing service {}\n", service_name(Some(&service))));
            client
                .control()
                .remove_service(GetRequest { target: service.id })
                .await?;
        }
    }
    if arguments.detach || waiting.is_empty() {
        return Ok(0);
    }
    progress::wait(&client, &waiting, arguments.quiet).await
}

/// What was made so far, for the case that the rest fails.
#[derive(Default)]
struct Made {
    services: Vec<String>,
    networks: Vec<Network>,
}

/// Makes the changes; returns the services to wait for.
async fn apply(client: &Client, change: Change, manner: Manner) -> Result<Vec<Waiting>, Failure> {
    let mut made = Made::default();
    match Box::pin(advance(client, change, manner, &mut made)).await {
        Ok(waiting) => Ok(waiting),
        Err(failure) => Err(Failure {
            message: format!("{}{}", failure.message, undo(client, made).await),
            ..failure
        }),
    }
}

async fn advance(
    client: &Client,
    mut change: Change,
    manner: Manner,
    made: &mut Made,
) -> Result<Vec<Waiting>, Failure> {
    for spec in change.networks {
        let name = name_of(spec.annotations.as_ref()).to_owned();
        listing::write(&format!("Creating network {name}\n"));
        let request = CreateClusterNetworkRequest { spec: Some(spec) };
        let created = client.control().create_network(request).await;
        let network = created
            .map_err(|status| failed("create network", &name, status))?
            .into_inner();
        change.known.insert(name, network.id.clone());
        made.networks.push(network);
    }
    let ends: Vec<String> = change.services.iter().flat_map(Step::awaited_ends).collect();
    let mut waiting = Vec::new();
    for step in change.services {
        match step {
            Step::Create(mut spec) => {
                change::resolve(&mut spec, &change.known);
                let service = create(client, spec, manner).await?;
                made.services.push(service.id.clone());
                let name = service_name(Some(&service)).to_owned();
                waiting.push(Waiting::on(&service, name, false));
            }
            Step::Update(service, mut spec) => {
                change::resolve(&mut spec, &change.known);
                let name = spec_name(&spec).to_owned();
                listing::write(&format!("Updating service {name} (id: {})\n", service.id));
                let updated = update(client, &service, spec, manner).await?;
                waiting.push(Waiting::on(&updated, name, false));
            }
            Step::Keep(service, is_settled) => {
                waiting.extend(Box::pin(keep(client, *service, is_settled, manner)).await?)
            }
        }
    }
    for waiting in &mut waiting {
        waiting.completes = ends.contains(&waiting.name);
    }
    Ok(waiting)
}

async fn create(client: &Client, mut spec: ServiceSpec, manner: Manner) -> Result<Service, Failure> {
    let name = spec_name(&spec).to_owned();
    listing::write(&format!("Creating service {name}\n"));
    if manner.with_auth {
        add_auth(&mut spec)?;
    }
    let resolve_image = manner.resolve != ResolveImage::Never;
    let request = CreateServiceRequest {
        spec: Some(spec),
        resolve_image,
    };
    let created = client.control().create_service(request).await;
    let service = created
        .map_err(|status| failed("create service", &name, status))?
        .into_inner();
    if resolve_image {
        warn_unpinned(&service);
    }
    Ok(service)
}

/// Gives a service a spec; one that comes out as the service's own changes nothing.
async fn update(
    client: &Client,
    service: &Service,
    mut spec: ServiceSpec,
    manner: Manner,
) -> Result<Service, Failure> {
    let name = spec_name(&spec).to_owned();
    let typed = change::typed_image(&spec).cloned();
    let resolve_image = match manner.resolve {
        ResolveImage::Always => true,
        ResolveImage::Changed => typed.as_ref() != service.spec.as_ref().and_then(change::typed_image),
        ResolveImage::Never => false,
    };
    let container = spec.task.as_mut().and_then(|task| task.container.as_mut());
    if let (true, Some(container), Some(typed)) = (resolve_image, container, typed) {
        // Without the digest of the last deployment: it is asked for anew.
        container.image = typed;
    }
    if manner.with_auth {
        add_auth(&mut spec)?;
    }
    let request = UpdateServiceRequest {
        target: service.id.clone(),
        version: service.meta.unwrap_or_default().version,
        unless_same: !spec.is_job(),
        spec: Some(spec),
        rollback: false,
        resolve_image,
    };
    let updated = write(client, service, request).await;
    let updated = updated.map_err(|status| failed("update service", &name, status))?;
    if resolve_image {
        warn_unpinned(&updated);
    }
    Ok(updated)
}

/// A service that is as the file wants it, but for what its image's name stands for by this time, and for credentials.
async fn keep(
    client: &Client,
    service: Service,
    is_settled: bool,
    manner: Manner,
) -> Result<Option<Waiting>, Failure> {
    let name = service_name(Some(&service)).to_owned();
    if manner.resolve == ResolveImage::Always || manner.with_auth {
        let spec = service.spec.clone().unwrap_or_default();
        let updated = update(client, &service, spec, manner).await?;
        if updated.spec != service.spec {
            listing::write(&format!("Updating service {name} (id: {})\n", service.id));
            return Ok(Some(Waiting::on(&updated, name, false)));
        }
    }
    listing::write(&format!("Service {name} is up to date (id: {})\n", service.id));
    // Whatever its last change came to, it is asked for again.
    Ok((!is_settled).then_some(Waiting {
        id: service.id,
        name,
        since: 0,
        rollback: true,
        completes: false,
    }))
}

fn failed(what: &str, name: &str, status: tonic::Status) -> Failure {
    let failure = Failure::from(status);
    Failure {
        message: format!("failed to {what} {name}: {}", failure.message),
        ..failure
    }
}

/// Removes what was made; returns what to add to the failure's message.
async fn undo(client: &Client, made: Made) -> String {
    if made.services.is_empty() && made.networks.is_empty() {
        return String::new();
    }
    let mut failures = Vec::new();
    let mut grace = 0;
    for id in made.services {
        let target = GetRequest { target: id };
        if let Ok(service) = client.control().get_service(target.clone()).await {
            grace = grace.max(remove::grace_of(service.get_ref()));
        }
        if let Err(status) = client.control().remove_service(target).await {
            failures.push(Failure::from(status).message);
        }
    }
    failures.extend(remove::networks(client, &made.networks, grace).await);
    if failures.is_empty() {
        "\nWhat had been created is removed again.".to_owned()
    } else {
        format!(
            "\nWhat had been created could not be removed again:\n{}",
            failures.join("\n")
        )
    }
}
