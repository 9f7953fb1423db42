//! The command line's grammar at the top: global options, the commands, and Docker's exit statuses for mistakes in usage.
//!
//! Docker has each container and image command twice (`pontoon ps`, `pontoon container ls`): both names lead to the same
//! arguments type, declared beside its implementation in [`crate::command`]. How help and mistakes are told is in [`crate::usage`].

use std::ffi::OsString;

mod table;

use clap::error::ErrorKind;
use clap::{ArgAction, ArgMatches, Args, FromArgMatches};

use crate::command::{
    self, build, cluster, container, image, network, node, registry, service, stack, swarm, system, volume,
};
use crate::error::{Failure, Outcome};
use crate::output::listing;
use crate::usage::{self, help, walk};
use crate::{context, daemon};
pub use table::{Command, Wanted};

/// A command line that is understood.
#[derive(Debug)]
pub struct Cli {
    global: Global,
    command: Command,
}

/// The command line's description.
pub fn grammar(wanted: Wanted<'_>) -> clap::Command {
    let root = clap::Command::new("pontoon")
        .about("A container engine and orchestrator in one binary. `alias docker=pontoon`")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .args_override_self(true);
    usage::take_any_value(Command::describe(Global::augment_args(root), wanted))
}

/// Options before the command.
#[derive(Args, Debug)]
pub struct Global {
    /// Daemon socket to connect to (unix:///path, ssh://[user@]host[:port])
    #[arg(short = 'H', long, value_name = "HOST", env = "PONTOON_HOST", hide_env = true)]
    pub host: Option<String>,
    /// Name of the context to use to connect to the daemon (overrides PONTOON_HOST env var and default context set
    /// with "pontoon context use")
    #[arg(
        short = 'c',
        long,
        value_name = "string",
        env = "PONTOON_CONTEXT",
        hide_env = true
    )]
    pub context: Option<String>,
    /// Print usage
    #[arg(long, global = true, action = ArgAction::Help, help = "Print usage")]
    help: Option<bool>,
    /// Print version information and quit
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// Parses the process's arguments.
///
/// # Errors
/// As [`parse_from`].
pub fn parse() -> Result<Cli, Failure> {
    parse_from(std::env::args_os())
}

/// Parses arguments, the program's name first.
///
/// # Errors
/// A usage mistake, with Docker's words and exit status; help and version are an empty failure with status 0, already printed.
pub fn parse_from(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Failure> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.get(1).is_some_and(|word| word == "help") {
        arguments.remove(1);
        arguments.push("--help".into());
    }
    let name = command_named(&arguments);
    let root = grammar(name.as_deref().map_or(Wanted::All, Wanted::Only));
    let mut walked = walk::walk(&root, arguments)
        .map_err(|(path, message)| usage::flag_mistake(&root, &path, &message))?;
    if let (["daemon"], Some(at)) = (walked.path_words().as_slice(), walked.command_end) {
        let settings = daemon::file::flags(usage::command_at(&root, &walked.path), &walked.arguments[at..])?;
        walked.arguments.splice(at..at, settings);
    }
    let parsed = root
        .clone()
        .try_get_matches_from(&walked.arguments)
        .and_then(Cli::from_matches);
    parsed.map_err(|error| match error.kind() {
        ErrorKind::DisplayVersion => {
            listing::write(concat!("Pontoon version ", env!("CARGO_PKG_VERSION"), "\n"));
            Failure::silent(0)
        }
        ErrorKind::DisplayHelp => {
            listing::write(&help::help(usage::command_at(&root, &walked.path), &walked.path));
            Failure::silent(0)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            let text = help::help(usage::command_at(&root, &walked.path), &walked.path);
            Failure::new(text.trim_end())
        }
        _ => usage::explain(&error, &root, &walked),
    })
}

/// The command that the arguments name, if they name one.
fn command_named(arguments: &[OsString]) -> Option<String> {
    let walked = walk::walk(&grammar(Wanted::None), arguments.iter().cloned()).ok()?;
    walked.path.into_iter().next()
}

impl Cli {
    fn from_matches(mut matches: ArgMatches) -> Result<Self, clap::Error> {
        let global = Global::from_arg_matches_mut(&mut matches)?;
        let missing = || clap::Error::new(ErrorKind::MissingSubcommand);
        let (name, mut matches) = matches.remove_subcommand().ok_or_else(missing)?;
        let command = Command::read(&name, &mut matches)?.ok_or_else(missing)?;
        Ok(Self { global, command })
    }

    /// True for `daemon`, which wants a runtime with several threads.
    pub fn is_daemon(&self) -> bool {
        matches!(self.command, Command::Daemon(_))
    }

