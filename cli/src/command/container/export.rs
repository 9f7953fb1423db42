//! `export`: all files of a container as a tar archive.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;
use pontoon_proto::v1::{Chunk, ContainerRequest};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tonic::Streaming;

use crate::client::Client;
use crate::error::{Failure, Outcome};

/// `export [OPTIONS] CONTAINER`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Write to a file, instead of STDOUT
    #[arg(short = 'o', long, value_name = "string")]
    output: Option<PathBuf>,
    /// The container
    container: String,
}

/// Runs `export`.
///
/// # Errors
/// When stdout is a terminal and no file is named, or the daemon's; a partly written file is removed.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    match &arguments.output {
        None if std::io::stdout().is_terminal() => {
            return Err(Failure::new(
                "cowardly refusing to save to a terminal. Use the -o flag or redirect",
            ));
        }
        None => {}
        Some(path) => check(path)?,
    }
    let request = ContainerRequest {
        target: arguments.container,
    };
    let client = Client::connect(host).await?;
    let archive = client.engine().export_container(request).await?.into_inner();
    match arguments.output {
        None => carry(archive, &mut tokio::io::stdout()).await?,
        Some(path) => write(archive, &path).await?,
    }
    Ok(0)
}

/// Before the daemon is asked for anything.
fn check(path: &Path) -> Result<(), Failure> {
    let refuse = |text: String| Err(Failure::new(format!("failed to export container: {text}")));
    if path.is_dir() {
        return refuse("cannot write to a directory".to_owned());
    }
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) if !folder.exists() => refuse(format!(
            "invalid output path: stat {}: no such file or directory",
            folder.display()
        )),
        _ => Ok(()),
    }
}

/// A file comes into being whole; a device or FIFO is written to as it is.
async fn write(archive: Streaming<Chunk>, path: &Path) -> Result<(), Failure> {
    let is_special = std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
    if is_special {
        let mut file = tokio::fs::OpenOptions::new().write(true).open(path).await?;
        return carry(archive, &mut file).await;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".pontoon-{}", std::process::id()));
    let written = async {
        let mut file = tokio::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)
            .await?;
        carry(archive, &mut file).await?;
        Ok(tokio::fs::rename(&partial, path).await?)
    };
    let written: Result<(), Failure> = written.await;
    if written.is_err() {
        let _ = tokio::fs::remove_file(&partial).await;
    }
    written
}

async fn carry(mut archive: Streaming<Chunk>, to: &mut (impl AsyncWrite + Unpin)) -> Result<(), Failure> {
    while let Some(chunk) = archive.message().await? {
        to.write_all(&chunk.data).await?;
    }
    Ok(to.flush().await?)
}
