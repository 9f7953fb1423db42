//! The agent's errors: what keeps it from starting, and what ends a session.

use std::path::PathBuf;

/// Result of the agent's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the agent can't go on, or a session ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the agent's state can't be read or written.
    #[error("{operation} {}", path.display())]
    File {
        /// read, write, remove.
        operation: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A manager can't be reached.
    #[error("connect to manager {addr}")]
    Connect {
        /// host:port.
        addr: String,
        /// Why.
        #[source]
        source: crate::BoxError,
    },
    /// A manager sent the agent to the leader.
    #[error("manager {addr} is not the leader; it names {leader}")]
    Redirect {
        /// Who was asked.
        addr: String,
        /// Whom to ask.
        leader: String,
    },
    /// The manager refused or broke off the session.
    #[error("session with manager {addr}")]
    Session {
        /// host:port.
        addr: String,
        /// What it said.
        #[source]
        source: Box<tonic::Status>,
    },
    /// The manager said nothing for too long.
    #[error("manager {addr} did not answer in time")]
    Silent {
        /// host:port.
        addr: String,
    },
    /// The manager ended the session.
    #[error("manager {addr} ended the session")]
    Ended {
        /// host:port.
        addr: String,
    },
    /// No manager is known: the node has to join again.
    #[error("no manager is known: join the cluster again")]
    NoManagers,
}

impl Error {
    /// The error with all its causes in one line.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// An error with all its causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    pontoon_identity::describe(error)
}
