//! Builds: a Dockerfile that a client sends is planned by `pontoon_build` and carried out here.
//!
//! - [`Engine::build`] in this file: one build from its request to its end; [`Failure`]: why one has failed;
//! - `solve`: steps in parallel, each from the cache or made; `run` (programs), `files`, `copy` and `fetch` (files);
//! - `contexts`, `agents`: what the client lends: its files, its SSH agents; `progress`: what it is told;
//! - `cache`, `prune`: what stays; `exchange`: what of it comes from and goes to elsewhere; `finish`: the image, and other outputs.
//!
//! A build's folders are its own and go with it; what it has made stays in the cache. A client that leaves cancels the build. A daemon
//! that is killed leaves folders, snapshots and processes that belong to nobody and go at the next start.

mod agents;
pub(crate) mod cache;
mod contexts;
mod copy;
mod exchange;
mod fetch;
mod files;
mod finish;
mod images;
mod progress;
mod prune;
mod run;
mod solve;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use pontoon_build::dockerfile::Dockerfile;
use pontoon_build::plan::{NamedContext, Network, Plan, Platform, Settings};
use pontoon_build::{Error as Mistake, Lines};
use pontoon_proto::v1::{
    BuildFailure, BuildRequest, BuildResponse, BuildResult, BuildStart, build_request, build_response::Event,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::engine::blocking;
use crate::{Engine, Error, Result, id};
use agents::Agents;
use contexts::Incoming;
use progress::Reporter;

/// Events that wait for the client.
const EVENTS: usize = 64;

/// Result of a build's parts.
type Outcome<T> = std::result::Result<T, Failure>;

/// Why a build has failed.
#[derive(Debug, Clone, Default)]
pub(super) struct Failure {
    pub(super) message: String,
    pub(super) lines: Option<Lines>,
    pub(super) step: String,
    pub(super) output: Bytes,
    pub(super) exit_code: i32,
    /// Another step's failure, or the client, ended it.
    pub(super) is_cancelled: bool,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..Self::default()
        }
    }

    pub(super) fn cancelled() -> Self {
        Self {
            is_cancelled: true,
            ..Self::new("the build was cancelled")
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.chain())
    }
}

impl From<Mistake> for Failure {
    fn from(mistake: Mistake) -> Self {
        Self {
            lines: mistake.lines,
            ..Self::new(mistake.message)
        }
    }
}

/// A build under way.
struct Build {
    engine: Arc<Engine>,
    start: BuildStart,
    reporter: Reporter,
    stop: CancellationToken,
    /// Folder of its files.
    dir: PathBuf,
    /// Folder of its sockets and secrets.
    run_dir: PathBuf,
    incoming: Incoming,
    agents: Arc<Agents>,
    results: exchange::Results,
    plan: OnceLock<Plan>,
    /// Trees by step; `None`: not made yet.
    made: OnceLock<Vec<watch::Sender<Option<solve::Tree>>>>,
}

impl Engine {
    /// Builds an image. The first request starts it; what happens comes out, the result or failure last. A client that listens no
    /// more ends it.
    pub fn build(
        self: &Arc<Self>,
        start: BuildStart,
        requests: mpsc::Receiver<BuildRequest>,
    ) -> mpsc::Receiver<BuildResponse> {
        let (events, receiver) = mpsc::channel(EVENTS);
        let number = id::generate();
        let build = Arc::new(Build {
            engine: self.clone(),
            start,
            reporter: Reporter::new(events),
            stop: CancellationToken::new(),
            dir: self.build_cache.work_dir(&number),
            run_dir: self.config.run_dir.join("build").join(id::short(&number)),
            incoming: Incoming::default(),
            agents: Arc::default(),
            results: exchange::Results::default(),
            plan: OnceLock::new(),
            made: OnceLock::new(),
        });
        self.tasks.spawn(Box::pin(build.run_whole(requests)));
        receiver
    }
}

impl Build {
    /// Runs to the end, whatever that is, and cleans up.
    async fn run_whole(self: Arc<Self>, requests: mpsc::Receiver<BuildRequest>) {
        let listening = tokio::spawn(self.clone().listen(requests));
        let leaving = tokio::spawn(self.clone().watch_client());
        let outcome = Box::pin(self.clone().carry_out()).await;
        leaving.abort();
        listening.abort();
        let (dir, run_dir) = (self.dir.clone(), self.run_dir.clone());
        let cleaned = blocking(move || {
            for dir in [&dir, &run_dir] {
                if let (Some(parent), Some(name)) = (dir.parent(), dir.file_name().and_then(|n| n.to_str())) {
                    cache::remove(parent, name)?;
                }
            }
            Ok(())
        });
        if let Err(error) = cleaned.await {
            tracing::warn!(error = error.chain(), "could not clean up after a build");
        }
        let last = match outcome {
            Ok(result) => Event::Result(result),
            Err(failure) => {
                let number = |line: usize| u32::try_from(line).unwrap_or_default();
                Event::Failure(BuildFailure {
                    message: failure.message,
                    first_line: failure.lines.map_or(0, |lines| number(lines.first)),
                    last_line: failure.lines.map_or(0, |lines| number(lines.last)),
                    step: failure.step,
                    output: failure.output,
                    exit_code: failure.exit_code,
                })
            }
        };
        self.reporter.send(last).await;
        let cache = self.engine.build_cache.clone();
        blocking(move || {
            cache.write_touched();
            Ok(())
        })
        .await
        .ok();
    }

