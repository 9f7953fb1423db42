//! A cluster that begins anew with one manager: from what a survivor's log holds, or from a backup. And backups.
//!
//! Called by the daemon for `swarm init --force-new-cluster`, `cluster restore`, `cluster backup`. The new group gets a
//! raft id of its own and knows the old ones as removed: a lost manager that comes back is told so and stops, and its
//! node is unknown, so its certificate opens nothing.
//!
//! The new log is made beside the old one and takes its place in steps that [`finish`] can repeat after a crash:
//! ```text
//! raft.new/ made and synced → raft.new.id written → raft.id written → raft/ removed → raft.new/ becomes raft/ → raft.new.id removed
//! └── a crash here: all as before         └── a crash from here on: the next start goes on
//! ```

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use pontoon_identity::PeerIdentity;
use pontoon_proto::v1::{Annotations, BackupInfo, Node, NodeRole, NodeState, NodeStatus};
use pontoon_raft::{Host, Member, Raft};
use pontoon_reconcile::edit;
use pontoon_store::{Snapshot, Tx};
use tracing::info;

use crate::backup::{self, Backup, BackupError, BackupKey};
use crate::config::ManagerConfig;
use crate::connector::{PeerConnector, network};
use crate::error::Error;
use crate::external;
use crate::manager::{Manager, RAFT_DIR, open_keys, raft_config};
use crate::member_file;
use crate::replica::{Machine, Replica};

const NEW_DIR: &str = "raft.new";
const NEW_FILE: &str = "raft.new.id";

impl Manager {
    /// Begins the cluster anew with this manager alone and all that its log holds. The other managers' nodes are taken
    /// out; workers, services, networks and tokens stay. The old log is there until the new one is whole.
    ///
    /// # Errors
    /// [`Error::Raft`] when the log is missing or damaged, [`Error::NoState`] when it never had the cluster's state.
    pub async fn force_new_cluster(config: ManagerConfig) -> Result<Self, Error> {
        if config.store.is_some() {
            return Err(Error::no_new_cluster());
        }
        external::check(&config.data_dir, None)?;
        finish(&config.host, &config.data_dir)?;
        let mut old = raft_config(&config, member_file::read(&config.host, &config.data_dir)?);
        open_keys(&config, &mut old)?;
        let replica = Replica::new();
        let salvaged = Raft::salvage(old, Machine(replica.clone())).await;
        let salvaged = salvaged.map_err(Error::Raft)?;
        begin_anew(config, &replica.snapshot(), salvaged.ids).await
    }

    /// Makes a manager of a backup; this node's certificate must be of the backup's cluster. The managers of that time
    /// are taken out of the state; workers, services, networks and tokens are as they were. With an external store the cluster
    /// must not be there yet.
    ///
    /// # Errors
    /// [`Error::Raft`] when the data folder can't be written, [`Error::NoState`], [`Error::Store`].
    pub async fn restore(config: ManagerConfig, backup: Backup) -> Result<Self, Error> {
        if let Some(store) = config.store.clone() {
            let state = only_state(&config, &backup.snapshot)?;
            return Box::pin(Self::seed_store(store, config, state.snapshot())).await;
        }
        begin_anew(config, &backup.snapshot, backup.info.raft_ids).await
    }

