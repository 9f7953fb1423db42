//! Start-up: makes, opens or joins a member. Everything here happens before the first thread of it runs.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use raft::eraftpb::{ConfState, HardState};

use crate::config::Config;
use crate::connector::Connector;
use crate::error::Error;
use crate::handle::RaftHandle;
use crate::member::Member;
use crate::members::Members;
use crate::node::{self, Prepared};
use crate::snapshot::{SnapshotMeta, SnapshotStore};
use crate::state_machine::StateMachine;
use crate::vfs::Dir;
use crate::wal::{Image, Marker, Owner, Record, Wal};

/// Makes members: the first of a cluster, one that was there before, or a new one of an existing cluster.
///
/// All three must be called in a tokio runtime, which then carries the transport.
pub struct Raft;

impl Raft {
    /// Makes the first member of a new cluster, which leads at once.
    ///
    /// # Errors
    /// [`Error::NotEmpty`] when the folder holds a log already; else what the disk says.
    pub async fn bootstrap<S: StateMachine>(
        config: Config,
        state: S,
        connector: Arc<dyn Connector>,
    ) -> Result<RaftHandle, Error> {
        start(config, connector, |config, lock| bootstrap(config, state, lock)).await
    }

    /// Restarts a member from its folder: restores the newest snapshot, then follows the log.
    ///
    /// # Errors
    /// [`Error::Empty`] when there is nothing to open, [`Error::CorruptLog`] and [`Error::CorruptSnapshot`] when files
    /// are damaged, [`Error::Foreign`] when they are another member's, [`Error::NoKey`] when their
    /// data key is not in `config.keys`.
    pub async fn open<S: StateMachine>(
        config: Config,
        state: S,
        connector: Arc<dyn Connector>,
    ) -> Result<RaftHandle, Error> {
        start(config, connector, |config, lock| open(config, state, lock)).await
    }

    /// Starts a member that the leader has already added under `config.id`; it waits for the leader's snapshot.
    /// `members` tells it whom to answer until then.
    ///
    /// # Errors
    /// As [`Raft::bootstrap`].
    pub async fn join<S: StateMachine>(
        config: Config,
        members: Vec<Member>,
        state: S,
        connector: Arc<dyn Connector>,
    ) -> Result<RaftHandle, Error> {
        start(config, connector, move |config, lock| {
            join(config, &members, state, lock)
        })
        .await
    }
}

async fn start<S: StateMachine>(
    config: Config,
    connector: Arc<dyn Connector>,
    work: impl FnOnce(&Config, Option<File>) -> Result<Prepared<S>, Error> + Send + 'static,
) -> Result<RaftHandle, Error> {
    let (config, prepared) = prepare(config, work).await?;
    node::start(&config, prepared, connector)
}

/// Checks the settings, takes the folder for this process, and does `work` on it, off the runtime's threads.
pub(crate) async fn prepare<T: Send + 'static>(
    config: Config,
    work: impl FnOnce(&Config, Option<File>) -> Result<T, Error> + Send + 'static,
) -> Result<(Config, T), Error> {
    config.validate()?;
    let host = config.host.clone();
    let done = host.blocking(move || {
        let lock = lock(&config)?;
        let made = work(&config, lock)?;
        Ok((config, made))
    });
    // It only fails to return when it panicked or the runtime is going down.
    done.await.unwrap_or(Err(Error::Config {
        what: "the start was interrupted",
    }))
}

/// Makes the folder and takes it for this process.
fn lock(config: &Config) -> Result<Option<File>, Error> {
    if config.host.is_simulated() {
        return Ok(None);
    }
    let io = |op| {
        let path = config.dir.clone();
        move |source| Error::Io { op, path, source }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.dir)
        .map_err(io("create"))?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(config.dir.join("lock"));
    let lock = lock.map_err(io("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(Error::Locked {
            path: config.dir.clone(),
        }),
        Err(TryLockError::Error(source)) => Err(io("lock")(source)),
    }
}

