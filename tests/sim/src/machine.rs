//! A manager's machine: its disk, its clock, its share of chance, and the loops of the log that run on it.
//!
//! One a life of the process: a crash ends its loops; the disk and the clock go on to the next one.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pontoon_raft::{Loop, Machine, SimDisk, Vfs};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::oracle::Oracle;
use crate::rng::Rng;

/// When all simulations begin: nanoseconds since the epoch.
const BEGIN: i64 = 1_800_000_000_000_000_000;

/// What outlives the process.
#[derive(Clone)]
pub struct Hardware {
    /// The machine's name.
    pub name: String,
    /// Its disk.
    pub disk: SimDisk,
    /// How far its clock is from the true time, in nanoseconds.
    pub skew: Arc<AtomicI64>,
    /// Longest time that the disk takes, in milliseconds.
    pub disk_millis: Arc<AtomicU64>,
    start: Instant,
    rng: Rng,
    oracle: Oracle,
}

impl Hardware {
    /// A machine with an empty disk.
    pub fn new(name: &str, rng: &Rng, oracle: &Oracle) -> Self {
        Self {
            name: name.to_owned(),
            disk: SimDisk::new(rng.bits()),
            skew: Arc::default(),
            disk_millis: Arc::new(AtomicU64::new(1)),
            start: Instant::now(),
            rng: rng.clone(),
            oracle: oracle.clone(),
        }
    }
}

/// One life.
pub struct Life {
    hardware: Hardware,
    loops: Mutex<Vec<AbortHandle>>,
}

impl Life {
    /// The process starts.
    pub fn new(hardware: &Hardware) -> Arc<Self> {
        hardware.oracle.begin_life(&hardware.name);
        Arc::new(Self {
            hardware: hardware.clone(),
            loops: Mutex::default(),
        })
    }

    /// The process is gone.
    pub fn end(&self) {
        let loops = std::mem::take(&mut *self.loops.lock().unwrap_or_else(PoisonError::into_inner));
        loops.iter().for_each(AbortHandle::abort);
    }
}

impl Machine for Life {
    fn disk(&self) -> Arc<dyn Vfs> {
        Arc::new(self.hardware.disk.clone())
    }

    fn now(&self) -> i64 {
        let passed = i64::try_from(self.hardware.start.elapsed().as_nanos()).unwrap_or(i64::MAX);
        BEGIN + passed + self.hardware.skew.load(Ordering::Relaxed)
    }

    fn random(&self) -> u64 {
        self.hardware.rng.bits()
    }

    fn disk_delay(&self) -> Duration {
        let longest = self.hardware.disk_millis.load(Ordering::Relaxed);
        self.hardware.rng.millis(0, longest)
    }

    fn carry(&self, name: &'static str, body: Loop) {
        let (oracle, machine) = (self.hardware.oracle.clone(), self.hardware.name.clone());
        let task = tokio::spawn(body);
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.push(task.abort_handle());
        tokio::spawn(async move {
            if let Err(error) = task.await
                && error.is_panic()
            {
                oracle.complain(format!("{machine}: the loop {name} panicked"));
                resume_unwind(error.into_panic());
            }
        });
    }

    fn applied(&self, index: u64, data: &[u8]) {
        self.hardware.oracle.applied(&self.hardware.name, index, data);
    }
}
