//! The content-addressed store: `blobs/sha256/<hex>`, as in an OCI layout. A blob comes into being by one rename of a
//! complete file, and is checked against its name when it is read.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::{Digest, Error, Result, digest::HashReader, error::At, limits::Limits};

/// All blobs of a store.
pub(crate) struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let dir = root.join("blobs/sha256");
        fs::create_dir_all(&dir).at("cannot make", &dir)?;
        Ok(Blobs { dir })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// A small blob (manifest, configuration), checked.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let limit = Limits::default().json_bytes;
        let (file, size) = self.open_blob(digest)?;
        if size > limit {
            return Err(Error::corrupt(
                *digest,
                format!("{size} bytes where a JSON document should be"),
            ));
        }
        let mut data = Vec::new();
        file.take(limit)
            .read_to_end(&mut data)
            .at("cannot read", self.path(digest))?;
        if Digest::of(&data) != *digest {
            return Err(Error::corrupt(*digest, "it was changed on disk"));
        }
        Ok(data)
    }

    /// A blob of any size and its length, not checked.
    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<(File, u64)> {
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => {
                let size = file.metadata().at("cannot read", &path)?.len();
                Ok((file, size))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(Error::corrupt(*digest, "the blob is missing"))
            }
            Err(e) => Err(e).at("cannot open", path),
        }
    }

    /// Copies a blob out, checking it on the way.
    pub(crate) fn copy<E>(
        &self,
        digest: &Digest,
        sink: impl FnOnce(&mut dyn Read, u64) -> Result<(), E>,
    ) -> Result<(), E>
    where
        E: From<Error>,
    {
        let (file, size) = self.open_blob(digest)?;
        let mut reader = HashReader::new(file);
        sink(&mut reader, size)?;
        if reader.finish().0 != *digest {
            return Err(Error::corrupt(*digest, "it was changed on disk").into());
        }
        Ok(())
    }

    /// Takes a complete file over; true if the blob is new.
    pub(crate) fn adopt(&self, digest: &Digest, staged: &Path) -> Result<bool> {
        let path = self.path(digest);
        if path.exists() {
            return Ok(false);
        }
        fs::rename(staged, &path).at("cannot put in place", path)?;
        Ok(true)
    }

    /// Makes the names of new blobs survive a power loss.
    pub(crate) fn sync(&self) -> Result<()> {
        File::open(&self.dir)
            .and_then(|d| d.sync_all())
            .at("cannot sync", &self.dir)
    }

    pub(crate) fn delete(&self, digest: &Digest) -> Result<()> {
        match fs::remove_file(self.path(digest)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).at("cannot delete", self.path(digest)),
            _ => Ok(()),
        }
    }

    /// Deletes all but `keep`.
    pub(crate) fn sweep(&self, keep: &BTreeSet<Digest>) -> Result<()> {
        for entry in fs::read_dir(&self.dir).at("cannot list", &self.dir)? {
            let entry = entry.at("cannot list", &self.dir)?;
            let digest = entry.file_name().to_str().and_then(Digest::from_hex);
            if !digest.is_some_and(|d| keep.contains(&d)) {
                fs::remove_file(entry.path()).at("cannot delete", entry.path())?;
            }
        }
        Ok(())
    }
}
