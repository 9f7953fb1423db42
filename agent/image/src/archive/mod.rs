//! Trees and tar archives: what `cp`, `export` and `commit` of the engine (and the client's side of `cp`) are made of.
//!
//! Layout:
//! - [`TarWriter`] (`writer`): one entry after another, deterministic; [`TarReader`]: the crate's strict reader
//! - [`Walk`] (`walk`): a directory tree as archive entries; [`write_layer`] (`layer`): an overlayfs upper directory as an
//!   OCI layer; [`changes`]: the same as a list of what was added, modified and deleted
//! - [`ChunkReader`] (`chunks`): an archive that arrives in pieces; [`Extractor`] (`extract`): archive entries into a tree; [`remove_tree`]: deletes trees of any depth
//!
//! Every step works on directory descriptors and on one name that is not followed, or on `openat2` below a root that
//! the caller gives: whatever a process in the tree swaps meanwhile, nothing outside of the root is read or written.

mod changes;
mod chunks;
mod extract;
mod idmap;
mod layer;
mod node;
mod remove;
mod walk;
mod writer;

pub use changes::{Change, ChangeKind, changes};
pub use chunks::ChunkReader;
pub use extract::{ExtractOptions, Extractor, Place};
pub use idmap::{IdMap, IdRange};
pub use layer::write_layer;
pub use node::Node;
pub use remove::remove_tree;
pub(crate) use walk::Steps;
pub use walk::Walk;
pub use writer::{Head, TarWriter};

#[cfg(test)]
mod tests;

pub use crate::tar_stream::{Entry, Kind, TarReader};

use std::io::{self, BufReader, Read};

/// Takes gzip, zstd, bzip2 or xz compression off a stream, in this process; any other stream comes through as it is.
///
/// # Errors
/// The first bytes can't be read.
pub fn plain<R: Read>(stream: R) -> io::Result<impl Read> {
    Ok(BufReader::with_capacity(
        128 << 10,
        crate::decompress::Decoder::new(stream)?,
    ))
}
