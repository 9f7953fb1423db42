//! `exec` and `attach`, and the attached sessions of `run` and `start -a`.

use std::io::IsTerminal;

use clap::Args;
use pontoon_proto::v1::{
    AttachRequest, AttachStart, ContainerRequest, ExecRequest, ExecStart, KillContainerRequest,
    StdioResponse, TerminalSize, attach_request, exec_request, stdio_response::Response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::run::{exit_status, start_failure_status};
use crate::client::Client;
use crate::error::{EXIT_ENGINE, Failure, Outcome};
use crate::stdio::{self, End, Input};
use crate::terminal::{self, DetachKeys};

/// Requests that may wait for the daemon before stdin is read further.
const QUEUE: usize = 16;

/// `exec [OPTIONS] CONTAINER COMMAND [ARG...]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Detached mode: run command in the background
    #[arg(short = 'd', long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string", default_value = DetachKeys::DEFAULT, hide_default_value = true)]
    detach_keys: String,
    /// Set environment variables
    #[arg(short = 'e', long, value_name = "list")]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "list")]
    env_file: Vec<std::path::PathBuf>,
    /// Keep STDIN open even if not attached
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short = 't', long)]
    tty: bool,
    /// Username or UID (format: "<name|uid>[:<group|gid>]")
    #[arg(
        short = 'u',
        long,
        value_name = "string",
        default_value = "",
        hide_default_value = true
    )]
    user: String,
    /// Working directory inside the container
    #[arg(
        short = 'w',
        long,
        value_name = "string",
        default_value = "",
        hide_default_value = true
    )]
    workdir: String,
    /// The container, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    container_and_command: Vec<String>,
}

/// `attach [OPTIONS] CONTAINER`
#[derive(Args, Debug)]
pub struct AttachArguments {
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string", default_value = DetachKeys::DEFAULT, hide_default_value = true)]
    detach_keys: String,
    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,
    /// Proxy all received signals to the process (default true)
    #[arg(long, value_name = "bool", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(action = clap::ArgAction::Set, hide_default_value = true)]
    sig_proxy: bool,
    /// Container to attach to
    container: String,
}

/// Runs `exec`.
///
/// # Errors
/// Status 126 or 127 when the command can't be started, 1 for what the daemon refuses, else the command's own.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let keys = DetachKeys::parse(&arguments.detach_keys).map_err(Failure::new)?;
    let start = start_of(&arguments)?;
    let interactive = start.stdin;
    if start.tty && interactive && !std::io::stdin().is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let client = Client::connect(host).await?;
    let (requests, receiver) = mpsc::channel(QUEUE);
    let send = |request| ExecRequest {
        request: Some(request),
    };
    requests
        .send(send(exec_request::Request::Start(start)))
        .await
        .map_err(|_| Failure::new("exec was cancelled"))?;
    let answered = client
        .engine()
        .exec(ReceiverStream::new(receiver))
        .await
        .map_err(exec_failure)?;
    let mut responses = answered.into_inner();
    if first_response(&mut responses)
        .await
        .map_err(exec_failure)?
        .is_none()
        || arguments.detach
    {
        return Ok(0);
    }
    let _raw = if arguments.tty && interactive {
        Some(terminal::RawMode::enter()?)
    } else {
        None
    };
    let options = stdio::Options {
        stdin: interactive,
        tty: arguments.tty && interactive,
        proxy_signals: false,
        detach_keys: keys,
    };
    let detached = forward(options, requests, |input| {
        Some(ExecRequest {
            request: Some(match input {
                Input::Data(data) => exec_request::Request::Stdin(data.into()),
                Input::Close => exec_request::Request::StdinClose(true),
                Input::Resize(size) => exec_request::Request::Resize(size),
                Input::Signal(number) => exec_request::Request::Signal(number.to_string()),
            }),
        })
    });
    match stdio::copy_output(responses, detached).await? {
        End::Finished(code) => Ok(exit_status(code.unwrap_or(0))),
        End::Detached => Err(escaped()),
    }
}

/// The request, checked as far as the client can.
fn start_of(arguments: &Arguments) -> Result<ExecStart, Failure> {
    let Some((container, command)) = arguments
        .container_and_command
        .split_first()
        .filter(|(_, command)| !command.is_empty())
    else {
        return Err(Failure::new("requires at least 2 arguments: CONTAINER COMMAND"));
    };
    let is_bad = |entry: &&String| entry.is_empty() || entry.starts_with('=');
    if let Some(bad) = arguments.env.iter().find(is_bad) {
        let text =
            format!("invalid argument {bad:?} for \"-e, --env\" flag: invalid environment variable: {bad}");
        return Err(Failure::new(text).with_code(EXIT_ENGINE));
    }
    Ok(ExecStart {
        target: container.clone(),
        command: command.to_vec(),
        tty: arguments.tty,
        stdin: arguments.interactive && !arguments.detach,
        detach: arguments.detach,
        env: super::config::environment(&arguments.env_file, &arguments.env)?,
        user: arguments.user.clone(),
        dir: arguments.workdir.clone(),
        privileged: arguments.privileged,
        size: terminal::size().map(|(rows, columns)| TerminalSize {
            rows: rows.into(),
            columns: columns.into(),
        }),
    })
}

/// Docker's word and status for `exec` and `attach` that were left by the detach keys; `run` and `start` say nothing.
fn escaped() -> Failure {
    Failure::new("read escape sequence")
}

