//! Why a manager can't be started or can't leave. What callers of the API are told is in `status`.

use std::io;
use std::path::PathBuf;

/// Errors of [`crate::Manager`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The replicated log did not start.
    #[error("can't start the replicated log")]
    Raft(#[source] pontoon_raft::Error),
    /// A file of the data folder could not be used.
    #[error("can't {operation} {}", path.display())]
    File {
        /// read, write…
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The member's id is not readable.
    #[error("{} holds no raft id; remove this manager from the cluster and let it join again", path.display())]
    BadMember {
        /// The file.
        path: PathBuf,
    },
    /// The first entries of a new cluster could not be written.
    #[error("can't write the new cluster's first state: {0}")]
    Init(String),
    /// No remote manager took this one in.
    #[error("no manager let this node join as a manager: {0}")]
    Join(String),
    /// It did not become ready in time.
    #[error(
        "the cluster's state did not arrive within {seconds} s: is this node's cluster port reachable at {advertise} from the other managers?"
    )]
    NotReady {
        /// The time waited.
        seconds: u64,
        /// The address that the others dial.
        advertise: String,
    },
    /// The member could not be taken out of the log's group.
    #[error("this manager can't leave the managers' group")]
    Leave(#[source] pontoon_raft::MembershipError),
}
