//! The cluster's time: what batches are stamped with and the reconciler's delays are counted in.
//!
//! Machines' clocks differ and jump. Were their time taken as it is, a leader whose clock is an hour behind its
//! predecessor's would wait an hour before it restarts a task. So a leader begins no earlier than the newest entry, goes
//! on by the monotonic clock, and follows its own clock forward only: delays may end early, but time never goes back or
//! stands still. Used by the writer's loop.

use pontoon_raft::Host;
use tokio::time::Instant;

/// One leader's view of it.
pub(super) struct Time {
    host: Host,
    base: i64,
    since: Instant,
}

impl Time {
    /// Begins at `newest`, or later; nanoseconds since the epoch.
    pub(super) fn new(host: &Host, newest: i64) -> Self {
        Self {
            host: host.clone(),
            base: newest,
            since: Instant::now(),
        }
    }

    /// Nanoseconds since the epoch.
    pub(super) fn now(&mut self) -> i64 {
        let passed = i64::try_from(self.since.elapsed().as_nanos()).unwrap_or(i64::MAX);
        let steady = self.base.saturating_add(passed);
        let clock = self.host.now();
        if clock <= steady {
            return steady;
        }
        (self.base, self.since) = (clock, Instant::now());
        clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn time_goes_on_whatever_the_clock_says() {
        let host = Host::default();
        let clock = host.now();
        let hour = 3_600_000_000_000;
        let mut behind = Time::new(&host, clock + hour);
        let first = behind.now();
        assert!(first >= clock + hour);
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(behind.now() >= first + 2_000_000, "it stands still");
        let mut ahead = Time::new(&host, clock - hour);
        assert!(ahead.now() >= clock, "it follows the clock forward");
    }
}
