//! The exit record: the one file by which a container's end outlives its shim. Written by the shim, read by
//! the engine when the shim is gone.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::config::{read_json, write_json};

/// File name of the record inside the run directory.
const EXIT_FILE: &str = "exit.json";

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Exit code; 128 + signal when killed by one; 126 or 127 when the program could not be executed.
    pub code: i32,
    /// The signal that ended it, if any.
    pub signal: Option<i32>,
    /// The kernel killed a process of this container for lack of memory.
    pub oom_killed: bool,
    /// Nanoseconds since the Unix epoch, UTC.
    pub finished_at: i64,
    /// Why it could not be started, or what failed while it was removed.
    pub error: Option<String>,
}

/// Reads the exit record from a run directory; `None` if the container has not ended.
pub fn read_exit_record(dir: &Path) -> Result<Option<ExitRecord>, Error> {
    let path = dir.join(EXIT_FILE);
    match read_json(&path) {
        Ok(record) => Ok(Some(record)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the exit record by rename.
pub(crate) fn write_exit_record(dir: &Path, record: &ExitRecord) -> Result<(), Error> {
    write_json(&dir.join(EXIT_FILE), record)
}

/// Now, in nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
