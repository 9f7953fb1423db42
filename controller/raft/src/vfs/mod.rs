//! The few file operations that the log and the snapshots need, behind a trait.
//!
//! The real ones are in `real`; the tests put a simulated disk beneath that loses what was not synced, tears writes and
//! fails on demand. Nothing else in the crate touches log or snapshot files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod real;
#[cfg(any(test, feature = "simulation"))]
pub(crate) mod sim;

pub(crate) use real::RealVfs;

use crate::error::Error;
use crate::seal::Keyring;

#[allow(clippy::len_without_is_empty)] // No file that is asked for its length is ever empty.
/// An open file. Positions are explicit, so there is no cursor to lose.
pub trait VfsFile: Send + Sync {
    /// Reads up to `buf.len()` bytes at `offset`; 0 only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `buf` at `offset`.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Makes content and length durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Present length.
    fn len(&self) -> io::Result<u64>;
}

/// A file system.
pub trait Vfs: Send + Sync + 'static {
    /// Makes a new file; an existing one of that name is an error.
    fn create(&self, path: &Path) -> io::Result<Box<dyn VfsFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn VfsFile>>;
    /// Names of the files in `dir`, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Renames within one folder, replacing the target.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// A folder on a [`Vfs`]: names instead of paths, errors that say what was done to which file, and the keys of what is in it.
#[derive(Clone)]
pub(crate) struct Dir {
    vfs: Arc<dyn Vfs>,
    path: PathBuf,
    /// What the files in it are sealed with; none: they are written in clear.
    keys: Option<Keyring>,
}

impl Dir {
    pub(crate) fn new(vfs: Arc<dyn Vfs>, path: impl Into<PathBuf>) -> Self {
        Self {
            vfs,
            path: path.into(),
            keys: None,
        }
    }

    /// The same folder, whose new files are sealed.
    pub(crate) fn with_keys(self, keys: Option<Keyring>) -> Self {
        Self { keys, ..self }
    }

    pub(crate) fn keys(&self) -> Option<&Keyring> {
        self.keys.as_ref()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn create(&self, name: &str) -> Result<Box<dyn VfsFile>, Error> {
        let path = self.file(name);
        self.vfs.create(&path).map_err(|source| Error::Io {
            op: "create",
            path,
            source,
        })
    }

    pub(crate) fn open(&self, name: &str) -> Result<Box<dyn VfsFile>, Error> {
        let path = self.file(name);
        self.vfs.open(&path).map_err(|source| Error::Io {
            op: "open",
            path,
            source,
        })
    }

    pub(crate) fn list(&self) -> Result<Vec<String>, Error> {
        self.vfs.list(&self.path).map_err(|source| Error::Io {
            op: "list",
            path: self.path.clone(),
            source,
        })
    }

    /// Renames and makes the new name durable.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let (from, to) = (self.file(from), self.file(to));
        self.vfs.rename(&from, &to).map_err(|source| Error::Io {
            op: "rename",
            path: from,
            source,
        })?;
        self.sync()
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.file(name);
        self.vfs.remove(&path).map_err(|source| Error::Io {
            op: "remove",
            path,
            source,
        })
    }

    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.vfs.sync_dir(&self.path).map_err(|source| Error::Io {
            op: "sync folder",
            path: self.path.clone(),
            source,
        })
    }
}

/// Reads a file from its start to its end through [`io::Read`].
pub(crate) struct Reader<'a> {
    file: &'a dyn VfsFile,
    offset: u64,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &'a dyn VfsFile, offset: u64) -> Self {
        Self { file, offset }
    }
}

impl io::Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buf, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}