fn exec_failure(status: tonic::Status) -> Failure {
    let settings = [
        "unable to find user",
        "unable to find group",
        "container could not be created",
        "cwd ",
    ];
    let code = match start_failure_status(status.message()) {
        // The process could be made but for what it should be: Docker's runtimes end with "can't be executed" then.
        EXIT_ENGINE if settings.iter().any(|text| status.message().contains(text)) => 126,
        EXIT_ENGINE => 1,
        code => code,
    };
    Failure::from(status).with_code(code)
}

/// Forwards input as requests; what `convert` turns to `None` is dropped. When the daemon is slow, reading stdin waits.
fn forward<T, F>(options: stdio::Options, requests: mpsc::Sender<T>, convert: F) -> mpsc::Receiver<()>
where
    T: Send + 'static,
    F: Fn(Input) -> Option<T> + Send + 'static,
{
    stdio::forward_input(options, move |input| {
        let requests = requests.clone();
        let request = convert(input);
        async move {
            match request {
                Some(request) => requests.send(request).await.is_ok(),
                None => true,
            }
        }
    })
}

/// Waits for the daemon's word that the streams are connected; `None` if the stream ended first.
async fn first_response(responses: &mut Streaming<StdioResponse>) -> Result<Option<String>, tonic::Status> {
    match responses.message().await?.and_then(|response| response.response) {
        Some(Response::Attached(id)) => Ok(Some(id)),
        Some(_) => Err(tonic::Status::internal(
            "the daemon sent output before it said that it is attached",
        )),
        None => Ok(None),
    }
}

/// Runs `attach`.
///
/// # Errors
/// When the container is not running, or the daemon's.
pub async fn attach(host: Option<&str>, arguments: AttachArguments) -> Outcome {
    let keys = DetachKeys::parse(&arguments.detach_keys).map_err(Failure::new)?;
    let client = Client::connect(host).await?;
    let container = client
        .engine()
        .inspect_container(ContainerRequest {
            target: arguments.container,
        })
        .await?
        .into_inner();
    match container.state() {
        pontoon_proto::v1::ContainerState::Running => {}
        pontoon_proto::v1::ContainerState::Paused => {
            return Err(Failure::new(
                "You cannot attach to a paused container, unpause it first",
            ));
        }
        pontoon_proto::v1::ContainerState::Restarting => {
            return Err(Failure::new(
                "You cannot attach to a restarting container, wait until it is running",
            ));
        }
        _ => {
            return Err(Failure::new(
                "You cannot attach to a stopped container, start it first",
            ));
        }
    }
    let config = container.config.unwrap_or_default();
    let stdin = config.open_stdin && !arguments.no_stdin;
    if config.tty && stdin && !std::io::stdin().is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let start = AttachStart {
        target: container.id.clone(),
        stdin,
        stdout: true,
        stderr: true,
        logs: false,
    };
    let session = open_attach(&client, start).await?;
    let _raw = if config.tty && stdin {
        Some(terminal::RawMode::enter()?)
    } else {
        None
    };
    let proxy = arguments.sig_proxy && !config.tty;
    let ended = super::run::finish(&client, &container.id, session, config.tty, proxy, keys).await?;
    ended.ok_or_else(escaped)
}

/// Streams of a container that are connected, with nothing forwarded yet.
#[derive(Debug)]
pub struct AttachSession {
    stdin: bool,
    requests: mpsc::Sender<AttachRequest>,
    responses: Streaming<StdioResponse>,
}

/// Connects to a container's streams; it may not have been started yet.
///
/// # Errors
/// The daemon's.
pub async fn open_attach(client: &Client, start: AttachStart) -> Result<AttachSession, Failure> {
    let stdin = start.stdin;
    let (requests, receiver) = mpsc::channel(QUEUE);
    let request = AttachRequest {
        request: Some(attach_request::Request::Start(start)),
    };
    requests
        .send(request)
        .await
        .map_err(|_| Failure::new("attach was cancelled"))?;
    let mut responses = client
        .engine()
        .attach(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    first_response(&mut responses).await?;
    Ok(AttachSession {
        stdin,
        requests,
        responses,
    })
}

impl AttachSession {
    /// Forwards both ways until the container ends or the user detaches. Signals go to the container by `kill`.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn forward(
        self,
        client: &Client,
        id: &str,
        tty: bool,
        proxy_signals: bool,
        detach_keys: DetachKeys,
    ) -> Result<End, Failure> {
        let has_terminal = tty && std::io::stdout().is_terminal();
        let options = stdio::Options {
            stdin: self.stdin,
            tty: has_terminal,
            proxy_signals,
            detach_keys,
        };
        let (client, id) = (client.clone(), id.to_owned());
        let detached = forward(options, self.requests, move |input| {
            let request = match input {
                Input::Data(data) => attach_request::Request::Stdin(data.into()),
                Input::Close => attach_request::Request::StdinClose(true),
                Input::Resize(size) => attach_request::Request::Resize(size),
                Input::Signal(number) => {
                    let (client, target) = (client.clone(), id.clone());
                    tokio::spawn(async move {
                        let request = KillContainerRequest {
                            target,
                            signal: number.to_string(),
                        };
                        // The container may have ended meanwhile; then there is nobody to signal.
                        let _ = client.engine().kill_container(request).await;
                    });
                    return None;
                }
            };
            Some(AttachRequest {
                request: Some(request),
            })
        });
        stdio::copy_output(self.responses, detached).await
    }
}
