//! The pace of what is sent to agents: so many messages a second to all sessions together. A change after a quiet time goes out at once; when
//! all sessions have something to say at the same time they take turns, and what comes meanwhile goes with it. A leader's work for thousands
//! of agents then grows with time instead of with the number of changes, and agents, who wait for acknowledgements, report at the same pace.
//!
//! While the writer is behind, more for the same agents follows for certain, and each message takes from the processors that would write it: then
//! there are fewer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Between two messages when many sessions wait; one costs a leader and its kernel about a fifth of that.
const INTERVAL: Duration = Duration::from_micros(250);
/// The same while the writer is behind. Thousands of agents hear every few seconds of what is new, and of several tasks each time.
const INTERVAL_BEHIND: Duration = Duration::from_millis(1);
/// So many go out at once after a quiet time.
const BURST: u32 = 64;

/// Who may send when. One for all sessions of a leader.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The turn of the next that asks; in the past after a quiet time.
    next: Mutex<Instant>,
    /// The writer has more to do than one entry holds.
    behind: AtomicBool,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            next: Mutex::new(now),
            behind: AtomicBool::new(false),
        }
    }

    /// For the writer: whether it has more to do at once.
    pub(crate) fn set_behind(&self, behind: bool) {
        self.behind.store(behind, Ordering::Relaxed);
    }

    /// When a session may send that asks now.
    pub(super) fn turn(&self, now: Instant) -> Instant {
        let interval = match self.behind.load(Ordering::Relaxed) {
            true => INTERVAL_BEHIND,
            false => INTERVAL,
        };
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = now.checked_sub(interval * BURST).unwrap_or(*next);
        let turn = (*next).max(quiet);
        *next = turn + interval;
        turn.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_take_turns_and_one_waits_for_nothing() {
        let begun = Instant::now();
        let pace = Pace::new(begun);
        let now = begun + Duration::from_secs(1);
        let turns: Vec<Duration> = (0..5000).map(|_| pace.turn(now) - now).collect();
        let at_once = turns.iter().filter(|turn| turn.is_zero()).count();
        assert_eq!(at_once, BURST as usize + 1);
        assert!(turns.is_sorted());
        assert_eq!(turns[4999], INTERVAL * (4999 - BURST));
        // Those that ask in the middle of it come last; after it nobody waits.
        let later = now + INTERVAL * 1000;
        assert_eq!(pace.turn(later) - later, INTERVAL * (4000 - BURST));
        let quiet = now + INTERVAL * 10_000;
        assert_eq!(pace.turn(quiet), quiet);
    }

    #[test]
    fn there_are_fewer_while_the_writer_is_behind() {
        let begun = Instant::now();
        let pace = Pace::new(begun);
        let now = begun + Duration::from_secs(1);
        let last = |pace: &Pace, now| (0..1000).map(|_| pace.turn(now) - now).max().unwrap();
        pace.set_behind(true);
        assert_eq!(last(&pace, now), INTERVAL_BEHIND * (999 - BURST));
        pace.set_behind(false);
        let later = now + Duration::from_secs(60);
        assert_eq!(last(&pace, later), INTERVAL * (999 - BURST));
    }
}
