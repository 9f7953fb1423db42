//! `inspect`: objects in Docker's JSON, by kind or by whatever the name stands for.
//!
//! # Layout
//! The shapes are in [`container`], [`image`] and [`cluster`] (nodes, services, tasks, networks).

mod cluster;
mod container;
mod image;
mod mounts;
mod network;
mod shape;

use clap::{Args, ValueEnum};
use pontoon_proto::v1::{
    Container, ContainerRequest, FilterValues, GetRequest, ImageRequest, ListContainersRequest,
    NetworkRequest, VolumeRequest,
};
use serde_json::Value;

use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::listing;
use crate::output::template::Template;

pub use cluster::{
    availability_name, node_json, reachability_name, service_json, tls_json, update_state_name,
};
pub use mounts::type_name;

/// Docker's exit status for a template that can't be read.
const BAD_TEMPLATE: u8 = 64;

/// Kinds of objects that can be inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A container of this host.
    Container,
    /// An image of this host.
    Image,
    /// A network of this host or the cluster.
    Network,
    /// A volume of this host.
    Volume,
    /// A node.
    Node,
    /// A service.
    Service,
    /// A task.
    Task,
}

const ORDER: [Kind; 7] = [
    Kind::Container,
    Kind::Image,
    Kind::Network,
    Kind::Volume,
    Kind::Node,
    Kind::Service,
    Kind::Task,
];

/// `inspect [OPTIONS] NAME|ID [NAME|ID...]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Format output using a custom template: 'json' or TEMPLATE
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
    /// Display total file sizes if the type is container
    #[arg(short = 's', long)]
    size: bool,
    /// Only inspect objects of the given type
    #[arg(long, value_name = "string")]
    r#type: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

/// `KIND inspect [OPTIONS] NAME [NAME...]`
#[derive(Args, Debug)]
pub struct KindArguments {
    /// Format output using a custom template: 'json' or TEMPLATE
    #[arg(short = 'f', long, value_name = "string")]
    pub format: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// `container inspect [OPTIONS] CONTAINER [CONTAINER...]`
#[derive(Args, Debug)]
pub struct ContainerArguments {
    #[command(flatten)]
    shared: KindArguments,
    /// Display total file sizes
    #[arg(short = 's', long)]
    size: bool,
}

/// Runs `container inspect`.
///
/// # Errors
/// As [`run`].
pub async fn container(host: Option<&str>, arguments: ContainerArguments) -> Outcome {
    let ContainerArguments { shared, size } = arguments;
    let client = Client::connect(host).await?;
    print_all(
        &client,
        &[Kind::Container],
        shared.format.as_deref(),
        &shared.names,
        Detail { size, platform: "" },
    )
    .await
}

/// Runs `inspect`.
///
/// # Errors
/// Names each object that was not found; what was found is printed first.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let kind = arguments.r#type.as_deref().filter(|name| !name.is_empty());
    let kind = kind.map(kind_named).transpose()?;
    if arguments.size
        && let Some(kind) = kind.filter(|kind| *kind != Kind::Container)
    {
        eprintln!("WARNING: --size ignored for {}", kind_name(kind));
    }
    let client = Client::connect(host).await?;
    let kinds = kind.map_or(ORDER.to_vec(), |kind| vec![kind]);
    print_all(
        &client,
        &kinds,
        arguments.format.as_deref(),
        &arguments.names,
        Detail {
            size: arguments.size,
            platform: "",
        },
    )
    .await
}

fn kind_name(kind: Kind) -> String {
    kind.to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

fn kind_named(name: &str) -> Result<Kind, Failure> {
    ORDER
        .into_iter()
        .find(|kind| kind_name(*kind) == name)
        .ok_or_else(|| {
            let mut known: Vec<String> = ORDER
                .iter()
                .map(|kind| format!("{:?}", kind_name(*kind)))
                .collect();
            known.sort();
            Failure::new(format!(
                "unknown type: {name:?}: must be one of {}",
                known.join(", ")
            ))
        })
}

/// Runs `KIND inspect`.
///
/// # Errors
/// Names each object that was not found; what was found is printed first.
pub async fn one_kind(host: Option<&str>, kind: Kind, arguments: KindArguments) -> Outcome {
    let client = Client::connect(host).await?;
    print_all(
        &client,
        &[kind],
        arguments.format.as_deref(),
        &arguments.names,
        Detail::default(),
    )
    .await
}

/// `image inspect [OPTIONS] IMAGE [IMAGE...]`
#[derive(Args, Debug)]
pub struct ImageArguments {
    #[command(flatten)]
    shared: KindArguments,
    /// Inspect a specific platform of the multi-platform image. 'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    platform: String,
}

/// Runs `image inspect`.
///
/// # Errors
/// As [`run`].
pub async fn image(host: Option<&str>, arguments: ImageArguments) -> Outcome {
    let ImageArguments { shared, platform } = arguments;
    let client = Client::connect(host).await?;
    let detail = Detail {
        size: false,
        platform: &platform,
    };
    print_all(
        &client,
        &[Kind::Image],
        shared.format.as_deref(),
        &shared.names,
        detail,
    )
    .await
}

/// What is asked for besides the object itself.
#[derive(Clone, Copy, Default)]
struct Detail<'a> {
    /// A container's sizes.
    size: bool,
    /// Which image of a name; empty: this node's.
    platform: &'a str,
}