fn owner(config: &Config) -> Owner {
    Owner {
        cluster_id: config.cluster_id.clone(),
        raft_id: config.id,
    }
}

fn folder(config: &Config) -> (Dir, SnapshotStore) {
    let dir = Dir::new(config.host.disk(), &config.dir).with_keys(config.keys.clone());
    let snapshots = SnapshotStore::new(dir.clone(), &config.cluster_id);
    snapshots.remove_leftovers();
    (dir, snapshots)
}

pub(crate) fn bootstrap<S: StateMachine>(
    config: &Config,
    state: S,
    lock: Option<File>,
) -> Result<Prepared<S>, Error> {
    let (dir, snapshots) = folder(config);
    if Wal::exists(&dir)? {
        return Err(Error::NotEmpty {
            path: config.dir.clone(),
        });
    }
    let (meta, records) = first_records(config);
    let pinned = state.snapshot();
    // The log begins behind a snapshot of the empty state, so that joiners learn the configuration from it: entries
    // alone would start from a cluster without members.
    snapshots.clear();
    snapshots.write(&meta, |writer| pinned.write(writer))?;
    let wal = Wal::create(dir, owner(config), config.segment_bytes, records.clone())?;
    Ok(Prepared {
        wal,
        image: image_of(records),
        state,
        snapshots,
        lock,
    })
}

/// The snapshot at index 1 with which a cluster begins, and the records that say so.
pub(crate) fn first_records(config: &Config) -> (SnapshotMeta, Vec<Record>) {
    let me = Member::new(config.id, config.node_id.clone(), config.advertise.clone());
    let conf_state = ConfState {
        voters: vec![config.id],
        ..ConfState::default()
    };
    let meta = SnapshotMeta {
        index: 1,
        term: 1,
        conf_state,
        members: Members::of(&[me]).without(&config.retired).encode(),
    };
    let marker = Marker {
        index: 1,
        term: 1,
        conf_state: meta.conf_state.clone(),
        members: meta.members.clone(),
        reset: true,
    };
    let hard_state = HardState {
        term: 1,
        vote: 0,
        commit: 1,
    };
    (
        meta,
        vec![Record::HardState(hard_state), Record::Snapshot(marker)],
    )
}

fn image_of(records: Vec<Record>) -> Image {
    let mut image = Image::default();
    for record in records {
        // Records that were made just now fit together.
        let _ = image.replay(record);
    }
    image
}

pub(crate) fn open<S: StateMachine>(
    config: &Config,
    mut state: S,
    lock: Option<File>,
) -> Result<Prepared<S>, Error> {
    let (dir, snapshots) = folder(config);
    let (wal, image) = Wal::open(dir, owner(config), config.segment_bytes)?;
    if let Some(marker) = &image.marker {
        let file = snapshots.open(marker.index, marker.term)?;
        let restore = |source| Error::Restore {
            path: file.path().to_owned(),
            source,
        };
        state
            .restore(&mut file.reader().map_err(restore)?)
            .map_err(restore)?;
        // Older ones go with the next snapshot: how many are to be kept is not known yet.
    }
    Ok(Prepared {
        wal,
        image,
        state,
        snapshots,
        lock,
    })
}

fn join<S: StateMachine>(
    config: &Config,
    members: &[Member],
    state: S,
    lock: Option<File>,
) -> Result<Prepared<S>, Error> {
    let (dir, snapshots) = folder(config);
    let records = join_records(members);
    let wal = Wal::create(dir, owner(config), config.segment_bytes, records.clone())?;
    Ok(Prepared {
        wal,
        image: image_of(records),
        state,
        snapshots,
        lock,
    })
}

/// What a member knows before its first snapshot: whom to answer.
pub(crate) fn join_records(members: &[Member]) -> Vec<Record> {
    vec![
        Record::HardState(HardState::default()),
        Record::Peers(Members::of(members).encode()),
    ]
}
