//! One container in memory: its record, the handle on its shim, and the phase that others wait on.
//!
//! ```text
//! CREATED ──start──► RUNNING ◄──► PAUSED
//!    ▲                 │ end of the process
//!    │                 ├──► RESTARTING ──back-off──► RUNNING      (restart policy)
//!    └─ failed start   └──► EXITED ──start──► RUNNING
//! any of them ──rm──► REMOVING ──► gone
//! ```
//!
//! Operations that change the state hold [`Container::operation`]; the watcher of a running container publishes its
//! end without it (so that `stop`, which holds it, can wait for that), then takes it to release what was in use.

mod boot;
pub(crate) mod create;
pub(crate) mod etc_files;
pub(crate) mod filter;
pub(crate) mod health;
mod joined;
pub(crate) mod lifecycle;
pub(crate) mod links;
pub(crate) mod list;
pub(crate) mod merge;
pub(crate) mod network;
mod oom;
mod procfs;
pub(crate) mod prune;
pub(crate) mod record;
pub(crate) mod remove;
pub(crate) mod restart;
pub(crate) mod restore;
mod settings;
pub(crate) mod start;
mod stats;
pub(crate) mod step;
pub(crate) mod supervise;
mod top;
mod update;
pub(crate) mod validate;
pub(crate) mod wait;
mod wishes;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pontoon_proto::v1::{ContainerState, HealthState};
use pontoon_runtime::ShimClient;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::stdio::Joined;
use crate::{Error, Result};
use record::Record;

/// The part of a container's state that others wait on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Its state.
    pub state: ContainerState,
    /// How often its program has started since this engine was opened.
    pub starts: u64,
    /// How often its program has ended since this engine was opened.
    pub exits: u64,
    /// Exit code of the last end.
    pub exit_code: i32,
    /// The last end had to do with a lack of memory.
    pub oom_killed: bool,
    /// Why it could not be started, or what failed at its end.
    pub error: String,
    /// Verdict of the health check.
    pub health: HealthState,
    /// It is gone.
    pub removed: bool,
}

/// A client that wants the streams of a container that is not running yet.
pub(crate) struct PendingAttach {
    /// Which streams.
    pub options: pontoon_runtime::AttachOptions,
    /// Where they go once the shim is there.
    pub joined: oneshot::Sender<Joined>,
}

/// What exists only while the daemon runs.
#[derive(Default)]
pub(crate) struct Live {
    /// The shim, while there is a process.
    pub shim: Option<ShimClient>,
    /// Sandbox and run directory are in use and not yet released.
    pub held: bool,
    /// Clients that attached before the start.
    pub pending: Vec<PendingAttach>,
    /// `restart` is at work: an end is not the end for those who follow the log.
    pub is_restarting: bool,
    /// Ends a restart's back-off.
    pub restart: Option<CancellationToken>,
    /// Ends the health check.
    pub health: Option<CancellationToken>,
    /// Ends the look-out for a lack of memory.
    pub oom: Option<CancellationToken>,
    /// The lack of memory of this run has been told.
    pub oom_told: bool,
    /// Its end is not the end of it, although it is to be removed then: `restart` is at work.
    pub keep: bool,
    /// How often it was frozen since this engine was opened: what overlaps with that is no health check.
    pub pauses: u64,
    /// Further processes that run, by id.
    pub execs: BTreeSet<String>,
    /// Consecutive restarts' delay.
    pub backoff: restart::Backoff,
}

/// One container.
pub(crate) struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// `<data>/engine/containers/<id>`.
    pub dir: PathBuf,
    /// `<run>/shim/<id>`: the shim's folder.
    pub run_dir: PathBuf,
    /// Held by the operation that is changing the state.
    pub operation: tokio::sync::Mutex<()>,
    /// Who is at its files.
    pub gate: crate::archive::gate::Gate,
    record: Mutex<Record>,
    live: Mutex<Live>,
    phase: watch::Sender<Phase>,
}

impl Container {
    /// Wraps a record.
    pub(crate) fn new(record: Record, dir: PathBuf, run_dir: PathBuf) -> Self {
        let view = record.view();
        let phase = Phase {
            state: view.state(),
            starts: 0,
            exits: 0,
            exit_code: view.exit_code,
            oom_killed: view.oom_killed,
            error: view.error.clone(),
            health: view.health.as_ref().map_or(HealthState::None, |h| h.state()),
            removed: false,
        };
        Self {
            id: view.id.clone(),
            dir,
            run_dir,
            operation: tokio::sync::Mutex::default(),
            gate: crate::archive::gate::Gate::default(),
            live: Mutex::default(),
            phase: watch::Sender::new(phase),
            record: Mutex::new(record),
        }
    }

    /// A copy of the record.
    pub(crate) fn record(&self) -> Record {
        self.lock_record().clone()
    }

    /// Reads something off the record without copying it.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Record) -> T) -> T {
        read(&self.lock_record())
    }

    /// Its state now.
    pub(crate) fn state(&self) -> ContainerState {
        self.read(|record| record.view().state())
    }

    /// Changes the record, saves it and tells those who wait. A record that can't be saved is an error, but the
    /// change holds in memory: what happened to a process can't be refused.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        self.change(false, false, change)
    }

    /// As [`Container::update`], for what must go on when the record can't be saved: a full disk must not keep anybody from
    /// stopping and removing containers. A daemon that starts again finds the old record.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Record)) {
        if let Err(error) = self.update(change) {
            tracing::warn!(
                container = self.id,
                error = error.chain(),
                "could not save a record"
            );
        }
    }

    /// As [`Container::update`], at a start of the program.
    pub(crate) fn update_started(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        self.change(true, false, change)
    }

    /// As [`Container::update`], at an end of the program.
    pub(crate) fn update_exited(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        self.change(false, true, change)
    }

    fn change(&self, started: bool, exited: bool, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut record = self.lock_record();
        change(&mut record);
        let saved = record.save(&self.dir, false);
        let view = record.view();
        self.phase.send_modify(|phase| {
            phase.state = view.state();
            phase.exit_code = view.exit_code;
            phase.oom_killed = view.oom_killed;
            phase.error.clone_from(&view.error);
            phase.health = view.health.as_ref().map_or(HealthState::None, |h| h.state());
            phase.starts += u64::from(started);
            phase.exits += u64::from(exited);
        });
        saved
    }

    /// Tells those who wait that it is gone.
    pub(crate) fn mark_removed(&self) {
        self.phase.send_modify(|phase| phase.removed = true);
    }

    /// Says whether `restart` is at work, and has those who wait look again.
    pub(crate) fn set_restarting(&self, is_restarting: bool) {
        self.live().is_restarting = is_restarting;
        self.phase.send_modify(|_| {});
    }

    /// To wait on its phase.
    pub(crate) fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// What exists only in memory.
    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shim of a container that has a process; the error is Docker's.
    pub(crate) fn shim(&self) -> Result<ShimClient> {
        self.live()
            .shim
            .clone()
            .ok_or_else(|| Error::NotRunning(self.id.clone()))
    }

    fn lock_record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
