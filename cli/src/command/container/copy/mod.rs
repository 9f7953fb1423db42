//! `cp`: files between a container and this host, or a tar stream. Docker's rules (docker/cli `container/cp.go`, moby
//! `archive/copy.go`): the client decides by the kinds of source and destination what the copy is called and where it goes;
//! what travels is a tar archive either way.
//!
//! # Layout
//! - [`paths`]: Go's path functions and what they decide; [`local`]: this host's side; [`progress`]: what is told meanwhile

mod local;
mod paths;
mod progress;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use clap::Args;
use pontoon_proto::v1::{
    ContainerPathRequest, CopyFromContainerResponse, CopyToContainerRequest, CopyToStart, PathStat,
    copy_from_container_response, copy_to_container_request,
};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::client::Client;
use crate::error::{Failure, Outcome};
use paths::{Info, Rename};
use progress::Progress;

/// Chunks between the archive's thread and the connection.
const CHUNKS: usize = 8;

/// `cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-`
#[derive(Args, Debug)]
#[command(
    before_help = "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n[OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    after_help = "Use '-' as the source to read a tar archive from stdin\n\
                  and extract it to a directory destination in a container.\n\
                  Use '-' as the destination to stream a tar archive of a\n\
                  container source to stdout."
)]
pub struct Arguments {
    /// Archive mode (copy all uid/gid information)
    #[arg(short = 'a', long)]
    archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached
    #[arg(
        short = 'q',
        long,
        value_name = "bool",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    quiet: Option<bool>,
    /// Where from
    #[arg(value_name = "SRC_PATH")]
    source: String,
    /// Where to
    #[arg(value_name = "DEST_PATH")]
    destination: String,
}

/// Runs `cp`.
///
/// # Errors
/// Docker's texts for sources and destinations that don't fit; the daemon's and this host's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    for (what, path) in [
        ("source", &arguments.source),
        ("destination", &arguments.destination),
    ] {
        if path.is_empty() {
            return Err(Failure::new(format!("{what} can not be empty")));
        }
    }
    let quiet = arguments
        .quiet
        .unwrap_or_else(|| !std::io::IsTerminal::is_terminal(&std::io::stdout()));
    let source = paths::split_argument(&arguments.source);
    let destination = paths::split_argument(&arguments.destination);
    match (source, destination) {
        ((Some(_), _), (Some(_), _)) => Err(Failure::new("copying between containers is not supported")),
        ((None, _), (None, _)) => Err(Failure::new("must specify at least one container source")),
        ((Some(container), from), (None, to)) => {
            let copy = Copy::new(host, container, &arguments, quiet).await?;
            copy.out_of_container(from, to).await
        }
        ((None, from), (Some(container), to)) => {
            let copy = Copy::new(host, container, &arguments, quiet).await?;
            copy.into_container(from, to).await
        }
    }
}

struct Copy {
    client: Client,
    container: String,
    follow: bool,
    archive: bool,
    quiet: bool,
}

impl Copy {
    async fn new(
        host: Option<&str>,
        container: &str,
        arguments: &Arguments,
        quiet: bool,
    ) -> Result<Self, Failure> {
        Ok(Self {
            client: Client::connect(host).await?,
            container: container.to_owned(),
            follow: arguments.follow_link,
            archive: arguments.archive,
            quiet,
        })
    }

    fn request(&self, path: &str) -> ContainerPathRequest {
        ContainerPathRequest {
            target: self.container.clone(),
            path: path.to_owned(),
        }
    }

