//! The one source of chance of a simulation: everything random is drawn from it, in an order that the seed decides.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A generator (splitmix64); clones draw from the same sequence.
#[derive(Clone)]
pub struct Rng(Arc<Mutex<u64>>);

impl Rng {
    /// A generator of its own.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(seed)))
    }

    /// 64 bits.
    pub fn bits(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Another generator, whose draws leave this one's as they are.
    pub fn fork(&self) -> Self {
        Self::new(self.bits())
    }

    /// A number below `end`; 0 when that is 0.
    pub fn below(&self, end: u64) -> u64 {
        self.bits() % end.max(1)
    }

    /// True so many times in a thousand.
    pub fn chance(&self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// Milliseconds from one to the other, both included.
    pub fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from + 1))
    }

    /// One of these.
    pub fn pick<'a, T>(&self, items: &'a [T]) -> Option<&'a T> {
        items.get(usize::try_from(self.below(items.len() as u64)).unwrap_or(0))
    }
}
