//! The engine's errors. Texts that users know from Docker are Docker's, word for word, so that scripts go on working;
//! [`crate::grpc`] turns the variants into status codes.

use std::io;
use std::path::PathBuf;

/// Result of the engine's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation of the engine failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No container has this id, prefix or name.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// An id prefix fits several containers.
    #[error("Multiple IDs found with provided prefix: {0}")]
    AmbiguousPrefix(String),
    /// The name is taken.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or \
         rename) that container to be able to reuse that name."
    )]
    NameInUse {
        /// The wished name.
        name: String,
        /// Who has it.
        id: String,
    },
    /// A setting that can't be carried out; the text says which and why.
    #[error("{0}")]
    Invalid(String),
    /// The operation does not fit the container's state; the text is Docker's.
    #[error("{0}")]
    Conflict(String),
    /// The operation needs a running container.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The container's (or exec's) program could not be started.
    #[error("{message}")]
    Start {
        /// 125: the engine's fault, 126: not executable, 127: not found.
        code: i32,
        /// What the runtime said.
        message: String,
    },
    /// No image has this name or id.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// No network has this name or id.
    #[error("network {0} not found")]
    NoSuchNetwork(String),
    /// Who must be asked for this can't be asked now; the text says who.
    #[error("{0}")]
    Unreachable(String),
    /// No volume has this name.
    #[error("get {0}: no such volume")]
    NoSuchVolume(String),
    /// A container has no such path.
    #[error("Could not find the file {path} in container {container}")]
    NoSuchFile {
        /// The path.
        path: String,
        /// The container as the user named it.
        container: String,
    },
    /// Work on a container's files failed; the text says at which path and why.
    #[error("{0}")]
    Files(String),
    /// An operation of the image store failed.
    #[error(transparent)]
    Image(pontoon_image::Error),
    /// An operation with a registry failed.
    #[error(transparent)]
    Registry(pontoon_image::registry::Error),
    /// An operation on the network failed.
    #[error("{operation}")]
    Network {
        /// What was being done.
        operation: String,
        /// Why it failed.
        #[source]
        source: pontoon_net::Error,
    },
    /// The runtime or the shim failed.
    #[error("{operation}")]
    Runtime {
        /// What was being done.
        operation: String,
        /// Why it failed.
        #[source]
        source: pontoon_runtime::Error,
    },
    /// A file operation failed.
    #[error("{what}")]
    Io {
        /// Operation and operand.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A container's record on disk can't be understood.
    #[error("record {} is not readable: move its folder away to go on without the container", path.display())]
    Record {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: prost::DecodeError,
    },
    /// The engine is being shut down, or one of its own tasks ended unexpectedly.
    #[error("the engine is shutting down: {0}")]
    ShuttingDown(&'static str),
}

impl Error {
    /// The error with all its causes in one line.
    pub fn chain(&self) -> String {
        pontoon_runtime::chain(self)
    }

    /// The exit code that `run` and `exec` end with for this error: 126, 127, else 125.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Start { code, .. } => *code,
            _ => 125,
        }
    }

    /// Gives an image store's error the engine's words; `name` is what the user asked for.
    pub(crate) fn image(name: &str, error: pontoon_image::Error) -> Self {
        match error {
            pontoon_image::Error::NotFound(_) => Self::NoSuchImage(name.to_owned()),
            other => Self::Image(other),
        }
    }

    /// Gives a network error the engine's words.
    pub(crate) fn network(operation: impl Into<String>, source: pontoon_net::Error) -> Self {
        match source {
            pontoon_net::Error::NetworkNotFound { id } => Self::NoSuchNetwork(id),
            source => Self::Network {
                operation: operation.into(),
                source,
            },
        }
    }

    /// Gives a runtime error the engine's words; `Exec` becomes [`Error::Start`].
    pub(crate) fn runtime(operation: impl Into<String>, source: pontoon_runtime::Error) -> Self {
        match source {
            pontoon_runtime::Error::Exec { code, message } => Self::Start { code, message },
            source => Self::Runtime {
                operation: operation.into(),
                source,
            },
        }
    }
}

/// Adds operation and operand to a bare I/O error.
pub(crate) trait IoContext<T> {
    /// Wraps the error; `what` is only evaluated on failure.
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| Error::Io {
            what: what().into(),
            source: e.into(),
        })
    }
}