    async fn stat(&self, path: &str) -> Result<PathStat, tonic::Status> {
        let answer = self.client.engine().stat_path(self.request(path)).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn out_of_container(self, from: &str, to: &str) -> Outcome {
        let to = match to {
            "-" => None,
            to => Some(paths::absolute(to)?),
        };
        if let Some(to) = &to {
            local::check_output(to)?;
        }
        let (mut from, mut rebase) = (from.to_owned(), None);
        if self.follow
            && let Ok(stat) = self.stat(&from).await
            && paths::is_symlink(stat.mode)
        {
            (from, rebase) = paths::rebase_name(&from, &paths::link_target(&from, &stat.link_target));
        }
        let request = self.request(&from);
        let mut answers = self
            .client
            .engine()
            .copy_from_container(request)
            .await?
            .into_inner();
        let Some(copy_from_container_response::Response::Stat(stat)) =
            answers.message().await?.and_then(|answer| answer.response)
        else {
            return Err(Failure::new("the daemon sent an archive without saying of what"));
        };
        let Some(to) = to else {
            return print(answers).await;
        };
        let source = Info {
            path: from,
            exists: true,
            is_dir: paths::is_dir(stat.mode),
            rebase,
        };
        self.extract(answers, source, &to).await
    }

    /// Extracts what comes below `to`.
    async fn extract(
        &self,
        mut answers: Streaming<CopyFromContainerResponse>,
        source: Info,
        to: &str,
    ) -> Outcome {
        let destination = local::destination(to)?;
        let (folder, name) = paths::prepare(&source, &destination)?;
        let old = paths::split_entry(&source.path).1;
        let rename = name.or(source.rebase).map(|new| Rename { old, new });
        let progress = Progress::start(progress::FROM_CONTAINER, self.quiet);
        let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(CHUNKS);
        let owners = self.archive && rustix::process::geteuid().is_root();
        let work = tokio::task::spawn_blocking(move || local::extract(receiver, &folder, rename, owners));
        let received = async {
            loop {
                let chunk = match answers.message().await {
                    Ok(Some(answer)) => match answer.response {
                        Some(copy_from_container_response::Response::Data(data)) => data,
                        _ => continue,
                    },
                    Ok(None) => return Ok(()),
                    Err(status) => {
                        // The archive is not whole: who extracts it must not take it for that.
                        let broken = std::io::Error::other(status.message().to_owned());
                        let _ = sender.send(Err(broken)).await;
                        return Err(Failure::from(status));
                    }
                };
                progress.count(chunk.len());
                if sender.send(Ok(chunk)).await.is_err() {
                    return Ok(());
                }
            }
        };
        let received = received.await;
        drop(sender);
        let extracted = work.await.map_err(|error| Failure::new(error.to_string()))?;
        received?;
        extracted?;
        progress.finish(to);
        Ok(0)
    }

    async fn into_container(self, from: &str, to: &str) -> Outcome {
        let from = match from {
            "-" => None,
            from => Some(paths::absolute(from)?),
        };
        let destination = self.destination(to).await?;
        let shown = format!("{}:{}", self.container, destination.path);
        let total = Arc::new(AtomicU64::new(0));
        let (folder, archive) = match from {
            None => {
                if !destination.is_dir {
                    let text = format!("destination \"{}:{to}\" must be a directory", self.container);
                    return Err(Failure::new(text));
                }
                (destination.path, local::stdin())
            }
            Some(from) => {
                let source = local::source(&from, self.follow)?;
                let (folder, name) = paths::prepare(&source, &destination)?;
                (folder, local::archive(source, name))
            }
        };
        let is_stdin = archive.failed.is_none();
        let progress = Progress::with(progress::TO_CONTAINER, self.quiet || is_stdin, total);
        let start = CopyToStart {
            target: self.container.clone(),
            path: folder,
            no_overwrite_dir_non_dir: true,
            copy_uid_gid: self.archive,
        };
        let sent = self.upload(start, archive.chunks, &progress).await;
        let failed = match archive.failed {
            Some(failed) => failed.await.ok(),
            None => None,
        };
        // What went wrong here explains what the daemon found wrong.
        match (failed, sent) {
            (Some(error), _) => Err(Failure::new(error)),
            (None, Err(failure)) => Err(failure),
            (None, Ok(())) => {
                progress.finish(&shown);
                Ok(0)
            }
        }
    }

    /// What is there, links followed.
    async fn destination(&self, to: &str) -> Result<Info, Failure> {
        let mut path = to.to_owned();
        let mut stat = self.stat(&path).await;
        if let Ok(found) = &stat
            && paths::is_symlink(found.mode)
        {
            path = paths::link_target(to, &found.link_target);
            stat = self.stat(&path).await;
        }
        // A path that is not there may yet be made; what else is wrong shows when the archive is extracted.
        let mode = stat.as_ref().ok().map(|stat| stat.mode);
        if mode.is_some_and(paths::is_device) {
            return Err(Failure::new(format!(
                "destination \"{}:{to}\" must be a directory or a regular file: got a device",
                self.container
            )));
        }
        Ok(Info {
            path,
            exists: mode.is_some(),
            is_dir: mode.is_some_and(paths::is_dir),
            rebase: None,
        })
    }

    async fn upload(
        &self,
        start: CopyToStart,
        mut archive: mpsc::Receiver<Bytes>,
        progress: &Progress,
    ) -> Result<(), Failure> {
        use copy_to_container_request::Request;
        let request = |request| CopyToContainerRequest {
            request: Some(request),
        };
        let (sender, requests) = mpsc::channel(CHUNKS);
        let counter = progress.counter();
        let carry = tokio::spawn(async move {
            if sender.send(request(Request::Start(start))).await.is_err() {
                return;
            }
            while let Some(chunk) = archive.recv().await {
                counter.count(chunk.len());
                if sender.send(request(Request::Data(chunk))).await.is_err() {
                    return;
                }
            }
        });
        let answer = self
            .client
            .engine()
            .copy_to_container(ReceiverStream::new(requests))
            .await;
        carry.abort();
        answer.map(drop).map_err(Into::into)
    }
}

/// `cp … -`: the archive as it is.
async fn print(mut answers: Streaming<CopyFromContainerResponse>) -> Outcome {
    let mut stdout = tokio::io::stdout();
    while let Some(answer) = answers.message().await? {
        if let Some(copy_from_container_response::Response::Data(data)) = answer.response {
            stdout.write_all(&data).await?;
        }
    }
    stdout.flush().await?;
    Ok(0)
}
