//! How a command fails: one message for stderr and an exit status, Docker's where Docker has one.
//!
//! Every command returns [`Failure`]; `main` prints it. gRPC statuses become messages here and nowhere else.

use std::fmt;

use futures_util::{StreamExt, stream};

use crate::output::listing;

/// Exit status when `run`, `create` or `exec` failed before the container's process did.
pub const EXIT_ENGINE: u8 = 125;

/// Exit status when the reader of our output is gone: 128 + SIGPIPE.
const EXIT_PIPE: u8 = 141;

/// Operations that run at once.
const AT_ONCE: usize = 50;

/// A command's failure.
#[derive(Debug)]
pub struct Failure {
    /// The process's exit status.
    pub code: u8,
    /// Without "Error: " and newline; empty when everything has been said.
    pub message: String,
}

/// Result of a command: its exit status.
pub type Outcome = Result<u8, Failure>;

impl Failure {
    /// A failure with exit status 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            code: 1,
            message: message.into(),
        }
    }

    /// A failure that says nothing more: the exit status of a container's process.
    pub fn silent(code: u8) -> Self {
        Self {
            code,
            message: String::new(),
        }
    }

    /// The same failure with another exit status.
    #[must_use]
    pub fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Whether a change was refused because the object was written to since it was read.
pub fn is_out_of_sequence(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::FailedPrecondition && status.message() == "update out of sequence"
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let message = status.message();
        let text = if status.code() == tonic::Code::Unimplemented && message.is_empty() {
            "the daemon does not know this request: is it older than this client?".to_owned()
        } else if message.is_empty() {
            format!("the daemon answered: {}", status.code())
        } else {
            format!("Error response from daemon: {message}")
        };
        Self::new(text)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // Nobody reads our output any more, as in `logs c | head -1`: end as if SIGPIPE had told us.
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::silent(EXIT_PIPE);
        }
        Self::new(error.to_string())
    }
}

/// Runs `each` on every target, prints what it returns unless that is empty, and goes on after failures: Docker's way for `rm a b c`.
///
/// # Errors
/// A failure with all messages, one a line, when any target failed.
pub async fn for_each_target<F, Fut>(targets: &[String], each: F) -> Outcome
where
    F: FnMut(String) -> Fut,
    Fut: Future<Output = Result<String, Failure>>,
{
    for_each(targets, 1, each).await
}

/// As [`for_each_target`] for what takes its time (`stop`, `kill`, `rm`): up to fifty at once, as Docker; told in the order of the
/// targets.
///
/// # Errors
/// As [`for_each_target`].
pub async fn for_each_at_once<F, Fut>(targets: &[String], each: F) -> Outcome
where
    F: FnMut(String) -> Fut,
    Fut: Future<Output = Result<String, Failure>>,
{
    for_each(targets, AT_ONCE, each).await
}

async fn for_each<F, Fut>(targets: &[String], at_once: usize, each: F) -> Outcome
where
    F: FnMut(String) -> Fut,
    Fut: Future<Output = Result<String, Failure>>,
{
    let mut results = stream::iter(targets.iter().cloned().map(each)).buffered(at_once);
    let mut failures = Vec::new();
    while let Some(result) = results.next().await {
        match result {
            Ok(line) if line.is_empty() => {}
            Ok(line) => listing::write(&format!("{line}\n")),
            Err(failure) => failures.push(failure.message),
        }
    }
    if failures.is_empty() {
        Ok(0)
    } else {
        Err(Failure::new(failures.join("\n")))
    }
}
