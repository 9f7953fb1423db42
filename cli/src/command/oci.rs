//! `pontoon oci`: the command line of an OCI runtime (`create`, `start`, `state`, `kill`, `delete`, ...) for other
//! engines and for conformance suites. Hidden: users run `pontoon run`. The runtime crate does the work and
//! reads the grammar, which is runc's and not this client's; `main` dispatches here before any thread exists.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs one command; `arguments` is what follows `oci`.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    pontoon_runtime::oci_main(arguments)
}
