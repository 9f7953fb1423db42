//! `pontoon swarm …`: making, joining and leaving a cluster; [`update`] its settings, [`unlock`] its managers.

mod unlock;
mod update;

pub mod ca;

use clap::{Args, Subcommand, ValueEnum};
use pontoon_proto::v1::{
    Availability, GetJoinTokensRequest, NodeRole, RotateJoinTokenRequest, SwarmInitRequest, SwarmJoinRequest,
    SwarmLeaveRequest, SwarmStatusRequest,
};

use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::{human, listing};

/// `pontoon swarm …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Display and rotate the root CA
    Ca(ca::Arguments),
    /// Initialize a swarm
    Init(InitArguments),
    /// Join a swarm as a node and/or manager
    Join(JoinArguments),
    /// Leave the swarm
    Leave(LeaveArguments),
    /// Manage join tokens
    JoinToken(JoinTokenArguments),
    /// Unlock swarm
    Unlock,
    /// Manage the unlock key
    UnlockKey(unlock::KeyArguments),
    /// Update the swarm
    Update(update::UpdateArguments),
}

/// A node's availability, as flags name it.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum AvailabilityFlag {
    /// Tasks may run.
    #[default]
    Active,
    /// No new tasks.
    Pause,
    /// No tasks.
    Drain,
}

impl From<AvailabilityFlag> for Availability {
    fn from(flag: AvailabilityFlag) -> Self {
        match flag {
            AvailabilityFlag::Active => Self::Active,
            AvailabilityFlag::Pause => Self::Pause,
            AvailabilityFlag::Drain => Self::Drain,
        }
    }
}

/// `swarm init [OPTIONS]`
#[derive(Args, Debug)]
pub struct InitArguments {
    /// Advertised address (format: "<ip|interface>[:port]")
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    advertise_addr: String,
    /// Enable manager autolocking (requiring an unlock key to start a stopped manager)
    #[arg(long)]
    autolock: bool,
    /// Availability of the node ("active", "pause", "drain")
    #[arg(long, value_name = "string", value_enum, default_value_t)]
    availability: AvailabilityFlag,
    /// Validity period for node certificates (ns|us|ms|s|m|h) (default 2160h0m0s)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    cert_expiry: Option<i64>,
    /// Address or interface to use for data path traffic (format: "<ip|interface>")
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    data_path_addr: String,
    /// Port number to use for data path traffic (1024 - 49151). If no value is set or is set to 0, the default port (4789) is used.
    #[arg(long, value_name = "uint32", default_value_t = 0, hide_default_value = true)]
    data_path_port: u32,
    /// Default address pool in CIDR format
    #[arg(long, value_name = "ipNetSlice", value_delimiter = ',')]
    default_addr_pool: Vec<String>,
    /// Default address pool subnet mask length
    #[arg(long, value_name = "uint32", default_value_t = 24)]
    default_addr_pool_mask_length: u32,
    /// Dispatcher heartbeat period (ns|us|ms|s|m|h) (default 1s)
    #[arg(long, value_name = "duration", value_parser = human::parse_duration)]
    dispatcher_heartbeat: Option<i64>,
    /// Specifications of one or more certificate signing endpoints
    #[arg(long, value_name = "external-ca")]
    external_ca: Vec<String>,
    /// Force create a new cluster from current state
    #[arg(long)]
    force_new_cluster: bool,
    /// Listen address (format: "<ip|interface>[:port]")
    #[arg(long, value_name = "node-addr", default_value = "0.0.0.0:2377")]
    listen_addr: String,
    /// Number of additional Raft snapshots to retain
    #[arg(long, value_name = "uint", default_value_t = 0, hide_default_value = true)]
    max_snapshots: u64,
    /// Number of log entries between Raft snapshots
    #[arg(long, value_name = "uint", default_value_t = 10_000)]
    snapshot_interval: u64,
    /// Task history retention limit
    #[arg(long, value_name = "int", default_value_t = 5)]
    task_history_limit: u32,
}

/// `swarm join [OPTIONS] HOST:PORT`
#[derive(Args, Debug)]
pub struct JoinArguments {
    /// Advertised address (format: "<ip|interface>[:port]")
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    advertise_addr: String,
    /// Availability of the node ("active", "pause", "drain")
    #[arg(long, value_name = "string", value_enum, default_value_t)]
    availability: AvailabilityFlag,
    /// Address or interface to use for data path traffic (format: "<ip|interface>")
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    data_path_addr: String,
    /// Listen address (format: "<ip|interface>[:port]")
    #[arg(long, value_name = "node-addr", default_value = "0.0.0.0:2377")]
    listen_addr: String,
    /// Token for entry into the swarm
    #[arg(long, value_name = "string")]
    token: String,
    /// A manager's address
    #[arg(value_name = "HOST:PORT")]
    remote: String,
}

/// `swarm leave [OPTIONS]`
#[derive(Args, Debug)]
pub struct LeaveArguments {
    /// Force this node to leave the swarm, ignoring warnings
    #[arg(short = 'f', long)]
    force: bool,
}

