//! The one error type of the crate. Callers (the engine, the Docker gateway) switch on the variants that mean
//! something to a user: not found, ambiguous, conflict, invalid reference, hostile archive, corrupt content.

use std::path::PathBuf;

use crate::Digest;

/// Result of every operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with the operands of the operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image has this name or id.
    #[error("no such image: {0}")]
    NotFound(String),
    /// A short id fits more than one image.
    #[error("image id prefix {prefix} is ambiguous: it fits {count} images, give more characters")]
    Ambiguous {
        /// The prefix as given.
        prefix: String,
        /// How many images it fits.
        count: usize,
    },
    /// The image can't be removed: a container or another tag still uses it. The text is Docker's.
    #[error("conflict: {0}")]
    Conflict(String),
    /// A name is not a valid image reference. `reason` is empty or says more.
    #[error("invalid reference format{}{reason}", if reason.is_empty() { "" } else { ": " })]
    InvalidReference {
        /// The name as given.
        name: String,
        /// What Docker adds to "invalid reference format", may be empty.
        reason: String,
    },
    /// The archive tries to do what no honest archive does; nothing of it was kept.
    #[error("archive refused at entry {entry:?}: {reason}")]
    HostileArchive {
        /// Name of the entry (or of the file inside the archive) at fault.
        entry: String,
        /// What it tried.
        reason: String,
    },
    /// An entry of an archive would replace a directory by something else, or the other way round. The text is Docker's.
    #[error("{0}")]
    Overwrite(String),
    /// Content does not match the digest that names it.
    #[error("content of {digest} is corrupt: {reason}; load or pull the image again")]
    Corrupt {
        /// The digest that the content should have had.
        digest: Digest,
        /// How it differs.
        reason: String,
    },
    /// A blob's stream ended before its size; what has arrived is kept, and a later transfer goes on from there.
    #[error("blob {digest} broke off after {received} of {expected} bytes; try again to go on from there")]
    Incomplete {
        /// The blob.
        digest: Digest,
        /// Bytes that are there.
        received: u64,
        /// Bytes that the descriptor names.
        expected: u64,
    },
    /// A manifest, index or layer is of a kind that this engine does not take.
    #[error("{0}")]
    Unsupported(String),
    /// The stream is not an image archive that this engine reads.
    #[error("not an image archive: {0}")]
    NotAnArchive(String),
    /// The image can't run here.
    #[error("image is for platform {found}, this node is {wanted}; load an image for {wanted}")]
    WrongPlatform {
        /// Platform of the image.
        found: String,
        /// Platform of this node.
        wanted: String,
    },
    /// There is an image of that name, but not for the platform that was asked for. The text is Docker's.
    #[error(
        "image with reference {name} was found but does not provide the specified platform ({wanted}): it is for {found}"
    )]
    PlatformMissing {
        /// Name as given.
        name: String,
        /// Platform of the image that is there.
        found: String,
        /// Platform that was asked for.
        wanted: String,
    },
    /// A `--change` instruction of `import` or `commit` is not valid. The text is Docker's.
    #[error("{reason}")]
    InvalidChange {
        /// The whole instruction.
        instruction: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A caller's argument is not usable as given.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// A container has a root filesystem already.
    #[error("container {0} already has a root filesystem")]
    RootfsExists(String),
    /// A container has no root filesystem here.
    #[error("container {0} has no root filesystem")]
    NoRootfs(String),
    /// The user or group of a container is not in the image.
    #[error("unable to find {kind} {name}: no matching entries in {file} file")]
    UnknownUser {
        /// `user` or `group`.
        kind: &'static str,
        /// Name as given.
        name: String,
        /// `passwd` or `group`.
        file: &'static str,
    },
    /// Another process has this store open.
    #[error("image store {0} is in use by another process")]
    Locked(PathBuf),
    /// Metadata on disk can't be read: a JSON file of ours, or one inside an archive.
    #[error("{what} is not valid JSON for its kind")]
    Json {
        /// Which document.
        what: String,
        /// The parser's message.
        #[source]
        source: serde_json::Error,
    },
    /// The input stream of `load` or `import`, or the output stream of `save`, failed.
    #[error("{op}")]
    Stream {
        /// What was being done.
        op: &'static str,
        /// The stream's error.
        #[source]
        source: std::io::Error,
    },
    /// A file system call failed.
    #[error("{op} {}", path.display())]
    Io {
        /// What was being done.
        op: &'static str,
        /// To which path.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn hostile(entry: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::HostileArchive {
            entry: entry.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn corrupt(digest: Digest, reason: impl Into<String>) -> Self {
        Error::Corrupt {
            digest,
            reason: reason.into(),
        }
    }
}

/// Gives an I/O result the operation and the path it was about.
pub(crate) trait At<T> {
    fn at(self, op: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, op: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|e| Error::Io {
            op,
            path: path.into(),
            source: e.into(),
        })
    }
}
