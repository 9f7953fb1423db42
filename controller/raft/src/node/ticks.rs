//! Ticks by the clock, without a wake-up for each: the raft thread sleeps through those in which nothing is due, and makes up
//! for them when it wakes.
//!
//! What was slept through must not decide anything. Ticks of the past are counted before the events that woke the thread are
//! looked at, so that a heartbeat ends a wait of its full length; the tick in which something is due comes after them, so that a
//! heartbeat which has arrived forestalls an election. And a process that was stopped overslept: it makes up for two ticks
//! only, and hears from the leader first.

use std::time::Duration;

use tokio::time::Instant;

/// Ticks made up for after a pause; more would only start an election against a healthy leader.
const AFTER_PAUSE: u64 = 2;

/// Time in ticks.
pub(super) struct Ticks {
    length: Duration,
    /// The time up to which ticks were counted.
    counted: Instant,
    /// Ticks from then on until something is due.
    due_in: u64,
}

impl Ticks {
    pub(super) fn new(length: Duration, now: Instant) -> Self {
        Self {
            length,
            counted: now,
            due_in: 1,
        }
    }

    /// When to wake, if something is due in so many ticks.
    pub(super) fn wake_at(&mut self, due_in: u64) -> Instant {
        self.due_in = due_in.max(1);
        self.counted + self.span(self.due_in)
    }

    /// Ticks to count before the events that came: none of them is the one that was slept for.
    pub(super) fn before_events(&mut self, now: Instant) -> u64 {
        let passed = self.passed(now);
        if passed > self.due_in + AFTER_PAUSE {
            return 0;
        }
        let count = passed.min(self.due_in - 1);
        self.counted += self.span(count);
        count
    }

    /// Ticks to count after them.
    pub(super) fn after_events(&mut self, now: Instant) -> u64 {
        let passed = self.passed(now);
        if passed <= AFTER_PAUSE {
            self.counted += self.span(passed);
            return passed;
        }
        self.counted = now;
        AFTER_PAUSE
    }

    fn passed(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.counted).as_nanos();
        u64::try_from(passed / self.length.as_nanos().max(1)).unwrap_or(u64::MAX)
    }

    fn span(&self, ticks: u64) -> Duration {
        self.length * u32::try_from(ticks).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(50);

    #[test]
    fn ticks_are_made_up_for_and_never_doubled() {
        let start = Instant::now();
        let at = |ticks: u32| start + TICK * ticks + TICK / 3;
        let mut ticks = Ticks::new(TICK, start);
        assert_eq!(ticks.wake_at(10), start + TICK * 10);
        // An event after four of ten: they count before it is looked at.
        assert_eq!((ticks.before_events(at(4)), ticks.after_events(at(4))), (4, 0));
        // It was a heartbeat: again ten, from there on.
        assert_eq!(ticks.wake_at(10), start + TICK * 14);
        // Nothing came: the tenth is due, after whatever has just come.
        assert_eq!((ticks.before_events(at(14)), ticks.after_events(at(14))), (9, 1));
        // A little late is no pause.
        ticks.wake_at(4);
        assert_eq!((ticks.before_events(at(19)), ticks.after_events(at(19))), (3, 2));
    }

    #[test]
    fn a_process_that_was_stopped_hears_the_leader_first() {
        let start = Instant::now();
        let late = start + TICK * 1000;
        let mut ticks = Ticks::new(TICK, start);
        ticks.wake_at(10);
        assert_eq!((ticks.before_events(late), ticks.after_events(late)), (0, 2));
        // From there time goes on as ever.
        assert_eq!(ticks.wake_at(3), late + TICK * 3);
        assert_eq!(
            (ticks.before_events(late + TICK), ticks.after_events(late + TICK)),
            (1, 0)
        );
    }
}
