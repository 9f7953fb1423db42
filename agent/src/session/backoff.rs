//! When to try again: at once a few times, because a new leader is there within a second, then ever more slowly, with
//! jitter so that a thousand agents do not come back in one moment. Pure.

use std::time::Duration;

/// Tries at [`QUICK`] before the delay begins to double.
const QUICK_TRIES: u32 = 12;
const QUICK: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(8);

/// Delays between tries.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The delay before the next try; `random` from 0 to 1 is the jitter.
    pub(super) fn next(&mut self, random: f64) -> Duration {
        let tries = self.tries;
        self.tries = tries.saturating_add(1);
        if tries == 0 {
            return QUICK.mul_f64(random.clamp(0.0, 1.0) / 2.0);
        }
        let doublings = tries.saturating_sub(QUICK_TRIES).min(16);
        let delay = QUICK.saturating_mul(1 << doublings).min(LONGEST);
        delay.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// A session was established.
    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_quick_first_and_slow_later() {
        let mut backoff = Backoff::default();
        let first: Duration = (0..10).map(|_| backoff.next(1.0)).sum();
        assert!(first <= Duration::from_secs(1), "{first:?}");
        for _ in 0..30 {
            backoff.next(0.5);
        }
        assert_eq!(backoff.next(1.0), LONGEST);
        assert_eq!(backoff.next(0.0), LONGEST / 2);
        backoff.reset();
        assert!(backoff.next(1.0) <= QUICK);
    }
}
