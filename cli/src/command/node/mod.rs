//! `pontoon node …`: [`list`], [`pretty`] (`inspect --pretty`) and [`update`] (with promotion and demotion) have files of their own.

mod list;
mod pretty;
mod update;

use clap::{Args, Subcommand};
use pontoon_proto::v1::{
    GetRequest, ListTasksRequest, Node, NodeRole, RemoveNodeRequest, SwarmStatusRequest,
};

use super::service::tasks;
use crate::client::Client;
use crate::error::{Failure, Outcome, for_each_target};

/// `pontoon node …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Demote one or more nodes from manager in the swarm
    Demote(Targets),
    /// Display detailed information on one or more nodes
    Inspect(InspectArguments),
    /// List nodes in the swarm
    #[command(visible_alias = "list")]
    Ls(list::Arguments),
    /// Promote one or more nodes to manager in the swarm
    Promote(Targets),
    /// List tasks running on one or more nodes, defaults to current node
    Ps(PsArguments),
    /// Remove one or more nodes from the swarm
    #[command(visible_alias = "remove")]
    Rm(RemoveArguments),
    /// Update a node
    Update(update::Arguments),
}

/// Commands that take nodes only.
#[derive(Args, Debug)]
pub struct Targets {
    /// Nodes, by hostname or id
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

/// `node inspect [OPTIONS] self|NODE [NODE...]`
#[derive(Args, Debug)]
pub struct InspectArguments {
    #[command(flatten)]
    shared: super::inspect::KindArguments,
    /// Print the information in a human friendly format
    #[arg(long, conflicts_with = "format")]
    pretty: bool,
}

/// `node ps [OPTIONS] [NODE...]`
#[derive(Args, Debug)]
pub struct PsArguments {
    #[command(flatten)]
    listing: tasks::ListingOptions,
    /// Nodes, by hostname or id; none: this one
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
}

/// `node rm [OPTIONS] NODE [NODE...]`
#[derive(Args, Debug)]
pub struct RemoveArguments {
    /// Force remove a node from the swarm
    #[arg(short = 'f', long)]
    force: bool,
    /// Nodes, by hostname or id
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

/// Runs a `node` command.
///
/// # Errors
/// The daemon's.
pub async fn dispatch(host: Option<&str>, command: Command) -> Outcome {
    if let Command::Inspect(InspectArguments {
        shared,
        pretty: false,
    }) = command
    {
        return super::inspect::one_kind(host, super::inspect::Kind::Node, shared).await;
    }
    let client = Client::connect(host).await?;
    match command {
        Command::Demote(targets) => update::role(&client, &targets.nodes, NodeRole::Worker).await,
        Command::Promote(targets) => update::role(&client, &targets.nodes, NodeRole::Manager).await,
        Command::Inspect(arguments) => pretty::print(&client, &arguments.shared.names).await,
        Command::Ls(arguments) => list::run(&client, arguments).await,
        Command::Ps(arguments) => ps(&client, arguments).await,
        Command::Rm(arguments) => {
            for_each_target(&arguments.nodes, |target| {
                let client = client.clone();
                async move {
                    let request = RemoveNodeRequest {
                        target: target.clone(),
                        force: arguments.force,
                    };
                    client.control().remove_node(request).await?;
                    Ok(target)
                }
            })
            .await
        }
        Command::Update(arguments) => update::run(&client, arguments).await,
    }
}

/// The node's id for `self`, else the name as it is.
async fn resolve(client: &Client, target: &str) -> Result<String, Failure> {
    if target != "self" {
        return Ok(target.to_owned());
    }
    Ok(client
        .swarm()
        .status(SwarmStatusRequest {})
        .await?
        .into_inner()
        .node_id)
}

/// The node that `self`, a hostname or an id names.
async fn named(client: &Client, target: &str) -> Result<Node, Failure> {
    let target = resolve(client, target).await?;
    let node = client.control().get_node(GetRequest { target }).await?;
    Ok(node.into_inner())
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

async fn ps(client: &Client, arguments: PsArguments) -> Outcome {
    let names = if arguments.nodes.is_empty() {
        vec!["self".to_owned()]
    } else {
        arguments.nodes
    };
    let mut nodes = Vec::new();
    for name in &names {
        nodes.push(named(client, name).await?.id);
    }
    tasks::print(
        client,
        ListTasksRequest {
            nodes,
            ..Default::default()
        },
        &arguments.listing,
    )
    .await
}
