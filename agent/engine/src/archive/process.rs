//! The engine's end of a helper process: starts it, feeds it, reads what it says, and makes sure that it goes.

use std::process::Stdio;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::helper::frames::{self, FRAME, Kind};
use super::helper::{Job, Outcome, Refusal, Stat};
use crate::error::IoContext;
use crate::{Error, Result};

/// What a helper says.
#[derive(Debug)]
pub(super) enum Said {
    /// Metadata of the path that it was asked for.
    Stat(Stat),
    /// Bytes of the archive.
    Data(Bytes),
    /// It is done.
    Done(Outcome),
}

/// A running helper; it is killed when this is dropped.
pub(super) struct Helper {
    child: Child,
    output: ChildStdout,
}

/// The way to a helper's stdin. Dropping it without [`Input::end`] tells it that the archive broke off.
pub(super) struct Input(ChildStdin);

impl Helper {
    /// Starts a helper and gives it its job.
    pub(super) async fn start(job: &Job) -> Result<(Self, Input)> {
        let text = serde_json::to_vec(job).map_err(|error| Error::Io {
            what: "describe a copy".to_owned(),
            source: error.into(),
        })?;
        let mut child = pontoon_runtime::own_command("archive")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context(|| "start a process for a container's files")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::ShuttingDown("a process was started without its pipes"));
        };
        let mut input = Input(input);
        let helper = Self { child, output };
        // One that has died already tells why by its output.
        let _ = input.write(Kind::Job, &text).await;
        Ok((helper, input))
    }

    /// The next thing it says.
    pub(super) async fn next(&mut self) -> Result<Said> {
        let mut head = [0; 5];
        if self.output.read_exact(&mut head).await.is_err() {
            return Err(self.died().await);
        }
        let (kind, length) = frames::parse_head(head).context(|| "read from a container's files")?;
        let mut data = BytesMut::zeroed(length);
        if self.output.read_exact(&mut data).await.is_err() {
            return Err(self.died().await);
        }
        let parsed = match kind {
            Kind::Data => return Ok(Said::Data(data.freeze())),
            Kind::Stat => serde_json::from_slice(&data).map(Said::Stat),
            Kind::Outcome => serde_json::from_slice(&data).map(Said::Done),
            Kind::Job | Kind::End => return Err(Error::ShuttingDown("a process sent what only we send")),
        };
        parsed.map_err(|error| Error::Io {
            what: "read from a container's files".to_owned(),
            source: error.into(),
        })
    }

    /// Ends it, whatever it does, and waits until it is gone.
    pub(super) async fn end(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "could not end a process for a container's files");
        }
    }

    /// It ended without a word: what it left on stderr says why.
    async fn died(&mut self) -> Error {
        let mut text = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            // Nothing to read is no worse than what happened.
            let _ = stderr.take(FRAME as u64).read_to_end(&mut text).await;
        }
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        Error::Io {
            what: "work on a container's files".to_owned(),
            source: std::io::Error::other(format!("the process for it died: {text}")),
        }
    }
}

impl Input {
    /// Sends bytes of the archive.
    pub(super) async fn data(&mut self, mut data: Bytes) -> std::io::Result<()> {
        while !data.is_empty() {
            let part = data.split_to(data.len().min(FRAME));
            self.write(Kind::Data, &part).await?;
        }
        Ok(())
    }

    /// Says that the archive is whole.
    pub(super) async fn end(mut self) -> std::io::Result<()> {
        self.write(Kind::End, &[]).await
    }

    async fn write(&mut self, kind: Kind, data: &[u8]) -> std::io::Result<()> {
        self.0.write_all(&frames::head(kind, data.len())).await?;
        self.0.write_all(data).await?;
        self.0.flush().await
    }
}

impl Refusal {
    /// In the engine's words; `target` is the container as the user named it.
    pub(super) fn into_error(self, target: &str) -> Error {
        match self {
            Self::NotFound(path) => Error::NoSuchFile {
                path,
                container: target.to_owned(),
            },
            Self::Invalid(text) => Error::Invalid(text),
            Self::Ended => Error::Conflict(format!(
                "container {target} has ended or started meanwhile: try again"
            )),
            Self::Failed(text) => Error::Files(text),
        }
    }
}