    /// What the client sends.
    async fn listen(self: Arc<Self>, mut requests: mpsc::Receiver<BuildRequest>) {
        while let Some(request) = requests.recv().await {
            match request.request {
                Some(build_request::Request::Context(data)) => {
                    self.incoming.data(&data.name, data.data, data.end).await;
                }
                Some(build_request::Request::Ssh(data)) => self.agents.answer(data).await,
                _ => {}
            }
        }
        self.incoming.broken().await;
    }

    /// Nobody waits for a build whose client has gone.
    async fn watch_client(self: Arc<Self>) {
        tokio::select! {
            () = self.reporter.gone() => {}
            () = self.engine.stop.cancelled() => {}
        }
        self.stop.cancel();
        self.incoming.broken().await;
    }

    async fn carry_out(self: Arc<Self>) -> Outcome<BuildResult> {
        self.check_options()?;
        let name = match self.start.dockerfile_name.as_str() {
            "" => "Dockerfile",
            name => name,
        };
        let begun = self
            .reporter
            .begin(&format!("[internal] load build definition from {name}"))
            .await;
        let size = self.start.dockerfile.len() as u64;
        begun.status("transferring dockerfile:", size, true).await;
        let text = String::from_utf8_lossy(&self.start.dockerfile).into_owned();
        let file = Dockerfile::parse(&text);
        match &file {
            Ok(_) => begun.done().await,
            Err(mistake) => begun.failed(mistake.message.clone()).await,
        }
        let plan = self.plan(file?).await?;
        for (message, lines) in &plan.warnings {
            self.reporter.warn(message.clone(), *lines).await;
        }
        let plan = self.plan.get_or_init(|| plan);
        self.take_caches().await?;
        let result = solve::solve(&self, plan).await?;
        if self.stop.is_cancelled() {
            return Err(Failure::cancelled());
        }
        self.finish(plan, result).await
    }

    fn epoch(&self) -> Option<i64> {
        self.plan.get().and_then(|plan| plan.epoch)
    }

    async fn plan(self: &Arc<Self>, file: Dockerfile) -> Outcome<Plan> {
        let settings = self.settings()?;
        let shelf = images::Shelf::new(self.clone());
        let planned = tokio::task::spawn_blocking(move || {
            let mut shelf = shelf;
            Plan::make(&file, &settings, &mut shelf)
        });
        match planned.await {
            Ok(plan) => Ok(plan?),
            Err(_) => Err(Failure::cancelled()),
        }
    }

    fn settings(&self) -> Outcome<Settings> {
        let start = &self.start;
        let platform = match start.platform.as_str() {
            "" => None,
            text => Some(Platform::parse(text)?),
        };
        let mut contexts = BTreeMap::new();
        for (name, value) in &start.contexts {
            let context = match value.strip_prefix("docker-image://") {
                Some(image) => NamedContext::Image(image.to_owned()),
                None if value.is_empty() => NamedContext::Files,
                None => {
                    let text = format!("build context {name}: {value} is neither files nor an image");
                    return Err(Failure::new(text));
                }
            };
            contexts.insert(name.clone(), context);
        }
        let network = match start.network.as_str() {
            "" | "default" => Network::Bridge,
            "none" => Network::None,
            "host" => Network::Host,
            other => {
                let text =
                    format!("network mode \"{other}\" not supported by builds: use default, none or host");
                return Err(Failure::new(text));
            }
        };
        Ok(Settings {
            target: start.target.clone(),
            build_args: start.build_args.clone().into_iter().collect(),
            labels: start.labels.clone().into_iter().collect(),
            platform,
            no_cache: start.no_cache,
            no_cache_filter: start
                .no_cache_filter
                .iter()
                .map(|name| name.to_lowercase())
                .collect(),
            contexts,
            network,
        })
    }
}

/// Removes what builds of a daemon that was killed have left in the run folder.
pub(crate) fn sweep(engine: &Engine) -> Result<()> {
    cache::remove(&engine.config.run_dir, "build")
}
