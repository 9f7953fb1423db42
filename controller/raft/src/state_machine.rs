//! What the log replicates into: the traits that the owner of the log implements.
//!
//! The apply thread is the only caller of [`StateMachine`]; the snapshot thread calls [`SnapshotWriter`]. Neither the
//! clock nor randomness may influence what `apply` does, or the members' states drift apart.

use std::io::{self, Read, Write};

/// The state that committed entries build up, the same on every member.
pub trait StateMachine: Send + 'static {
    /// Applies one committed entry. Deterministic and infallible: an entry that makes no sense must change nothing on
    /// every member alike. `index` is the entry's raft index and only ever grows (not by one: the log has entries of
    /// its own in between).
    fn apply(&mut self, index: u64, data: &[u8]);

    /// Why this program must not apply the entry: a newer one wrote it and means something by it that this one would
    /// lose. The member then stops before the entry, rather than to have another state than the others.
    fn refuses(&self, _data: &[u8]) -> Option<String> {
        None
    }

    /// Pins the present state in constant time; the returned writer serialises it on another thread while `apply`
    /// goes on.
    fn snapshot(&self) -> Box<dyn SnapshotWriter + Send>;

    /// Replaces the whole state by what [`SnapshotWriter::write`] wrote, possibly on another member.
    ///
    /// # Errors
    /// When the stream ends early or does not decode. The member then stops: half a state must not serve.
    fn restore(&mut self, reader: &mut dyn Read) -> io::Result<()>;
}

/// A pinned state that can be written out once.
pub trait SnapshotWriter {
    /// Writes the whole state; compression, checksums and buffering are the caller's.
    ///
    /// # Errors
    /// Only what `writer` returns, or that the state can't be encoded.
    fn write(self: Box<Self>, writer: &mut dyn Write) -> io::Result<()>;
}
