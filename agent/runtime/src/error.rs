//! The crate's one error type. Variants name the operation that failed; the engine switches on them.

use std::io;

/// What can go wrong with a container process, seen by the caller of [`crate::ShimClient`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call or file operation failed; `what` names operation and operand.
    #[error("{what}")]
    Io {
        /// Operation and operand.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A JSON document (configuration, exit record, message) could not be read or written.
    #[error("{what}")]
    Json {
        /// Which document.
        what: String,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// The specification asks for something contradictory or dangerous.
    #[error("invalid container specification: {0}")]
    InvalidSpec(String),
    /// The specification asks for something that this runtime does not do.
    #[error("not supported by this runtime: {0}")]
    Unsupported(String),
    /// The container's program could not be executed. Not a failure of the engine: the container ends with `code`.
    #[error("{message}")]
    Exec {
        /// 127: not found, 126: found but not executable.
        code: i32,
        /// In Docker's words.
        message: String,
    },
    /// The container could not be created.
    #[error("container could not be created: {0}")]
    Create(String),
    /// The operation does not fit the container's state.
    #[error("container is {state}: {operation} is not possible")]
    State {
        /// `created`, `running`, `paused` or `stopped`.
        state: String,
        /// What was asked.
        operation: String,
    },
    /// No exec with this id is known to the shim.
    #[error("no such exec: {0}")]
    NoSuchExec(String),
    /// The shim refused or failed an operation for another reason.
    #[error("{operation}: {message}")]
    Shim {
        /// What was asked.
        operation: String,
        /// The shim's answer, with its causes.
        message: String,
    },
    /// The shim ended without leaving an exit record; the container must be cleaned up with [`crate::destroy`].
    #[error("the shim of this container died without an exit record")]
    ShimDied,
    /// The shim does not answer; [`crate::destroy`] ends it with its container.
    #[error("the shim of this container does not answer for {} seconds", .0.as_secs())]
    Hangs(std::time::Duration),
    /// No shim answers in this directory.
    #[error("no shim answers at {path}")]
    NotRunning {
        /// The socket's path.
        path: String,
        /// Why the connection failed.
        #[source]
        source: io::Error,
    },
    /// The other side does not speak this protocol (or not this version).
    #[error("shim protocol: {0}")]
    Protocol(String),
}

/// Adds operation and operand to a bare I/O error.
pub(crate) trait IoContext<T> {
    /// Wraps the error; `what` is only evaluated on failure.
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T, Error> {
        self.map_err(|e| Error::Io {
            what: what().into(),
            source: e.into(),
        })
    }
}

impl Error {
    /// The error and all its causes in one line, for messages that cross a process boundary.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// An error and all its causes in one line, from the outermost to the first.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
