//! The state machine and how far it is. Fed by the watch and, on the leader, by the proposals themselves: whichever has the
//! next entry first.

use std::io::Read;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pontoon_raft::{SnapshotWriter, StateMachine};
use tokio::sync::watch;

/// What became of an entry that was handed in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Handed {
    /// It was the next one, or is known already.
    Known,
    /// Entries before it are missing.
    Gap,
    /// A newer program wrote it, and this one would lose something by applying it.
    TooNew(String),
}

pub(crate) struct Applier {
    machine: Mutex<Machine>,
    applied: watch::Sender<u64>,
}

struct Machine {
    state: Box<dyn StateMachine>,
    applied: u64,
}

impl Applier {
    pub(crate) fn new(state: impl StateMachine) -> Self {
        let state = Box::new(state);
        Self {
            machine: Mutex::new(Machine { state, applied: 0 }),
            applied: watch::channel(0).0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Index of the last entry that was applied.
    pub(crate) fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Changes of [`Applier::applied`].
    pub(crate) fn progress(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Applies an entry if it is the next one.
    pub(crate) fn apply(&self, index: u64, data: &[u8]) -> Handed {
        let mut machine = self.lock();
        if index <= machine.applied {
            return Handed::Known;
        }
        if index != machine.applied + 1 {
            return Handed::Gap;
        }
        if let Some(reason) = machine.state.refuses(data) {
            return Handed::TooNew(format!("entry {index}: {reason}"));
        }
        machine.state.apply(index, data);
        machine.applied = index;
        self.applied.send_replace(index);
        Handed::Known
    }

    /// Replaces the state by a checkpoint, unless what is here is newer. Blocks.
    pub(crate) fn restore(&self, index: u64, reader: &mut dyn Read) -> std::io::Result<()> {
        let mut machine = self.lock();
        if index <= machine.applied {
            return Ok(());
        }
        machine.state.restore(reader)?;
        machine.applied = index;
        self.applied.send_replace(index);
        Ok(())
    }

    /// Pins the state as it is, with the index that it has.
    pub(crate) fn pin(&self) -> (u64, Box<dyn SnapshotWriter + Send>) {
        let machine = self.lock();
        (machine.applied, machine.state.snapshot())
    }

    /// Returns when the entry `index` has been applied.
    pub(crate) async fn wait(&self, index: u64) {
        let mut progress = self.progress();
        // The sender lives in `self`.
        let _ = progress.wait_for(|applied| *applied >= index).await;
    }
}
