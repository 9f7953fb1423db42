//! `inspect`: objects in Docker's JSON, by kind or by whatever the name stands for.
//!
//! # Layout
//! The shapes are in [`container`], [`image`] and [`cluster`] (nodes, services, tasks, networks).

mod cluster;
mod container;
mod image;
mod mounts;

use clap::{Args, ValueEnum};
use pontoon_proto::v1::{ContainerRequest, GetRequest, ImageRequest, NetworkRequest, VolumeRequest};
use serde_json::Value;

use super::system::print_formatted;
use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::listing;

pub use cluster::{availability_name, node_json, reachability_name, service_json, update_state_name};
pub use mounts::type_name;

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
    #[arg(long, value_name = "string", value_enum)]
    r#type: Option<Kind>,
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

/// Runs `inspect`.
///
/// # Errors
/// Names each object that was not found; what was found is printed first.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let client = Client::connect(host).await?;
    if arguments.size && arguments.r#type.is_some_and(|kind| kind != Kind::Container) {
        return Err(Failure::new("\"size\" is not supported for this type"));
    }
    let kinds = arguments.r#type.map_or(ORDER.to_vec(), |kind| vec![kind]);
    print_all(
        &client,
        &kinds,
        arguments.format.as_deref(),
        &arguments.names,
        arguments.size,
    )
    .await
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
        false,
    )
    .await
}

async fn print_all(
    client: &Client,
    kinds: &[Kind],
    format: Option<&str>,
    names: &[String],
    size: bool,
) -> Outcome {
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        match find(client, kinds, name, size).await {
            Ok(value) => found.push(value),
            Err(failure) => failures.push(failure.message),
        }
    }
    match format {
        None | Some("") => {
            let text = serde_json::to_string_pretty(&Value::Array(found))
                .map_err(|e| Failure::new(e.to_string()))?;
            listing::write(&format!("{}\n", text.replace("  ", "    ")));
        }
        Some(format) => {
            for value in &found {
                print_formatted(format, value)?;
            }
        }
    }
    if failures.is_empty() {
        Ok(0)
    } else {
        Err(Failure::new(failures.join("\n")))
    }
}

async fn find(client: &Client, kinds: &[Kind], name: &str, size: bool) -> Result<Value, Failure> {
    let mut last = None;
    for kind in kinds {
        match get(client, *kind, name, size).await {
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

async fn get(client: &Client, kind: Kind, name: &str, size: bool) -> Result<Value, tonic::Status> {
    let target = name.to_owned();
    Ok(match kind {
        Kind::Container => {
            let found = client
                .engine()
                .inspect_container(ContainerRequest { target })
                .await?
                .into_inner();
            container::container_json(&found, size)
        }
        Kind::Image => image::image_json(
            &client
                .engine()
                .inspect_image(ImageRequest { target })
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
            Ok(found) => cluster::local_network_json(&found.into_inner()),
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

async fn own_node(client: &Client) -> Result<String, tonic::Status> {
    let status = client
        .swarm()
        .status(pontoon_proto::v1::SwarmStatusRequest {})
        .await?
        .into_inner();
    Ok(status.node_id)
}
