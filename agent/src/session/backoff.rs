//! When to try again: at once a few times, because a new leader is there within a second, then ever more slowly, with
//! jitter so that thousands of agents do not come back in one moment. How many there are tells the heartbeat's period, which
//! managers make longer with their number: what is a moment for ten agents is a second for ten thousand. Pure.

use std::time::Duration;

/// Tries at [`QUICK`] before the delay begins to double.
const QUICK_TRIES: u32 = 12;
const QUICK: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(8);
/// A quick try's delay, as a part of the heartbeat's period.
const PART: u32 = 10;
/// Longest delay of a quick try.
const LONGEST_QUICK: Duration = Duration::from_secs(1);

/// Delays between tries.
#[derive(Debug)]
pub(super) struct Backoff {
    tries: u32,
    quick: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            tries: 0,
            quick: QUICK,
        }
    }
}

impl Backoff {
    /// The delay before the next try; `random` from 0 to 1 is the jitter.
    pub(super) fn next(&mut self, random: f64) -> Duration {
        let tries = self.tries;
        self.tries = tries.saturating_add(1);
        if tries == 0 {
            return self.quick.mul_f64(random.clamp(0.0, 1.0) / 2.0);
        }
        let doublings = tries.saturating_sub(QUICK_TRIES).min(16);
        let delay = self.quick.saturating_mul(1 << doublings).min(LONGEST);
        delay.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// The delay before a redirect is followed: none where there are few agents, so that these are not all there at once.
    pub(super) fn redirected(&self, random: f64) -> Duration {
        (self.quick - QUICK).mul_f64(random.clamp(0.0, 1.0))
    }

    /// A session was established.
    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }

    /// The managers want a beat in each period.
    pub(super) fn set_period(&mut self, period: Duration) {
        self.quick = (period / PART).clamp(QUICK, LONGEST_QUICK);
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
        assert_eq!(backoff.redirected(1.0), Duration::ZERO);
    }

    /// Of so many agents that lose their leader in one moment, the tries in any tenth of a second.
    fn most_at_once(agents: u32, period: Duration) -> usize {
        let mut buckets = [0; 30];
        for agent in 0..agents {
            let mut backoff = Backoff::default();
            backoff.set_period(period);
            let (mut at, mut random) = (Duration::ZERO, u64::from(agent) + 1);
            loop {
                // Any spread from 0 to 1 will do.
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                at += backoff.next((random >> 40) as f64 / (1 << 24) as f64);
                let bucket = usize::try_from(at.as_millis() / 100).unwrap();
                let Some(count) = buckets.get_mut(bucket) else {
                    break;
                };
                *count += 1;
            }
        }
        buckets.into_iter().max().unwrap()
    }

    #[test]
    fn the_more_agents_the_longer_they_spread() {
        let one = Duration::from_secs(1);
        // As managers choose it: a thousand beats a second.
        let (few, many) = (most_at_once(500, one), most_at_once(5000, one * 5));
        assert!(few <= 1000, "{few}");
        assert!(
            many <= 2500,
            "{many} tries of 5,000 agents in a tenth of a second"
        );
        let blind = most_at_once(5000, one);
        assert!(blind > 2 * many, "{blind} without, {many} with the spread");
        let mut backoff = Backoff::default();
        backoff.set_period(Duration::from_secs(3600));
        assert!(backoff.next(1.0) <= LONGEST_QUICK && backoff.redirected(1.0) < LONGEST_QUICK);
    }
}
