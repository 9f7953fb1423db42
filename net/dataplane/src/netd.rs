//! The netd process.
use std::{ffi::OsStr, process::ExitCode};

/// Runs netd for a run directory until it is told to end or the directory is gone.
pub fn netd_main(_run_dir: &OsStr) -> ExitCode {
    ExitCode::FAILURE
}
