//! `--ssh`: the client's SSH agents, and keys that this process serves as an agent would ([`agent`], [`keys`]). Connections that a
//! step makes are carried to the agent and back; keys never leave the client.
//!
//! - [`keys`]: key files, `der`: one form of them; [`agent`]: the protocol; [`wire`]: values of both

mod agent;
mod der;
mod keys;
mod wire;

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pontoon_proto::v1::{BuildData, BuildRequest, build_request::Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

use crate::error::Failure;
use agent::Keyring;
use keys::Key;

const PIECE: usize = 16 << 10;
/// Bytes of a key file.
const KEY: u64 = 100 << 10;

/// Who answers for an id.
#[derive(Clone)]
pub enum Lent {
    /// The agent at this socket.
    Socket(PathBuf),
    /// This process, with keys from files.
    Keys(Arc<Keyring>),
}

impl Lent {
    async fn connect(&self) -> std::io::Result<UnixStream> {
        match self {
            Self::Socket(path) => UnixStream::connect(path).await,
            Self::Keys(keyring) => {
                let (ours, theirs) = UnixStream::pair()?;
                let keyring = keyring.clone();
                tokio::spawn(async move {
                    // Who talks nonsense is hung up on.
                    keyring.serve(theirs).await.ok();
                });
                Ok(ours)
            }
        }
    }
}

/// Reads `default`, `id`, `id=/path/to/socket`, `id=/path/to/key[,/path/to/another]`.
pub fn agent(text: &str) -> Result<(String, Lent), Failure> {
    let (id, paths) = text.split_once('=').unwrap_or((text, ""));
    let id = if id.is_empty() { "default" } else { id };
    let paths = match paths {
        "" => std::env::var("SSH_AUTH_SOCK").map_err(|_| {
            Failure::new(format!(
                "ERROR: invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set ({id})"
            ))
        })?,
        paths => paths.to_owned(),
    };
    let paths: Vec<&str> = paths.split(',').collect();
    let (mut keys, mut socket) = (Vec::new(), None);
    for path in &paths {
        let wrong = |what: &str, error: &dyn std::fmt::Display| {
            Failure::new(format!("ERROR: failed to {what} {path}: {error}"))
        };
        let kind = std::fs::metadata(path).map_err(|error| wrong("open", &error))?;
        if kind.file_type().is_socket() {
            socket = Some(PathBuf::from(path));
            continue;
        }
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|error| wrong("open", &error))?;
        let read = file.take(KEY).read_to_string(&mut text);
        read.map_err(|error| wrong("read", &error))?;
        keys.push(Key::parse(&text).map_err(|error| wrong("parse", &error))?);
    }
    let lent = match socket {
        Some(_) if !keys.is_empty() => {
            return Err(Failure::new("ERROR: invalid combination of keys and sockets"));
        }
        Some(_) if paths.len() > 1 => return Err(Failure::new("ERROR: only single socket allowed")),
        Some(path) => Lent::Socket(path),
        None => Lent::Keys(Arc::new(Keyring::new(keys))),
    };
    Ok((id.to_owned(), lent))
}

/// Agents and what is connected to them.
pub struct Agents {
    lent: HashMap<String, Lent>,
    open: HashMap<u32, OwnedWriteHalf>,
}

impl Agents {
    /// These agents.
    pub fn new(agents: Vec<(String, Lent)>) -> Self {
        Self {
            lent: agents.into_iter().collect(),
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
            let stream = match self.lent.get(&data.name) {
                Some(lent) => lent.connect().await,
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
