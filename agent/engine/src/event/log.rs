//! The newest events in memory. Watchers hold a place in it ([`Cursor`]) and read at their own pace, so that one slow
//! client costs nobody else anything. Filled by `Engine::emit`, read by `Engine::watch_events`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon_proto::v1::Event;
use tokio::sync::watch;

/// Events kept: what `events --since` can look back on. Docker keeps 256.
const KEPT: usize = 4096;

/// The newest events.
#[derive(Debug)]
pub(crate) struct EventLog {
    kept: Mutex<Kept>,
    /// Number of events ever added.
    added: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Number of the first event in `events`.
    first: u64,
    events: VecDeque<Arc<Event>>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            added: watch::Sender::new(0),
        }
    }
}

impl EventLog {
    /// Adds an event and wakes the watchers.
    pub(crate) fn add(&self, event: Event) {
        let mut kept = self.lock();
        if kept.events.len() == KEPT {
            kept.events.pop_front();
            kept.first += 1;
        }
        kept.events.push_back(Arc::new(event));
        let added = kept.first + kept.events.len() as u64;
        drop(kept);
        // Two that add at once may come here in the wrong order.
        self.added.send_if_modified(|newest| {
            let more = added > *newest;
            *newest = added.max(*newest);
            more
        });
    }

    /// A place in the log: the first event not before `since`, or the end if that is 0.
    pub(crate) fn cursor(self: &Arc<Self>, since: i64) -> Cursor {
        let kept = self.lock();
        let skipped = match since {
            0 => kept.events.len(),
            since => kept.events.iter().take_while(|event| event.time < since).count(),
        };
        Cursor {
            next: kept.first + skipped as u64,
            added: self.added.subscribe(),
            log: self.clone(),
        }
    }

    /// How many watchers there are.
    pub(crate) fn watchers(&self) -> u32 {
        u32::try_from(self.added.receiver_count()).unwrap_or(u32::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watcher's place in the log.
#[derive(Debug)]
pub(crate) struct Cursor {
    next: u64,
    added: watch::Receiver<u64>,
    log: Arc<EventLog>,
}

impl Cursor {
    /// The next event, when there is one.
    pub(crate) async fn next(&mut self) -> Arc<Event> {
        loop {
            if let Some(event) = self.try_next() {
                return event;
            }
            let next = self.next;
            // The sender is in the log, which this cursor keeps alive.
            self.added
                .wait_for(|added| *added > next)
                .await
                .expect("the log outlives its cursors");
        }
    }

    fn try_next(&mut self) -> Option<Arc<Event>> {
        let kept = self.log.lock();
        if self.next < kept.first {
            tracing::warn!(lost = kept.first - self.next, "a watcher of events is too slow");
            self.next = kept.first;
        }
        let place = usize::try_from(self.next - kept.first).ok()?;
        let event = kept.events.get(place).cloned()?;
        self.next += 1;
        Some(event)
    }
}
