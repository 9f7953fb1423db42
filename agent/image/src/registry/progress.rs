//! What the user sees of a transfer: a line a layer, in Docker's words, with bytes where bytes move. Made by `pull` and `push`, sent
//! on by the engine, drawn by the command line.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// Bytes are told at most that often for one line.
const PERIOD: Duration = Duration::from_millis(100);

/// One thing to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// What it is about: the first twelve digits of a digest, a tag; empty for a line of its own.
    pub id: String,
    /// `Downloading`, `Pull complete` …
    pub status: String,
    /// Bytes so far.
    pub current: u64,
    /// Bytes in all; 0 when the status has no bytes.
    pub total: u64,
}

/// Where steps go. Cheap to clone; must not block.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Step) + Send + Sync>);

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

impl Progress {
    /// Calls `show` with each step, from several threads.
    pub fn new(show: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Progress(Arc::new(show))
    }

    /// Shows nothing.
    pub fn none() -> Self {
        Progress::new(drop)
    }

    /// A status without bytes.
    pub fn say(&self, id: &str, status: impl Into<String>) {
        (self.0)(Step {
            id: id.to_owned(),
            status: status.into(),
            ..Step::default()
        });
    }

    pub(super) fn meter(&self, id: &str, status: &'static str, total: u64) -> Meter {
        Meter {
            progress: self.clone(),
            id: id.to_owned(),
            status,
            total,
            told: None,
        }
    }
}

/// Tells of moving bytes, not too often.
pub(super) struct Meter {
    progress: Progress,
    id: String,
    status: &'static str,
    total: u64,
    told: Option<Instant>,
}

impl Meter {
    pub(super) fn at(&mut self, current: u64) {
        let now = Instant::now();
        let due = self.told.is_none_or(|told| now.duration_since(told) >= PERIOD);
        if due || current == self.total {
            self.told = Some(now);
            (self.progress.0)(Step {
                id: self.id.clone(),
                status: self.status.to_owned(),
                current,
                total: self.total,
            });
        }
    }
}
