//! This node's cluster in trouble: begun anew by one survivor, restored from a backup, and backed up before.
//!
//! Part of [`Membership`], which owns locks and state; called by the Swarm service.

use std::io::{self, BufWriter, Read, Write};

use pontoon_controller::{Backup, BackupKey, read_backup};
use pontoon_identity::{DEFAULT_EXPIRY, Identity, PeerIdentity, RootCa};
use pontoon_proto::id;
use pontoon_proto::v1::{
    LocalNodeState, NodeRole, SwarmBackupChunk, SwarmBackupRequest, SwarmInitRequest, SwarmInitResponse,
    SwarmRestoreOptions, SwarmRestoreRequest, backup_key::Key,
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use zeroize::Zeroizing;

use super::membership::{Membership, Settings, settings};
use super::node::{Node, Start};
use super::{describe, unlock};

/// What the client says when it was told nothing else.
const DEFAULT_LISTEN: &str = "0.0.0.0:2377";
/// Chunks of a backup on their way to or from a client.
const CHUNKS: usize = 4;
/// Bytes of a chunk to a client.
const CHUNK: usize = 256 << 10;

impl Membership {
    /// `swarm init --force-new-cluster` on a manager: this one alone, with what its log holds. When that fails the node goes
    /// on as before.
    pub(super) async fn begin_anew(&self, request: SwarmInitRequest) -> Result<SwarmInitResponse, Status> {
        let _change = self.changes.lock().await;
        let mut slot = self.node.lock().await;
        let before = self.read_settings().map_err(Status::failed_precondition)?;
        if self.state().0 == LocalNodeState::Locked {
            return Err(Status::failed_precondition(unlock::LOCKED));
        }
        if self.store.is_some() {
            let refused = pontoon_controller::Error::no_new_cluster();
            return Err(Status::failed_precondition(refused.to_string()));
        }
        let (identity, lock) = match slot.as_ref() {
            Some(node) => node.unlocked(),
            None => {
                let identity = self.open_identity(None).map_err(Status::failed_precondition)?;
                (identity, None)
            }
        };
        if identity.role() != NodeRole::Manager {
            return Err(self.control.refusal());
        }
        let settings = anew(&request, &before).await?;
        if let Some(node) = slot.take() {
            node.stop().await;
        }
        self.set_state(LocalNodeState::Pending, "");
        let started = match self.write_settings(&settings) {
            Ok(()) => {
                let mut config = self.node_config(settings.clone(), identity.clone());
                config.unlock_key.clone_from(&lock);
                Node::start(config, Start::Anew).await
            }
            Err(status) => Err(status.message().to_owned()),
        };
        let reason = match started {
            Ok(node) => {
                let answer = answer(&node, &identity, &settings);
                *slot = Some(node);
                self.set_state(LocalNodeState::Active, "");
                return Ok(answer);
            }
            Err(reason) => reason,
        };
        self.write_settings(&before)?;
        match self.restart(lock).await {
            Ok(node) => {
                *slot = Some(node);
                self.set_state(LocalNodeState::Active, "");
            }
            Err(again) => self.set_state(LocalNodeState::Error, &again),
        }
        Err(Status::failed_precondition(reason))
    }

    /// `cluster restore`: the only manager of a backup's cluster, under a new node id.
    pub(super) async fn restore_cluster(
        &self,
        options: SwarmRestoreOptions,
        file: Streaming<SwarmRestoreRequest>,
    ) -> Result<SwarmInitResponse, Status> {
        let settings = settings(
            &options.advertise_addr,
            &options.listen_addr,
            &options.data_path_addr,
        )
        .await?;
        let key = key(options.key)?;
        // All of it, before anything is made of it.
        let backup = receive(file, key).await?;
        let identity = self.identity_of(&backup)?;
        let config = self.node_config(settings.clone(), identity.clone());
        let started = Node::start(config, Start::Restored(Box::new(backup))).await;
        let started = started.map_err(Status::failed_precondition)?;
        let answer = answer(&started, &identity, &settings);
        self.write_settings(&settings)?;
        *self.node.lock().await = Some(started);
        Ok(answer)
    }

    /// A certificate for this node from the backup's own root.
    fn identity_of(&self, backup: &Backup) -> Result<std::sync::Arc<Identity>, Status> {
        let failed = |error: pontoon_identity::Error| Status::failed_precondition(describe(&error));
        let cluster = backup.snapshot.cluster();
        let root = cluster.and_then(|cluster| cluster.root_ca.as_ref());
        let root = root.filter(|root| !root.key.is_empty()).ok_or_else(|| {
            Status::failed_precondition(
                "the backup does not hold the key of the cluster's CA: a manager can't be made of it",
            )
        })?;
        let root = RootCa::from_pem(&root.certificate, &root.key).map_err(failed)?;
        let subject = PeerIdentity {
            node_id: id::encode(rand::random()),
            role: NodeRole::Manager,
            cluster_id: backup.info.cluster_id.clone(),
        };
        let credentials = root.issue_credentials(&subject, DEFAULT_EXPIRY).map_err(failed)?;
        Identity::install(&self.identity_dir(), &credentials).map_err(failed)
    }

    /// `cluster backup`: the file, as it is written.
    pub(super) async fn backup(
        &self,
        request: SwarmBackupRequest,
    ) -> Result<mpsc::Receiver<Result<SwarmBackupChunk, Status>>, Status> {
        let key = key(request.key)?;
        let manager = self.node.lock().await.as_ref().and_then(Node::manager);
        let manager = manager.ok_or_else(|| self.control.refusal())?;
        let (out, chunks) = mpsc::channel(CHUNKS);
        tokio::spawn(async move {
            let file = BufWriter::with_capacity(CHUNK, Outgoing(out.clone()));
            let last = match manager.backup(key, file).await {
                Ok(info) => Ok(SwarmBackupChunk {
                    info: Some(info),
                    ..SwarmBackupChunk::default()
                }),
                Err(error) => Err(Status::failed_precondition(describe(&error))),
            };
            // Nobody listens any more: then nobody is told.
            let _ = out.send(last).await;
        });
        Ok(chunks)
    }
}

/// The addresses of a cluster that begins anew: those of before, unless told otherwise.
async fn anew(request: &SwarmInitRequest, before: &Settings) -> Result<Settings, Status> {
    let keeps_listen = request.listen_addr.is_empty() || request.listen_addr == DEFAULT_LISTEN;
    let listen = if keeps_listen {
        before.listen_addr.to_string()
    } else {
        request.listen_addr.clone()
    };
    let keeps_advertise = request.advertise_addr.is_empty();
    let advertise = if keeps_advertise {
        before.advertise_addr.to_string()
    } else {
        request.advertise_addr.clone()
    };
    let data_path = if request.data_path_addr.is_empty() && keeps_advertise {
        before.data_path_addr.to_string()
    } else {
        request.data_path_addr.clone()
    };
    settings(&advertise, &listen, &data_path).await
}

fn answer(node: &Node, identity: &Identity, settings: &Settings) -> SwarmInitResponse {
    SwarmInitResponse {
        node_id: identity.node_id(),
        cluster_id: identity.cluster_id(),
        worker_token: node.worker_token().unwrap_or_default(),
        addr: settings.advertise_addr.to_string(),
    }
}

fn key(key: Option<pontoon_proto::v1::BackupKey>) -> Result<BackupKey, Status> {
    match key.and_then(|key| key.key) {
        Some(Key::Passphrase(text)) => Ok(BackupKey::Passphrase(Zeroizing::new(text))),
        Some(Key::File(bytes)) => Ok(BackupKey::File(Zeroizing::new(bytes.into()))),
        None => Err(Status::invalid_argument(
            "the backup's passphrase or key is missing",
        )),
    }
}

/// Reads a backup as it comes from the client.
async fn receive(mut file: Streaming<SwarmRestoreRequest>, key: BackupKey) -> Result<Backup, Status> {
    let (send, chunks) = mpsc::channel(CHUNKS);
    let read = tokio::task::spawn_blocking(move || {
        let chunk = Vec::new();
        read_backup(
            Incoming {
                chunks,
                chunk,
                given: 0,
            },
            &key,
        )
    });
    // What the reader does not want any more it has said why by its result.
    while let Some(message) = file.message().await? {
        if send.send(Vec::from(message.data)).await.is_err() {
            break;
        }
    }
    drop(send);
    let read = read.await.map_err(|error| Status::internal(error.to_string()))?;
    read.map_err(|error| Status::invalid_argument(describe(&error)))
}

/// A client as a file to write to.
struct Outgoing(mpsc::Sender<Result<SwarmBackupChunk, Status>>);

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = SwarmBackupChunk {
            data: bytes.to_vec().into(),
            info: None,
        };
        let sent = self.0.blocking_send(Ok(chunk));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client as a file to read from.
struct Incoming {
    chunks: mpsc::Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    given: usize,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.chunk.len() {
            let Some(chunk) = self.chunks.blocking_recv() else {
                return Ok(0);
            };
            (self.chunk, self.given) = (chunk, 0);
        }
        let count = buffer.len().min(self.chunk.len() - self.given);
        buffer[..count].copy_from_slice(&self.chunk[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}
