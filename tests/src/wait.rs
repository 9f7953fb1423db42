//! Conditions with a deadline: the only way in which tests wait. Used by every suite.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Deadline for what takes a daemon some milliseconds on a quiet machine.
pub const SHORT: Duration = Duration::from_secs(30);
/// Deadline for what goes through several daemons, containers or time-outs.
pub const LONG: Duration = Duration::from_secs(120);

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(50);

/// Tries `condition` until it holds and returns its value.
///
/// # Errors
/// At the deadline: what was waited for, and the condition's last error.
pub fn wait_until<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("waited {patience:?} for this: {what}"));
            }
            Err(_) => std::thread::sleep(PERIOD),
        }
    }
}
