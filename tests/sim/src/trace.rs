//! What happened, in order: printed when a seed is replayed, and hashed, so that two runs of a seed can be compared.

use std::fmt::Arguments;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// The record of one run; clones are the same.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    start: Instant,
    print: bool,
    hash: u64,
    events: u64,
}

impl Trace {
    /// An empty one; must be made in the simulation's runtime, whose clock it reads.
    pub fn new(print: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            start: Instant::now(),
            print,
            hash: 0xcbf2_9ce4_8422_2325,
            events: 0,
        })))
    }

    /// Records an event.
    pub fn event(&self, what: Arguments<'_>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("{:>9.3} {what}", inner.start.elapsed().as_secs_f64());
        inner.events += 1;
        for byte in line.bytes() {
            // FNV-1a.
            inner.hash = (inner.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if inner.print {
            println!("{line}");
        }
    }

    /// Hash and number of the events.
    pub fn digest(&self) -> (u64, u64) {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (inner.hash, inner.events)
    }
}
