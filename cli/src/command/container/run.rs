//! `run` and `create`.

use std::io::IsTerminal;

use clap::Args;
use pontoon_proto::v1::{
    AttachStart, ContainerRequest, CreateContainerRequest, PullImageRequest, RemoveContainerRequest,
    WaitCondition, WaitContainerRequest,
};

use super::config;
use super::exec::{AttachSession, open_attach};
use super::options::ContainerOptions;
use crate::client::Client;
use crate::command::registry;
use crate::error::{EXIT_ENGINE, Failure, Outcome};
use crate::output::listing;
use crate::output::transfer::Stream;
use crate::stdio::End;
use crate::terminal::{self, DetachKeys};

/// `run [OPTIONS] IMAGE [COMMAND] [ARG...]`
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    options: ContainerOptions,
    /// Run container in background and print container ID
    #[arg(short = 'd', long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string", default_value = DetachKeys::DEFAULT, hide_default_value = true)]
    detach_keys: String,
    /// Proxy received signals to the process (default true)
    #[arg(long, value_name = "bool", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, hide_default_value = true)]
    sig_proxy: bool,
    /// Pull image before running ("always", "missing", "never") (default "missing")
    #[arg(
        long,
        value_name = "string",
        default_value = "missing",
        hide_default_value = true
    )]
    pull: String,
    /// The image, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"])]
    image_and_command: Vec<String>,
}

/// `create [OPTIONS] IMAGE [COMMAND] [ARG...]`
#[derive(Args, Debug)]
pub struct CreateArguments {
    #[command(flatten)]
    options: ContainerOptions,
    /// Pull image before creating ("always", "|missing", "never") (default "missing")
    #[arg(
        long,
        value_name = "string",
        default_value = "missing",
        hide_default_value = true
    )]
    pull: String,
    /// The image, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"])]
    image_and_command: Vec<String>,
}

/// Runs `create`.
///
/// # Errors
/// With status 125 for bad flags, 1 for what the daemon refuses.
pub async fn create(host: Option<&str>, arguments: Box<CreateArguments>) -> Outcome {
    let request = request(&arguments.options, &arguments.image_and_command)?;
    let pull = Pull::parse(&arguments.pull)?;
    let client = Client::connect(host).await?;
    let id = create_container(&client, request, pull, &arguments.options).await?;
    listing::write(&format!("{id}\n"));
    Ok(0)
}

/// Runs `run`.
///
/// # Errors
/// Status 125 when the daemon refused, 126 or 127 when the command could not be started, else the container's own status.
pub async fn run(host: Option<&str>, arguments: Box<Arguments>) -> Outcome {
    let options = &arguments.options;
    let mut request = request(options, &arguments.image_and_command)?;
    if arguments.detach {
        request.attach_stdin = false;
        request.attach_stdout = false;
        request.attach_stderr = false;
        request.stdin_once = false;
    }
    let pull = Pull::parse(&arguments.pull)?;
    let keys =
        DetachKeys::parse(&arguments.detach_keys).map_err(|e| Failure::new(e).with_code(EXIT_ENGINE))?;
    if arguments.detach && !options.attach.is_empty() {
        return Err(Failure::new(
            "conflicting options: cannot specify both --attach and --detach",
        ));
    }
    let interactive = options.interactive && !arguments.detach;
    if options.tty && interactive && !std::io::stdin().is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let client = Client::connect(host)
        .await
        .map_err(|e| e.with_code(EXIT_ENGINE))?;
    let id = create_container(&client, request, pull, options)
        .await
        .map_err(|e| e.with_code(EXIT_ENGINE))?;
    if arguments.detach {
        start(&client, &id, options.rm).await?;
        listing::write(&format!("{id}\n"));
        return Ok(0);
    }
    let all = options.attach.is_empty();
    let session = open_attach(
        &client,
        AttachStart {
            target: id.clone(),
            stdin: interactive && (all || config::attaches(options, "stdin")),
            stdout: all || config::attaches(options, "stdout"),
            stderr: all || config::attaches(options, "stderr"),
            logs: false,
        },
    )
    .await
    .map_err(|e| e.with_code(EXIT_ENGINE))?;
    let _raw = if options.tty && interactive && terminal::is_interactive() {
        Some(terminal::RawMode::enter()?)
    } else {
        None
    };
    start(&client, &id, options.rm).await?;
    let ended = finish(
        &client,
        &id,
        session,
        options.tty,
        arguments.sig_proxy && !options.tty,
        keys,
    )
    .await?;
    Ok(ended.unwrap_or(0))
}

