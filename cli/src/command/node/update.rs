//! `pontoon node update`, `promote` and `demote`.

use clap::{Args, ValueEnum};
use pontoon_proto::v1::{GetRequest, Node, NodeRole, NodeSpec, UpdateNodeRequest};

use super::named;
use crate::client::Client;
use crate::command::container::config::label;
use crate::command::swarm::AvailabilityFlag;
use crate::error::{Failure, Outcome, for_each_target, is_out_of_sequence};
use crate::output::listing;

/// So often a node's specification is written anew over versions that the cluster itself made.
const TRIES: usize = 20;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleFlag {
    Worker,
    Manager,
}

/// `node update [OPTIONS] NODE`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Availability of the node ("active", "pause", "drain")
    #[arg(long, value_name = "string", value_enum)]
    availability: Option<AvailabilityFlag>,
    /// Add or update a node label (key=value)
    #[arg(long, value_name = "list")]
    label_add: Vec<String>,
    /// Remove a node label if exists
    #[arg(long, value_name = "list")]
    label_rm: Vec<String>,
    /// Role of the node ("worker", "manager")
    #[arg(long, value_name = "string", value_enum)]
    role: Option<RoleFlag>,
    /// The node, by hostname or id
    node: String,
}

/// Promotes or demotes nodes.
pub(super) async fn role(client: &Client, nodes: &[String], role: NodeRole) -> Outcome {
    for_each_target(nodes, |name| {
        let client = client.clone();
        async move {
            let node = named(&client, &name).await?;
            let mut spec = node.spec.clone().unwrap_or_default();
            let word = if role == NodeRole::Manager {
                "manager"
            } else {
                "worker"
            };
            if spec.role() == role {
                return Ok(format!("Node {name} is already a {word}."));
            }
            spec.set_role(role);
            write(&client, node, spec).await?;
            Ok(match role {
                NodeRole::Manager => format!("Node {name} promoted to a manager in the swarm."),
                NodeRole::Worker => format!("Manager {name} demoted in the swarm."),
            })
        }
    })
    .await
}

/// Changes a node's availability, role and labels.
pub(super) async fn run(client: &Client, arguments: Arguments) -> Outcome {
    let node = named(client, &arguments.node).await?;
    let mut spec = node.spec.clone().unwrap_or_default();
    if let Some(availability) = arguments.availability {
        spec.set_availability(availability.into());
    }
    if let Some(role) = arguments.role {
        spec.set_role(match role {
            RoleFlag::Worker => NodeRole::Worker,
            RoleFlag::Manager => NodeRole::Manager,
        });
    }
    let labels = &mut spec.annotations.get_or_insert_default().labels;
    for key in &arguments.label_rm {
        if labels.remove(key).is_none() {
            return Err(Failure::new(format!("key {key} doesn't exist in node's labels")));
        }
    }
    labels.extend(arguments.label_add.iter().map(|text| label(text)));
    write(client, node, spec).await?;
    listing::write(&format!("{}\n", arguments.node));
    Ok(0)
}

/// Gives a node another specification, unless somebody has changed that meanwhile. What the cluster itself writes to a node (its state,
/// its role) makes versions too, and is no reason to refuse a user.
async fn write(client: &Client, node: Node, spec: NodeSpec) -> Result<(), Failure> {
    let mut request = UpdateNodeRequest {
        version: node.meta.unwrap_or_default().version,
        target: node.id,
        spec: Some(spec),
    };
    for _ in 1..TRIES {
        let refused = match client.control().update_node(request.clone()).await {
            Err(status) if is_out_of_sequence(&status) => status,
            answer => return Ok(answer.map(drop)?),
        };
        let target = GetRequest {
            target: request.target.clone(),
        };
        let now = client.control().get_node(target).await?.into_inner();
        if now.spec != node.spec {
            return Err(refused.into());
        }
        request.version = now.meta.unwrap_or_default().version;
    }
    client.control().update_node(request).await?;
    Ok(())
}