    /// Writes everything that is committed now as one encrypted file, while the cluster goes on.
    ///
    /// # Errors
    /// [`Error::Read`] without a leader; [`Error::Backup`].
    pub async fn backup(
        &self,
        key: BackupKey,
        out: impl Write + Send + 'static,
    ) -> Result<BackupInfo, Error> {
        let read = self.core.read().await;
        let snapshot = read.map_err(|status| Error::Read(status.message().to_owned()))?;
        let mut raft_ids = self.core.log.retired();
        raft_ids.extend(self.core.log.members().iter().map(|member| member.id));
        raft_ids.sort_unstable();
        let info = BackupInfo {
            cluster_id: self.core.identity.cluster_id(),
            created_at: self.core.host.now(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            raft_ids,
            state_version: snapshot.version(),
        };
        let work = move || backup::write(&snapshot, &info, &key, out).map(|()| info);
        let written = tokio::task::spawn_blocking(work).await;
        let stopped = |error| BackupError::Io("written", io::Error::other(error));
        Ok(written.map_err(stopped)??)
    }
}

async fn begin_anew(config: ManagerConfig, state: &Snapshot, retired: Vec<u64>) -> Result<Manager, Error> {
    let replica = only_state(&config, state)?;
    let dir = &config.data_dir;
    std::fs::create_dir_all(dir).map_err(failed("create", dir))?;
    let id = Member::random_id_by(|| config.host.random());
    let mut raft = raft_config(&config, id);
    raft.dir = dir.join(NEW_DIR);
    raft.retired = retired;
    let keys = open_keys(&config, &mut raft)?;
    remove(&raft.dir)?;
    Raft::seed(raft.clone(), Machine(replica))
        .await
        .map_err(Error::Raft)?;
    let path = dir.join(NEW_FILE);
    write_durably(&path, &format!("{id}\n")).map_err(failed("write", &path))?;
    finish(&config.host, dir)?;
    info!(id, "the cluster begins anew with this manager alone");
    raft.dir = dir.join(RAFT_DIR);
    let replica = Replica::new();
    let connector = Arc::new(PeerConnector(network(&config)));
    let handle = Raft::open(raft, Machine(replica.clone()), connector).await;
    Ok(Manager::start(
        config,
        keys,
        replica,
        handle.map_err(Error::Raft)?,
    ))
}

/// Brings a new log that is whole into the place of the old one, and removes one that is not. Before a log is opened.
pub(crate) fn finish(host: &Host, data_dir: &Path) -> Result<(), Error> {
    if host.is_simulated() {
        return Ok(());
    }
    let (path, new) = (data_dir.join(NEW_FILE), data_dir.join(NEW_DIR));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return remove(&new),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let bad = || Error::BadMember { path: path.clone() };
    let id = text.trim().parse().map_err(|_| bad())?;
    member_file::write(host, data_dir, id)?;
    if new.exists() {
        let place = data_dir.join(RAFT_DIR);
        remove(&place)?;
        std::fs::rename(&new, &place).map_err(failed("rename", &new))?;
        sync_dir(data_dir).map_err(failed("sync", data_dir))?;
    }
    std::fs::remove_file(&path).map_err(failed("remove", &path))
}

/// A state with this node as its only manager.
fn only_state(config: &ManagerConfig, state: &Snapshot) -> Result<Arc<Replica>, Error> {
    if state.cluster().is_none() {
        return Err(Error::NoState);
    }
    let replica = Replica::of(state.clone());
    let changes = only_manager(state, &config.identity.peer(), config.host.now())?;
    replica.store().apply(changes);
    Ok(replica)
}

/// The changes that make this node the only manager of a state.
fn only_manager(
    state: &Snapshot,
    me: &PeerIdentity,
    now: i64,
) -> Result<pontoon_proto::v1::Changeset, Error> {
    let mut tx = Tx::new(state.clone());
    let lost = |node: &&Arc<Node>| {
        let was_manager = node.role() == NodeRole::Manager || node.manager_status.is_some();
        was_manager && node.id != me.node_id
    };
    let lost: Vec<String> = state.nodes().filter(lost).map(|node| node.id.clone()).collect();
    for id in lost {
        info!(node = id, "a lost manager is taken out of the cluster");
        edit::remove_node(&mut tx, &id).map_err(|error| Error::Init(error.to_string()))?;
    }
    let new = || Node {
        id: me.node_id.clone(),
        status: Some(NodeStatus {
            state: NodeState::Unknown.into(),
            since: now,
            ..NodeStatus::default()
        }),
        ..Node::default()
    };
    let mut node = state.node(&me.node_id).map_or_else(new, |node| Node::clone(node));
    node.set_role(NodeRole::Manager);
    node.manager_status = None;
    let spec = node.spec.get_or_insert_default();
    spec.set_role(NodeRole::Manager);
    spec.annotations.get_or_insert_with(Annotations::default);
    tx.put_node(node)
        .map_err(|error| Error::Init(error.to_string()))?;
    Ok(tx.into_changeset(now))
}

/// Writes a small file under its name in one step, durably.
fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}

fn remove(dir: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", dir)(error)),
        _ => Ok(()),
    }
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        operation,
        path: path.clone(),
        source,
    }
}