/// Follows an attached container to its end and returns its exit status; none if the user has detached.
///
/// # Errors
/// The daemon's.
pub(super) async fn finish(
    client: &Client,
    id: &str,
    session: AttachSession,
    tty: bool,
    proxy_signals: bool,
    keys: DetachKeys,
) -> Result<Option<u8>, Failure> {
    match session.forward(client, id, tty, proxy_signals, keys).await? {
        End::Detached => Ok(None),
        End::Finished(Some(code)) => Ok(Some(exit_status(code))),
        End::Finished(None) => {
            let condition = WaitCondition::NotRunning.into();
            let wait = WaitContainerRequest {
                target: id.to_owned(),
                condition,
            };
            let answer = client.engine().wait_container(wait).await?.into_inner();
            Ok(Some(exit_status(answer.exit_code)))
        }
    }
}

/// An exit code as the process's own: the low byte, as the kernel would give it.
pub(super) fn exit_status(code: i32) -> u8 {
    (code & 0xff) as u8
}

fn request(
    options: &ContainerOptions,
    image_and_command: &[String],
) -> Result<CreateContainerRequest, Failure> {
    let Some((image, command)) = image_and_command.split_first() else {
        return Err(Failure::new("requires at least 1 argument: IMAGE"));
    };
    config::request(options, image, command).map_err(|failure| failure.with_code(EXIT_ENGINE))
}

/// When `--pull` asks for an image from a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pull {
    Always,
    Missing,
    Never,
}

impl Pull {
    fn parse(text: &str) -> Result<Self, Failure> {
        match text {
            "always" => Ok(Self::Always),
            "missing" | "" => Ok(Self::Missing),
            "never" => Ok(Self::Never),
            other => Err(Failure::new(format!(
                "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
            ))
            .with_code(EXIT_ENGINE)),
        }
    }
}

async fn create_container(
    client: &Client,
    request: CreateContainerRequest,
    pull: Pull,
    options: &ContainerOptions,
) -> Result<String, Failure> {
    let cidfile = options.cidfile.as_ref();
    if let Some(path) = cidfile.filter(|path| path.exists()) {
        return Err(Failure::new(format!(
            "container ID file found, make sure the other container isn't running or delete {}",
            path.display()
        )));
    }
    let image = request
        .config
        .as_ref()
        .map(|config| config.image.clone())
        .unwrap_or_default();
    if pull == Pull::Always {
        pull_image(client, &image, options).await?;
    }
    let created = match client.engine().create_container(request.clone()).await {
        Err(status) if pull == Pull::Missing && is_missing(&status) => {
            // Docker says what it is about to do even when it is quiet.
            eprintln!("Unable to find image '{}' locally", with_tag(&image));
            pull_image(client, &image, options).await?;
            client.engine().create_container(request).await?
        }
        other => other?,
    };
    let created = created.into_inner();
    for warning in &created.warnings {
        eprintln!("WARNING: {warning}");
    }
    if let Some(path) = cidfile {
        std::fs::write(path, &created.id)
            .map_err(|error| Failure::new(format!("write container ID file {}: {error}", path.display())))?;
    }
    Ok(created.id)
}

/// The image is not here, or not for the platform that was asked for: Docker pulls in both cases.
fn is_missing(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::NotFound && status.message().contains("No such image: ")
}

fn with_tag(image: &str) -> String {
    pontoon_image::Reference::parse(image)
        .map_or_else(|_| image.to_owned(), |name| name.with_default_tag().familiar())
}

/// Pulls for a container; what there is to show goes to stderr, as stdout is the container's.
async fn pull_image(client: &Client, image: &str, options: &ContainerOptions) -> Result<(), Failure> {
    let stream = if options.quiet {
        Stream::Nowhere
    } else {
        Stream::Stderr
    };
    let request = PullImageRequest {
        reference: image.to_owned(),
        all_tags: false,
        platform: options.platform.clone(),
        auth: None,
    };
    registry::pull::pull(client, request, stream).await
}

/// Starts a new container; one that is to be removed at its end is removed when it can't be started at all.
async fn start(client: &Client, id: &str, remove: bool) -> Result<(), Failure> {
    let started = client
        .engine()
        .start_container(ContainerRequest {
            target: id.to_owned(),
        })
        .await;
    let Err(status) = started else { return Ok(()) };
    if remove {
        let request = RemoveContainerRequest {
            target: id.to_owned(),
            force: true,
            volumes: true,
        };
        // It may have been removed by the daemon already.
        let _ = client.engine().remove_container(request).await;
    }
    let code = start_failure_status(status.message());
    Err(Failure::from(status).with_code(code))
}

/// Docker's exit status for a start that failed: 127 command not found, 126 can't be executed, 125 the rest.
pub(super) fn start_failure_status(message: &str) -> u8 {
    let any = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    if any(&[
        "executable file not found",
        "no such file or directory",
        "system cannot find the file specified",
    ]) {
        127
    } else if any(&["permission denied", "is a directory", "exec format error"]) {
        126
    } else {
        EXIT_ENGINE
    }
}