    /// The arguments of `daemon`, if that is the command.
    pub fn into_daemon(self) -> Option<daemon::Arguments> {
        match self.command {
            Command::Daemon(arguments) => Some(*arguments),
            _ => None,
        }
    }

    /// Runs the command.
    ///
    /// # Errors
    /// The command's failure.
    pub async fn run(self) -> Outcome {
        let Global { host, context, .. } = &self.global;
        let (host, context) = (host.as_deref(), context.as_deref());
        // These need no daemon; all others must not go to the default one when the context is broken.
        let found = match self.command {
            Command::Daemon(_) | Command::Context(_) | Command::Logout(_) => None,
            _ => context::host(host, context)?,
        };
        let (given, host) = (host, found.as_deref());
        match self.command {
            Command::Daemon(arguments) => daemon::run(*arguments).await,
            Command::Run(arguments) => Box::pin(container::run::run(host, arguments))
                .await
                .map_err(|failure| usage::run_failure("run", failure)),
            Command::Create(arguments) => Box::pin(container::run::create(host, arguments))
                .await
                .map_err(|failure| usage::run_failure("create", failure)),
            Command::Start(arguments) => container::start::run(host, arguments).await,
            Command::Stop(arguments) => container::signal::stop(host, arguments).await,
            Command::Restart(arguments) => container::signal::restart(host, arguments).await,
            Command::Kill(arguments) => container::signal::kill(host, arguments).await,
            Command::Pause(arguments) => container::signal::pause(host, arguments).await,
            Command::Unpause(arguments) => container::signal::unpause(host, arguments).await,
            Command::Rm(arguments) => container::remove::run(host, arguments).await,
            Command::Rename(arguments) => container::remove::rename(host, arguments).await,
            Command::Cp(arguments) => container::copy::run(host, arguments).await,
            Command::Export(arguments) => container::export::run(host, arguments).await,
            Command::Diff(arguments) => container::diff::run(host, arguments).await,
            Command::Commit(arguments) => container::commit::run(host, arguments).await,
            Command::Wait(arguments) => container::signal::wait(host, arguments).await,
            Command::Ps(arguments) => container::list::run(host, arguments).await,
            Command::Logs(arguments) => container::logs::run(host, arguments).await,
            Command::Exec(arguments) => container::exec::run(host, arguments).await,
            Command::Attach(arguments) => container::exec::attach(host, arguments).await,
            Command::Port(arguments) => container::ports::run(host, arguments).await,
            Command::Stats(arguments) => container::stats::run(host, arguments).await,
            Command::Top(arguments) => container::top::run(host, arguments).await,
            Command::Update(arguments) => container::update::run(host, arguments).await,
            Command::Inspect(arguments) => command::inspect::run(host, arguments).await,
            Command::Build(arguments) => Box::pin(build::run(host, arguments)).await,
            Command::Builder(command) => Box::pin(build::builder(host, command)).await,
            Command::Buildx(command) => Box::pin(build::buildx(host, command)).await,
            Command::Pull(arguments) => registry::pull::run(host, arguments).await,
            Command::Push(arguments) => registry::push::run(host, arguments).await,
            Command::Search(arguments) => registry::search::run(host, arguments).await,
            Command::Login(arguments) => registry::login::login(host, arguments).await,
            Command::Logout(arguments) => registry::login::logout(arguments),
            Command::Images(arguments) => image::list::list(host, arguments).await,
            Command::Load(arguments) => image::archives::load(host, arguments).await,
            Command::Import(arguments) => image::archives::import(host, arguments).await,
            Command::Save(arguments) => image::archives::save(host, arguments).await,
            Command::Rmi(arguments) => image::remove(host, arguments).await,
            Command::Tag(arguments) => image::tag(host, arguments).await,
            Command::History(arguments) => image::history(host, arguments).await,
            Command::Version(arguments) => system::version(host, arguments).await,
            Command::Events(arguments) => system::events::run(host, arguments).await,
            Command::Info(arguments) => system::info::run(host, arguments).await,
            Command::Context(command) => command::context::dispatch(given, context, command),
            Command::Cluster(command) => cluster::dispatch(host, command).await,
            Command::Explain(command) => command::explain::dispatch(host, command).await,
            Command::Container(command) => container::dispatch(host, command).await,
            Command::Image(command) => image::dispatch(host, command).await,
            Command::Manifest(command) => registry::manifest::dispatch(host, command).await,
            Command::Network(command) => network::dispatch(host, command).await,
            Command::Volume(command) => volume::dispatch(host, command).await,
            Command::Swarm(command) => swarm::dispatch(host, command).await,
            Command::Node(command) => node::dispatch(host, command).await,
            Command::Service(command) => Box::pin(service::dispatch(host, command)).await,
            Command::Stack(command) => stack::dispatch(host, command).await,
            Command::System(command) => system::dispatch(host, command).await,
        }
    }
}
