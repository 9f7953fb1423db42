//! What can go wrong on the daemon's side of netd.

use std::{io, path::PathBuf};

/// A failed operation on netd.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process could not be started.
    #[error("could not start netd from {exe}")]
    Spawn {
        /// The program.
        exe: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its log could not be opened.
    #[error("could not open the log of netd at {path}")]
    Log {
        /// The log file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process was started and did not answer in time, or ended; its log says more.
    #[error("netd did not answer on {socket}, see netd.log beside it")]
    Unreachable {
        /// The control socket.
        socket: PathBuf,
        /// The last failure to connect.
        #[source]
        source: io::Error,
    },
    /// The connection broke during an exchange, twice in a row.
    #[error("the connection to netd broke")]
    Connection(#[source] io::Error),
    /// netd refused the request.
    #[error("netd refused to {operation}: {reason}")]
    Refused {
        /// What was asked, such as `serve sandbox 4f…`.
        operation: String,
        /// netd's own words.
        reason: String,
    },
    /// netd answered with something else than what was asked for.
    #[error("netd gave no fitting answer to the request to {operation}")]
    Protocol {
        /// What was asked.
        operation: String,
    },
    /// The client has been shut down.
    #[error("netd has been shut down")]
    Closed,
}
