//! `build`, under its own name and under `image`, `builder` and `buildx`; `builder prune`.
//!
//! - [`options`]: the flags; `lists`: values like `type=local,dest=out`;
//! - `context`, `remote`: where the files are: folder, archive, repository; `send`: what of them is sent; `caches`: of other builders;
//! - `plain`, `view`, `rawjson`: progress as lines, live on a terminal, or for programs; `annotations`, `refused`: more flags; `outputs`: what the daemon sends back;
//! - [`run`] in this file: one build.

mod annotations;
mod caches;
mod context;
mod lists;
pub mod options;
mod outputs;
mod plain;
mod prune;
mod rawjson;
mod refused;
mod remote;
mod send;
mod ssh;
mod view;

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use pontoon_build::ignore::Patterns;
use pontoon_proto::v1::{
    BuildFailure, BuildRequest, BuildResponse, BuildResult, build_request::Request, build_response::Event,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::listing;
use context::Source;
pub use options::Arguments;
use outputs::Receivers;

/// Requests that wait to be sent.
const REQUESTS: usize = 8;

/// `pontoon builder …`
#[derive(Debug, Subcommand)]
pub enum BuilderCommand {
    /// Build an image from a Dockerfile
    Build(Box<Arguments>),
    /// Remove build cache
    Prune(prune::Arguments),
}

/// `pontoon buildx …`
#[derive(Debug, Subcommand)]
pub enum BuildxCommand {
    /// Start a build
    #[command(visible_alias = "b")]
    Build(Box<Arguments>),
    /// Remove build cache
    Prune(prune::Arguments),
}

/// Runs a `builder` command.
///
/// # Errors
/// The command's.
pub async fn builder(host: Option<&str>, command: BuilderCommand) -> Outcome {
    match command {
        BuilderCommand::Build(arguments) => run(host, arguments).await,
        BuilderCommand::Prune(arguments) => prune::run(host, arguments).await,
    }
}

/// Runs a `buildx` command.
///
/// # Errors
/// The command's.
pub async fn buildx(host: Option<&str>, command: BuildxCommand) -> Outcome {
    match command {
        BuildxCommand::Build(arguments) => run(host, arguments).await,
        BuildxCommand::Prune(arguments) => prune::run(host, arguments).await,
    }
}

/// Shows progress.
trait Show {
    /// Takes an event; redraws at times even without one.
    fn event(&mut self, event: Option<&Event>);
    /// Nothing follows.
    fn finish(&mut self, failed: bool);
}

/// Shows nothing.
struct Silent;

impl Show for Silent {
    fn event(&mut self, _: Option<&Event>) {}

    fn finish(&mut self, _: bool) {}
}

/// Runs `build`.
///
/// # Errors
/// A bad flag or context, a mistake in the Dockerfile (with its lines), a step that failed (with its output), or the daemon's.
pub async fn run(host: Option<&str>, arguments: Box<Arguments>) -> Outcome {
    let show = progress(&arguments)?;
    let reads_stdin = arguments.context == "-" || arguments.file.as_deref() == Some("-");
    if reads_stdin {
        // A read of a terminal can't be given up: there Ctrl-C ends the client as it ends any program.
        let source = Source::open(&arguments).await?;
        return until_signal(build(host, &arguments, source, show)).await;
    }
    let whole = async {
        let source = Source::open(&arguments).await?;
        build(host, &arguments, source, show).await
    };
    until_signal(whole).await
}

/// Gives work up at Ctrl-C, so that its temporary files go.
async fn until_signal(work: impl Future<Output = Outcome>) -> Outcome {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let cancelled = || Failure::new("ERROR: failed to solve: Canceled: context canceled");
    tokio::select! {
        outcome = Box::pin(work) => outcome,
        _ = interrupt.recv() => Err(cancelled().with_code(130)),
        _ = terminate.recv() => Err(cancelled().with_code(143)),
    }
}

async fn build(
    host: Option<&str>,
    arguments: &Arguments,
    source: Source,
    mut show: Box<dyn Show + Send>,
) -> Outcome {
    let (outputs, receivers) = outputs::plan(arguments)?;
    let contexts = context::named(arguments).await?;
    let caches = arguments.cache_sources()?;
    let agents = arguments.agents()?;
    let lent = agents.iter().map(|(id, _)| id.clone()).collect();
    let start = arguments.start(&source, &contexts, outputs, caches.options, lent)?;
    let client = Client::connect(host).await?;
    let (requests, receiver) = mpsc::channel(REQUESTS);
    let first = BuildRequest {
        request: Some(Request::Start(start)),
    };
    // The channel is empty: this can't wait.
    requests.send(first).await.ok();
    let events = client
        .engine()
        .build(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    let mut session = Session {
        requests,
        failures: mpsc::channel(1),
        source,
        contexts,
        caches: caches.folders,
        agents: ssh::Agents::new(agents),
        receivers,
        compress: arguments.compress,
    };
    match session.follow(events, &mut *show).await? {
        Ok(result) => {
            show.finish(false);
            session.receivers.finish()?;
            finished(arguments, &result)
        }
        Err(failure) => {
            show.finish(true);
            session.receivers.forget();
            Err(explained(&session.source, &failure))
        }
    }
}

fn progress(arguments: &Arguments) -> Result<Box<dyn Show + Send>, Failure> {
    if arguments.quiet {
        return Ok(Box::new(Silent));
    }
    let is_terminal = std::io::stderr().is_terminal();
    match arguments.progress.as_str() {
        "quiet" => Ok(Box::new(Silent)),
        "plain" => Ok(Box::<plain::Plain>::default()),
        "tty" if !is_terminal => Err(Failure::new(
            "ERROR: failed to get console: provided file is not a console",
        )),
        "auto" | "tty" if is_terminal => Ok(Box::<view::View>::default()),
        "auto" => Ok(Box::<plain::Plain>::default()),
        "rawjson" => Ok(Box::<rawjson::RawJson>::default()),
        other => Err(Failure::new(format!("ERROR: invalid progress mode {other}"))),
    }
}

struct Session {
    requests: mpsc::Sender<BuildRequest>,
    /// Of contexts that could not be read.
    failures: (mpsc::Sender<Failure>, mpsc::Receiver<Failure>),
    source: Source,
    contexts: HashMap<String, context::Named>,
    /// Folders of caches.
    caches: HashMap<String, PathBuf>,
    agents: ssh::Agents,
    receivers: Receivers,
    /// Contexts are sent compressed.
    compress: bool,
}

impl Session {
    /// Does what the daemon asks for until the build has ended.
    async fn follow(
        &mut self,
        mut events: Streaming<BuildResponse>,
        show: &mut dyn Show,
    ) -> Result<Result<BuildResult, BuildFailure>, Failure> {
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(100));
        loop {
            let message = tokio::select! {
                message = events.message() => message?,
                Some(failure) = self.failures.1.recv() => {
                    self.receivers.forget();
                    return Err(failure);
                }
                _ = tick.tick() => {
                    show.event(None);
                    continue;
                }
            };
            let event = message.and_then(|message| message.event);
            let Some(event) = event else {
                return Err(Failure::new("the daemon ended the build without a result"));
            };
            show.event(Some(&event));
            match event {
                Event::Need(need) => self.send_context(need.name, &need.paths)?,
                Event::Ssh(data) => self.agents.data(data, &self.requests).await,
                Event::Output(data) => self.receivers.data(&data)?,
                Event::Result(result) => return Ok(Ok(result)),
                Event::Failure(failure) => return Ok(Err(failure)),
                Event::Step(_) | Event::Log(_) | Event::Status(_) | Event::Warning(_) => {}
            }
        }
    }

    fn send_context(&self, name: String, paths: &[String]) -> Result<(), Failure> {
        let (requests, failures) = (self.requests.clone(), self.failures.0.clone());
        if let Some(folder) = self.caches.get(&name) {
            let files = send::Files {
                folder: folder.clone(),
                ignored: Patterns::default(),
                compress: self.compress,
            };
            send::send(name, files, paths, requests, failures);
            return Ok(());
        }
        let folder = match name.as_str() {
            "" => self.source.folder(),
            name => self.contexts.get(name).and_then(context::Named::folder),
        };
        let folder = folder
            .ok_or_else(|| Failure::new(format!("the daemon asks for a context {name:?} that is none")))?;
        let ignored = match name.as_str() {
            "" => self.source.ignored()?,
            _ => context::ignored(&folder, None)?,
        };
        let files = send::Files {
            folder,
            ignored,
            compress: self.compress,
        };
        send::send(name, files, paths, requests, failures);
        Ok(())
    }
}

fn finished(arguments: &Arguments, result: &BuildResult) -> Outcome {
    if let Some(path) = &arguments.iidfile {
        write(path, &result.image_id)?;
    }
    if let Some(path) = &arguments.metadata_file {
        let mut metadata = serde_json::json!({
            "containerimage.config.digest": result.image_id, "containerimage.digest": result.manifest_digest,
        });
        if !result.tags.is_empty() {
            metadata["image.name"] = result.tags.join(",").into();
        }
        write(path, &format!("{metadata:#}"))?;
    }
    if arguments.quiet && !result.image_id.is_empty() {
        listing::write(&format!("{}\n", result.image_id));
    }
    Ok(0)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::new(format!("write {}: {error}", path.display())))
}

/// What went wrong, with the step's output and the Dockerfile's lines, as buildx tells it.
fn explained(source: &Source, failure: &BuildFailure) -> Failure {
    let mut text = String::new();
    if !failure.step.is_empty() {
        text.push_str(&format!("------\n > {}:\n", failure.step));
        text.push_str(&String::from_utf8_lossy(&failure.output));
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str("------\n");
    }
    if failure.first_line > 0 {
        let number = |line: u32| usize::try_from(line).unwrap_or(usize::MAX);
        let mistake = pontoon_build::Error::new("").at(pontoon_build::Lines {
            first: number(failure.first_line),
            last: number(failure.last_line),
        });
        let dockerfile = String::from_utf8_lossy(source.dockerfile());
        text.push_str(&mistake.excerpt(source.dockerfile_name(), &dockerfile));
    }
    let message = match failure.message.as_str() {
        "the build was cancelled" => "ERROR: failed to solve: Canceled: context canceled".to_owned(),
        message => format!("ERROR: failed to solve: {message}"),
    };
    Failure::new(text + &message)
}
