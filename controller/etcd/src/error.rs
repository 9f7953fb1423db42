//! Why the log on etcd could not be opened. What happens later is told in the terms of [`pontoon_raft`]'s errors.

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address or an option makes no sense.
    #[error("{0}")]
    Config(String),
    /// A file of the connection's settings can't be read.
    #[error("can't read {what} {path}")]
    File {
        /// Which file.
        what: &'static str,
        /// Its path.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Nobody answered, or the answer was an error.
    #[error("can't use etcd at {endpoints}: {reason}")]
    Unavailable {
        /// Whom we asked.
        endpoints: String,
        /// What happened.
        reason: String,
    },
    /// A log is there already.
    #[error(
        "etcd already holds a cluster {cluster} under {prefix}; choose another prefix, or delete its keys"
    )]
    Exists {
        /// The cluster's id.
        cluster: String,
        /// The keys' prefix.
        prefix: String,
    },
    /// There is no log.
    #[error(
        "etcd holds no cluster {cluster} under {prefix}: its managers keep the state themselves, or use another etcd or prefix; \
         start this daemon with the same --store as theirs"
    )]
    Missing {
        /// The cluster's id.
        cluster: String,
        /// The keys' prefix.
        prefix: String,
    },
    /// Another manager has the address.
    #[error("{addr} is already the address of manager {node}; remove that one first (`node rm`)")]
    Taken {
        /// host:port.
        addr: String,
        /// Whose it is.
        node: String,
    },
    /// What is there was written by a newer version.
    #[error("the cluster's keys in etcd have format {found}, this version reads {known}; update this daemon")]
    Format {
        /// What is there.
        found: String,
        /// What this version reads.
        known: &'static str,
    },
    /// What is there can't be read.
    #[error("{key} in etcd is damaged: {reason}")]
    Corrupt {
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// What is there is sealed, and not with a key of ours.
    #[error(
        "{key} in etcd is sealed with a key that this daemon does not have: give it the other managers' --store-opt seal-key-file"
    )]
    Sealed {
        /// The key.
        key: String,
    },
}
