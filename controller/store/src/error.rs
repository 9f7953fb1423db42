//! Why the store refused a look-up, an edit or a snapshot stream. The messages are shown to users as they are, in
//! Docker's words where Docker has some.

use crate::Kind;

/// Result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A refused store operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No object has this id, id prefix or name.
    #[error("{kind} {target} not found")]
    NotFound {
        /// What was looked for.
        kind: Kind,
        /// The id, prefix or name given.
        target: String,
    },
    /// Several objects have this id prefix or name.
    #[error("{kind} {target} is ambiguous ({matches} matches found)")]
    Ambiguous {
        /// What was looked for.
        kind: Kind,
        /// The id, prefix or name given.
        target: String,
        /// How many objects match.
        matches: usize,
    },
    /// Another object of the kind has the name.
    #[error("name conflicts with an existing object: {kind} {name} already exists")]
    NameConflict {
        /// Kind of both objects.
        kind: Kind,
        /// The name.
        name: String,
        /// Id of the object that has the name.
        holder: String,
    },
    /// An object has no id.
    #[error("{kind} without an id can't be stored")]
    EmptyId {
        /// Kind of the object.
        kind: Kind,
    },
    /// A changeset was made on top of another version.
    #[error("changeset made on version {base}, but the store is at {current}")]
    Stale {
        /// The version it was made on.
        base: u64,
        /// The store's version.
        current: u64,
    },
    /// The snapshot stream can't be read.
    #[error("snapshot stream can't be read")]
    Read(#[source] std::io::Error),
    /// A newer program wrote it.
    #[error("it was written in format {format} by a newer version, this one reads up to {known}: upgrade this manager", known = crate::FORMAT)]
    Newer {
        /// The format that it needs.
        format: u32,
    },
    /// The snapshot stream is not one of ours, or is damaged.
    #[error("snapshot stream is corrupt: {0}; restore from another snapshot or another manager")]
    Corrupt(String),
}
