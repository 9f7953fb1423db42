//! What `cp` tells while it copies, on stderr as Docker does: on a terminal a line that is written over, at the end how
//! many bytes of archive went by.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::output::human;

/// Before the number of bytes.
pub const TO_CONTAINER: &str = "Copying to container - ";
/// Before the number of bytes.
pub const FROM_CONTAINER: &str = "Copying from container - ";

/// How often the line is written.
const STEP: Duration = Duration::from_millis(75);
// ECMA-48 and DEC: save and restore the cursor, erase to the end of the line and the line, hide and show the cursor.
const SAVE: &str = "\x1b[s";
const RESTORE: &str = "\x1b[u";
const ERASE_TAIL: &str = "\x1b[0K";
const ERASE_LINE: &str = "\x1b[2K";
const HIDE: &str = "\x1b[?25l";
const SHOW: &str = "\x1b[?25h";

/// The progress of one copy.
pub struct Progress {
    counter: Counter,
    line: Option<Line>,
    quiet: bool,
}

/// Counts bytes.
#[derive(Clone)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// So many more.
    pub fn count(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn shown(&self) -> String {
        let bytes = self.0.load(Ordering::Relaxed);
        human::short_size(i64::try_from(bytes).unwrap_or(i64::MAX))
    }
}

/// The line on a terminal; it goes with this value.
struct Line(JoinHandle<()>);

impl Drop for Line {
    fn drop(&mut self) {
        self.0.abort();
        eprint!("{RESTORE}{ERASE_LINE}{SHOW}");
    }
}

impl Progress {
    /// Begins to tell, unless that is not wanted.
    pub fn start(header: &'static str, quiet: bool) -> Self {
        Self::with(header, quiet, Arc::default())
    }

    /// As [`Progress::start`], with a count that others keep too.
    pub fn with(header: &'static str, quiet: bool, total: Arc<AtomicU64>) -> Self {
        let counter = Counter(total);
        let shows = !quiet && std::io::stderr().is_terminal();
        let line = shows.then(|| Line(tokio::spawn(tell(header, counter.clone()))));
        Self { counter, line, quiet }
    }

    /// So many more bytes.
    pub fn count(&self, bytes: usize) {
        self.counter.count(bytes);
    }

    /// To count elsewhere.
    pub fn counter(&self) -> Counter {
        self.counter.clone()
    }

    /// It is done: tells how much went where.
    pub fn finish(self, destination: &str) {
        drop(self.line);
        if !self.quiet {
            eprintln!("Successfully copied {} to {destination}", self.counter.shown());
        }
    }
}

async fn tell(header: &'static str, counter: Counter) {
    eprint!("{SAVE}{HIDE}{RESTORE}{ERASE_LINE}{header}{}", counter.shown());
    let mut last = String::new();
    let mut step = tokio::time::interval(STEP);
    loop {
        step.tick().await;
        let shown = counter.shown();
        if shown != last {
            eprint!("{RESTORE}{ERASE_TAIL}{header}{shown}");
            // Nothing to do about a terminal that takes no output.
            let _ = std::io::stderr().flush();
            last = shown;
        }
    }
}