async fn print_all(
    client: &Client,
    kinds: &[Kind],
    format: Option<&str>,
    names: &[String],
    detail: Detail<'_>,
) -> Outcome {
    // A template that can't be read is told before anything is asked for.
    let template = match format {
        None | Some("" | "json") => None,
        Some(text) => {
            Some(Template::parse(text).map_err(|error| Failure::new(error).with_code(BAD_TEMPLATE))?)
        }
    };
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        match find(client, kinds, name, detail).await {
            Ok(value) => found.push(value),
            Err(failure) => failures.push(failure.message),
        }
    }
    match (&template, format) {
        (Some(template), _) => {
            for value in &found {
                // As Docker's client: on the object with all its fields, and, if that fails, on what the daemon has sent.
                let text = template
                    .render_typed(&shape::with_all_fields(value))
                    .or_else(|_| template.render(value))
                    .map_err(|reason| Failure::new(format!("template parsing error: {reason}")))?;
                listing::write(&format!("{text}\n"));
            }
        }
        (None, Some("json")) => {
            for value in &found {
                listing::write(&format!("{value}\n"));
            }
        }
        (None, _) => {
            let text = serde_json::to_string_pretty(&Value::Array(found))
                .map_err(|e| Failure::new(e.to_string()))?;
            listing::write(&format!("{}\n", text.replace("  ", "    ")));
        }
    }
    if failures.is_empty() {
        Ok(0)
    } else {
        Err(Failure::new(failures.join("\n")))
    }
}

async fn find(client: &Client, kinds: &[Kind], name: &str, detail: Detail<'_>) -> Result<Value, Failure> {
    let mut last = None;
    for kind in kinds {
        match get(client, *kind, name, detail).await {
            Ok(value) => return Ok(value),
            // Not here, or not a manager: the name may stand for an object of another kind.
            Err(status)
                if kinds.len() > 1
                    && matches!(
                        status.code(),
                        tonic::Code::NotFound | tonic::Code::Unavailable | tonic::Code::FailedPrecondition
                    ) => {}
            Err(status) => last = Some(Failure::from(status)),
        }
    }
    Err(last.unwrap_or_else(|| Failure::new(format!("Error: No such object: {name}"))))
}

async fn get(client: &Client, kind: Kind, name: &str, detail: Detail<'_>) -> Result<Value, tonic::Status> {
    let target = name.to_owned();
    Ok(match kind {
        Kind::Container => {
            let mut found = client
                .engine()
                .inspect_container(ContainerRequest { target })
                .await?
                .into_inner();
            if detail.size {
                fill_size(client, &mut found).await?;
            }
            container::container_json(&found, detail.size)
        }
        Kind::Image => image::image_json(
            &client
                .engine()
                .inspect_image(ImageRequest {
                    target,
                    platform: detail.platform.to_owned(),
                })
                .await?
                .into_inner(),
        ),
        Kind::Volume => {
            let request = VolumeRequest { name: target };
            mounts::volume_json(&client.engine().inspect_volume(request).await?.into_inner())
        }
        Kind::Network => match client
            .engine()
            .inspect_network(NetworkRequest {
                target: target.clone(),
            })
            .await
        {
            Ok(found) => network::local_network_json(&found.into_inner()),
            Err(status) if status.code() == tonic::Code::NotFound => {
                let found = client
                    .control()
                    .get_network(GetRequest { target })
                    .await
                    .map_err(|_| status)?;
                cluster::network_json(&found.into_inner())
            }
            Err(status) => return Err(status),
        },
        Kind::Node => {
            let target = if name == "self" {
                own_node(client).await?
            } else {
                target
            };
            node_json(
                &client
                    .control()
                    .get_node(GetRequest { target })
                    .await?
                    .into_inner(),
            )
        }
        Kind::Service => service_json(
            &client
                .control()
                .get_service(GetRequest { target })
                .await?
                .into_inner(),
        ),
        Kind::Task => cluster::task_json(
            &client
                .control()
                .get_task(GetRequest { target })
                .await?
                .into_inner(),
        ),
    })
}

/// Asks for the sizes of a container's files, which the listing of containers knows to count.
async fn fill_size(client: &Client, container: &mut Container) -> Result<(), tonic::Status> {
    let only = FilterValues {
        values: vec![container.id.clone()],
    };
    let request = ListContainersRequest {
        all: true,
        size: true,
        filters: [("id".to_owned(), only)].into(),
        ..ListContainersRequest::default()
    };
    let listed = client.engine().list_containers(request).await?.into_inner();
    if let [counted] = listed.containers.as_slice() {
        container.size_rw = counted.size_rw;
        container.size_root_fs = counted.size_root_fs;
    }
    Ok(())
}

async fn own_node(client: &Client) -> Result<String, tonic::Status> {
    let status = client
        .swarm()
        .status(pontoon_proto::v1::SwarmStatusRequest {})
        .await?
        .into_inner();
    Ok(status.node_id)
}
