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
    /// The manager's keys are sealed: it is locked.
    #[error(
        "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"pontoon swarm unlock\" to unlock it."
    )]
    Locked,
    /// The unlock key does not fit.
    #[error("swarm could not be unlocked: invalid key provided")]
    WrongUnlockKey,
    /// The key file can't be used.
    #[error("{} can't be used: {reason}; put the file back from a backup, or remove this manager from the cluster and let it join again", path.display())]
    BadKeys {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The TLS key could not be sealed anew.
    #[error("can't seal this node's TLS key")]
    Identity(#[source] pontoon_identity::Error),
    /// The member's id is not readable.
    #[error("{} holds no raft id; remove this manager from the cluster and let it join again", path.display())]
    BadMember {
        /// The file.
        path: PathBuf,
    },
    /// The log in the external store could not be opened.
    #[error("can't use the external store of the cluster's state")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The manager's log is elsewhere than the daemon's settings say.
    #[error("{0}")]
    OtherStore(String),
    /// Something that this manager's store does not have.
    #[error("{what} is not possible while the cluster's state lies in an external store: {instead}")]
    NotWithStore {
        /// What was asked for.
        what: &'static str,
        /// What to do.
        instead: &'static str,
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
    /// A manager could not give itself a certificate.
    #[error("can't issue a certificate from this manager's own log: {0}")]
    Reissue(String),
    /// The member could not be taken out of the log's group.
    #[error("this manager can't leave the managers' group")]
    Leave(#[source] pontoon_raft::MembershipError),
    /// The log that a cluster was to begin anew from holds no state.
    #[error(
        "this manager has never received the cluster's state: begin anew on another one, or restore a backup"
    )]
    NoState,
    /// A backup can't be written or read.
    #[error(transparent)]
    Backup(#[from] crate::backup::BackupError),
    /// The state for a backup is not to be had.
    #[error("{0}")]
    Read(String),
}

impl Error {
    /// Managers with an external store have no disk of their own to lock.
    pub(crate) fn no_autolock() -> Self {
        Self::NotWithStore {
            what: "autolock",
            instead: "seal what lies there with the daemons' --store-opt seal-key-file",
        }
    }

    /// Managers with an external store take no snapshots of their own.
    pub(crate) fn no_snapshots() -> Self {
        Self::NotWithStore {
            what: "--snapshot-interval or --max-snapshots",
            instead: "the store that the managers share has checkpoints at an interval of its own",
        }
    }

    /// A cluster with an external store needs no new beginning.
    pub fn no_new_cluster() -> Self {
        Self::NotWithStore {
            what: "--force-new-cluster",
            instead: "any one manager is enough there: demote the lost ones on it, then remove them",
        }
    }

    /// Whether the same start may work later, with nothing changed on this host: what it needs is elsewhere.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Join(_))
    }
}

/// An error with its causes, for a log line.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    pontoon_identity::describe(error)
}
