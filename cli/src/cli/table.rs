//! The table of commands: what each is called, what it is for, and where its arguments are declared. Made into the enumeration that
//! [`Cli::run`](super::Cli::run) dispatches on, and into clap's description of it.
//!
//! clap's derive would describe all flags of all commands at each start, several hundred of them: a third of a short
//! command's time. Here only the command that is asked for is described with its flags.

use clap::{Args as _, FromArgMatches as _, Subcommand as _};

use crate::command::{
    self, build, cluster, container, image, network, node, registry, service, stack, swarm, system, volume,
};
use crate::daemon;

/// Which commands are described with their flags and subcommands; of the others there are name and purpose.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// All: for help at the top, and for mistakes.
    All,
    /// The one of this name, if there is one.
    Only(&'a str),
    /// None: enough to find the command's name in the arguments.
    None,
}

/// `Name "name": leaf Arguments` for a command, `Name "name": group Command` for one that has commands below it.
macro_rules! table {
    ($(#[doc = $about:literal] $variant:ident $name:literal: $kind:ident $arguments:ty,)*) => {
        /// A command with its arguments.
        #[derive(Debug)]
        pub enum Command {
            $(#[doc = $about] $variant($arguments),)*
        }

        impl Command {
            /// Adds the commands to the description of the command line.
            pub fn describe(root: clap::Command, wanted: Wanted<'_>) -> clap::Command {
                root.subcommands([$({
                    let is_wanted = match wanted {
                        Wanted::All => true,
                        Wanted::Only(wanted) => wanted == $name,
                        Wanted::None => false,
                    };
                    let command = clap::Command::new($name).about($about.trim());
                    if is_wanted { table!(@describe $kind $arguments, command) } else { command }
                },)*])
            }

            /// What clap has found, if it is a command of the table.
            ///
            /// # Errors
            /// Values that clap could not convert.
            pub fn read(name: &str, matches: &mut clap::ArgMatches) -> Result<Option<Self>, clap::Error> {
                $(if name == $name {
                    return <$arguments>::from_arg_matches_mut(matches).map(|found| Some(Self::$variant(found)));
                })*
                Ok(None)
            }
        }
    };
    (@describe leaf $arguments:ty, $command:expr) => { <$arguments>::augment_args($command) };
    (@describe group $arguments:ty, $command:expr) => {
        <$arguments>::augment_subcommands($command).subcommand_required(true).arg_required_else_help(true)
    };
}

table! {
    /// Run the engine (and the node's part in a cluster) on this host
    Daemon "daemon": leaf Box<daemon::Arguments>,

    /// Create and run a new container from an image
    Run "run": leaf Box<container::run::Arguments>,
    /// Create a new container
    Create "create": leaf Box<container::run::CreateArguments>,
    /// Start one or more stopped containers
    Start "start": leaf container::start::Arguments,
    /// Stop one or more running containers
    Stop "stop": leaf container::signal::StopArguments,
    /// Restart one or more containers
    Restart "restart": leaf container::signal::StopArguments,
    /// Kill one or more running containers
    Kill "kill": leaf container::signal::KillArguments,
    /// Pause all processes within one or more containers
    Pause "pause": leaf container::signal::Targets,
    /// Unpause all processes within one or more containers
    Unpause "unpause": leaf container::signal::Targets,
    /// Remove one or more containers
    Rm "rm": leaf container::remove::Arguments,
    /// Rename a container
    Rename "rename": leaf container::remove::RenameArguments,
    /// Copy files/folders between a container and the local filesystem
    Cp "cp": leaf container::copy::Arguments,
    /// Export a container's filesystem as a tar archive
    Export "export": leaf container::export::Arguments,
    /// Inspect changes to files or directories on a container's filesystem
    Diff "diff": leaf container::diff::Arguments,
    /// Create a new image from a container's changes
    Commit "commit": leaf container::commit::Arguments,
    /// Block until one or more containers stop, then print their exit codes
    Wait "wait": leaf container::signal::Targets,
    /// List containers
    Ps "ps": leaf container::list::Arguments,
    /// Fetch the logs of a container
    Logs "logs": leaf container::logs::Arguments,
    /// Execute a command in a running container
    Exec "exec": leaf container::exec::Arguments,
    /// Attach local standard input, output, and error streams to a running container
    Attach "attach": leaf container::exec::AttachArguments,
    /// List port mappings or a specific mapping for the container
    Port "port": leaf container::ports::Arguments,
    /// Display a live stream of container(s) resource usage statistics
    Stats "stats": leaf container::stats::Arguments,
    /// Display the running processes of a container
    Top "top": leaf container::top::Arguments,
    /// Update configuration of one or more containers
    Update "update": leaf container::update::Arguments,
    /// Return low-level information on Pontoon objects
    Inspect "inspect": leaf command::inspect::Arguments,

    /// Build an image from a Dockerfile
    Build "build": leaf Box<build::Arguments>,
    /// Download an image from a registry
    Pull "pull": leaf registry::pull::Arguments,
    /// Upload an image to a registry
    Push "push": leaf registry::push::Arguments,
    /// Search Docker Hub for images
    Search "search": leaf registry::search::Arguments,
    /// Authenticate to a registry
    Login "login": leaf registry::login::LoginArguments,
    /// Log out from a registry
    Logout "logout": leaf registry::login::LogoutArguments,
    /// List images
    Images "images": leaf image::list::ListArguments,
    /// Load an image from a tar archive or STDIN
    Load "load": leaf image::archives::LoadArguments,
    /// Import the contents from a tarball to create a filesystem image
    Import "import": leaf image::archives::ImportArguments,
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save "save": leaf image::archives::SaveArguments,
    /// Remove one or more images
    Rmi "rmi": leaf image::RemoveArguments,
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag "tag": leaf image::TagArguments,
    /// Show the history of an image
    History "history": leaf image::HistoryArguments,

    /// Show the Pontoon version information
    Version "version": leaf system::VersionArguments,
    /// Get real time events from the server
    Events "events": leaf system::events::Arguments,
    /// Display system-wide information
    Info "info": leaf system::info::Arguments,

    /// Manage builds
    Builder "builder": group build::BuilderCommand,
    /// Build with extended grammar
    Buildx "buildx": group build::BuildxCommand,
    /// Manage backups of the swarm
    Cluster "cluster": group cluster::Command,
    /// Manage contexts
    Context "context": group command::context::Command,
    /// Explain why tasks, services and nodes are as they are
    Explain "explain": group command::explain::Command,
    /// Manage containers
    Container "container": group container::Command,
    /// Manage images
    Image "image": group image::Command,
    /// Manage Docker image manifests and manifest lists
    Manifest "manifest": group registry::manifest::Command,
    /// Manage networks
    Network "network": group network::Command,
    /// Manage volumes
    Volume "volume": group volume::Command,
    /// Manage the swarm
    Swarm "swarm": group swarm::Command,
    /// Manage swarm nodes
    Node "node": group node::Command,
    /// Manage swarm services
    Service "service": group service::Command,
    /// Manage swarm stacks
    Stack "stack": group stack::Command,
    /// Manage Pontoon
    System "system": group system::Command,
}
