//! `--ssh`: the client's SSH agents. Connections that a step makes are carried to the agent's socket and back.

use std::collections::HashMap;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use pontoon_proto::v1::{BuildData, BuildRequest, build_request::Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

use crate::error::Failure;

const PIECE: usize = 16 << 10;

/// Reads `default`, `id`, `id=/path/to/socket`.
pub fn agent(text: &str) -> Result<(String, PathBuf), Failure> {
    let (id, path) = text.split_once('=').unwrap_or((text, ""));
    let id = if id.is_empty() { "default" } else { id };
    let path = match path {
        "" => std::env::var("SSH_AUTH_SOCK").map_err(|_| {
            Failure::new(format!(
                "ERROR: invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set ({id})"
            ))
        })?,
        path if path.contains(',') => return Err(keys(path)),
        path => path.to_owned(),
    };
    let path = PathBuf::from(path);
    let kind = std::fs::metadata(&path)
        .map_err(|error| Failure::new(format!("ERROR: ssh {id}: {}: {error}", path.display())))?;
    if !std::os::unix::fs::FileTypeExt::is_socket(&kind.file_type()) {
        return Err(keys(&path.display().to_string()));
    }
    Ok((id.to_owned(), path))
}

fn keys(path: &str) -> Failure {
    Failure::new(format!(
        "ERROR: --ssh with keys ({path}) is not supported: add them to an agent (ssh-add) and give its socket"
    ))
}

/// Agents and what is connected to them.
pub struct Agents {
    paths: HashMap<String, PathBuf>,
    open: HashMap<u32, OwnedWriteHalf>,
}

impl Agents {
    /// These agents.
    pub fn new(agents: Vec<(String, PathBuf)>) -> Self {
        Self {
            paths: agents.into_iter().collect(),
            open: HashMap::new(),
        }
    }

    /// What a step has written; its first piece connects. A connection that fails is closed at the other end.
    pub async fn data(&mut self, data: BuildData, requests: &mpsc::Sender<BuildRequest>) {
        let number = data.connection;
        if data.end {
            self.open.remove(&number);
            return;
        }
        if !self.open.contains_key(&number) {
            let stream = match self.paths.get(&data.name) {
                Some(path) => UnixStream::connect(path).await,
                None => Err(std::io::ErrorKind::NotFound.into()),
            };
            match stream {
                Ok(stream) => self.connect(number, stream, requests.clone()),
                Err(error) => {
                    eprintln!("ssh agent {}: {error}", data.name);
                    requests.send(message(number, Bytes::new(), true)).await.ok();
                    return;
                }
            }
        }
        if let Some(stream) = self.open.get_mut(&number)
            && stream.write_all(&data.data).await.is_err()
        {
            self.open.remove(&number);
        }
    }

    fn connect(&mut self, number: u32, stream: UnixStream, requests: mpsc::Sender<BuildRequest>) {
        let (mut from, to) = stream.into_split();
        self.open.insert(number, to);
        tokio::spawn(async move {
            loop {
                let mut buffer = BytesMut::with_capacity(PIECE);
                let piece = match from.read_buf(&mut buffer).await {
                    Ok(count) if count > 0 => message(number, buffer.freeze(), false),
                    _ => message(number, Bytes::new(), true),
                };
                let is_end = matches!(&piece.request, Some(Request::Ssh(data)) if data.end);
                if requests.send(piece).await.is_err() || is_end {
                    return;
                }
            }
        });
    }
}

fn message(connection: u32, data: Bytes, end: bool) -> BuildRequest {
    BuildRequest {
        request: Some(Request::Ssh(BuildData {
            connection,
            data,
            end,
            ..BuildData::default()
        })),
    }
}
