//! SSH agents of the client: a socket in the build's folder for each step that mounts one; each connection is carried to the client
//! and back by its number.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use pontoon_build::plan::Rights;
use pontoon_proto::v1::BuildData;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::progress::Reporter;
use crate::Result;
use crate::error::IoContext;

/// Pieces that wait for a process.
const PIECES: usize = 8;
const PIECE: usize = 16 << 10;

/// Connections by number.
#[derive(Default)]
pub(super) struct Agents {
    next: AtomicU32,
    open: Mutex<HashMap<u32, mpsc::Sender<Bytes>>>,
}

impl Agents {
    /// Serves an agent at a socket until the handle is dropped.
    pub(super) fn serve(
        self: &Arc<Self>,
        id: &str,
        socket: &Path,
        rights: Rights,
        reporter: Reporter,
    ) -> Result<AbortOnDropHandle<()>> {
        let what = || format!("make the socket {}", socket.display());
        let listener = UnixListener::bind(socket).context(what)?;
        let mode = rights.mode.unwrap_or(0o600);
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(mode)).context(what)?;
        std::os::unix::fs::chown(socket, Some(rights.uid), Some(rights.gid)).context(what)?;
        let (agents, id) = (self.clone(), id.to_owned());
        Ok(AbortOnDropHandle::new(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (agents, id, reporter) = (agents.clone(), id.clone(), reporter.clone());
                connections.spawn(async move { agents.carry(&id, stream, reporter).await });
            }
        })))
    }

    /// What the client's agent answers.
    pub(super) async fn answer(&self, data: BuildData) {
        let sender = {
            let mut open = self.lock();
            if data.end {
                open.remove(&data.connection);
            }
            open.get(&data.connection).cloned()
        };
        if let Some(sender) = sender {
            sender.send(data.data).await.ok();
        }
    }

    async fn carry(&self, id: &str, stream: UnixStream, reporter: Reporter) {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, mut answers) = mpsc::channel(PIECES);
        self.lock().insert(number, sender);
        let (mut from, mut to) = stream.into_split();
        let piece = |data: Bytes, end| BuildData {
            name: id.to_owned(),
            connection: number,
            data,
            end,
        };
        let up = async {
            loop {
                let mut buffer = BytesMut::with_capacity(PIECE);
                match from.read_buf(&mut buffer).await {
                    Ok(count) if count > 0 => reporter.ssh(piece(buffer.freeze(), false)).await,
                    // The agent may still have something to say.
                    _ => break,
                }
            }
            reporter.ssh(piece(Bytes::new(), true)).await;
            std::future::pending::<()>().await;
        };
        let down = async {
            while let Some(data) = answers.recv().await {
                if to.write_all(&data).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = up => {}
            () = down => {}
        }
        self.lock().remove(&number);
        reporter.ssh(piece(Bytes::new(), true)).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, mpsc::Sender<Bytes>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
