//! What builds need of the crate besides [`crate::Stack`]: [`Tree`], files of stacked layers or of a folder without a mount, and
//! [`Mode`], what `--chmod` says. Called by the engine's builder.

mod mode;
mod owner;
mod tree;

use std::io::{self, Write};

use crate::{Digest, ImageStore, Result, digest::HashWriter};

pub use mode::{Change, Mode};
pub use tree::{Resolved, Tree};

impl ImageStore {
    /// As [`ImageStore::save`], of one image under names that it need not have here.
    ///
    /// # Errors
    /// As there; a name that is none.
    pub fn save_as(&self, image: &str, names: &[String], w: impl Write) -> Result<()> {
        crate::save::save_as(self, image, names, w)
    }
}

/// Digests what is written to it.
pub struct DigestWriter(HashWriter<io::Sink>);

impl Default for DigestWriter {
    fn default() -> Self {
        Self(HashWriter::new(io::sink()))
    }
}

impl DigestWriter {
    /// The digest of all that was written.
    pub fn finish(self) -> Digest {
        self.0.finish().1
    }
}

impl Write for DigestWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