/// Which of the two tokens.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum TokenRole {
    Worker,
    Manager,
}

/// `swarm join-token [OPTIONS] (worker|manager)`
#[derive(Args, Debug)]
pub struct JoinTokenArguments {
    /// Only display token
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Rotate join token
    #[arg(long)]
    rotate: bool,
    /// The role that the token gives
    #[arg(value_enum)]
    role: TokenRole,
}

/// Runs a `swarm` command.
///
/// # Errors
/// The daemon's.
pub async fn dispatch(host: Option<&str>, command: Command) -> Outcome {
    if let Command::Update(arguments) = &command {
        arguments.check()?;
    }
    let client = Client::connect(host).await?;
    match command {
        Command::Ca(arguments) => ca::run(&client, arguments).await,
        Command::Init(arguments) => init(&client, arguments).await,
        Command::Join(arguments) => join(&client, arguments).await,
        Command::Leave(arguments) => {
            client
                .swarm()
                .leave(SwarmLeaveRequest {
                    force: arguments.force,
                })
                .await?;
            listing::write("Node left the swarm.\n");
            Ok(0)
        }
        Command::JoinToken(arguments) => join_token(&client, &arguments).await,
        Command::Unlock => unlock::unlock(&client).await,
        Command::UnlockKey(arguments) => unlock::key(&client, &arguments).await,
        Command::Update(arguments) => update::run(&client, &arguments).await,
    }
}

async fn init(client: &Client, arguments: InitArguments) -> Outcome {
    if !arguments.external_ca.is_empty() {
        return Err(Failure::new(ca::NO_EXTERNAL_CA));
    }
    let request = SwarmInitRequest {
        advertise_addr: arguments.advertise_addr,
        listen_addr: arguments.listen_addr,
        data_path_addr: arguments.data_path_addr,
        availability: Availability::from(arguments.availability).into(),
        default_addr_pool: arguments.default_addr_pool,
        default_addr_pool_mask_length: arguments.default_addr_pool_mask_length,
        data_path_port: arguments.data_path_port,
        task_history_limit: Some(arguments.task_history_limit),
        autolock: arguments.autolock,
        node_cert_expiry: arguments.cert_expiry.unwrap_or_default(),
        heartbeat_period: arguments.dispatcher_heartbeat.unwrap_or_default(),
        snapshot_interval: arguments.snapshot_interval,
        old_snapshots: arguments.max_snapshots,
        force_new_cluster: arguments.force_new_cluster,
    };
    let made = client.swarm().init(request).await?.into_inner();
    listing::write(&format!(
        "Swarm initialized: current node ({}) is now a manager.\n\n\
         To add a worker to this swarm, run the following command:\n\n    \
         pontoon swarm join --token {} {}\n\n\
         To add a manager to this swarm, run 'pontoon swarm join-token manager' and follow the instructions.\n\n",
        made.node_id, made.worker_token, made.addr
    ));
    if arguments.autolock {
        unlock::explain(&unlock::fetch(client).await?);
    }
    Ok(0)
}

async fn join(client: &Client, arguments: JoinArguments) -> Outcome {
    let request = SwarmJoinRequest {
        remote_addrs: vec![arguments.remote],
        token: arguments.token,
        advertise_addr: arguments.advertise_addr,
        listen_addr: arguments.listen_addr,
        data_path_addr: arguments.data_path_addr,
        availability: Availability::from(arguments.availability).into(),
    };
    let joined = client.swarm().join(request).await?.into_inner();
    let role = if joined.role() == NodeRole::Manager {
        "manager"
    } else {
        "worker"
    };
    listing::write(&format!("This node joined a swarm as a {role}.\n"));
    Ok(0)
}

async fn join_token(client: &Client, arguments: &JoinTokenArguments) -> Outcome {
    let (role, name) = match arguments.role {
        TokenRole::Worker => (NodeRole::Worker, "worker"),
        TokenRole::Manager => (NodeRole::Manager, "manager"),
    };
    let tokens = if arguments.rotate {
        client
            .control()
            .rotate_join_token(RotateJoinTokenRequest { role: role.into() })
            .await?
            .into_inner()
    } else {
        client
            .control()
            .get_join_tokens(GetJoinTokensRequest {})
            .await?
            .into_inner()
    };
    let token = if role == NodeRole::Worker {
        tokens.worker
    } else {
        tokens.manager
    };
    if arguments.quiet {
        listing::write(&format!("{token}\n"));
        return Ok(0);
    }
    let status = client.swarm().status(SwarmStatusRequest {}).await?.into_inner();
    let addr = status
        .remote_managers
        .first()
        .ok_or_else(|| Failure::new("the node knows no manager's address yet"))?;
    if arguments.rotate {
        listing::write(&format!("Successfully rotated {name} join token.\n\n"));
    }
    listing::write(&format!(
        "To add a {name} to this swarm, run the following command:\n\n    pontoon swarm join --token {token} {addr}\n\n"
    ));
    Ok(0)
}
