//! Receives an archive into a private staging directory. Files get numbers for names there: no name of the archive ever
//! reaches the file system. Dropping the spool removes what no one took.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use crate::{
    Digest, Error, LoadEvent, Result,
    decompress::Decoder,
    digest::HashWriter,
    error::At,
    limits::Limits,
    tar_stream::{Entry, Kind, TarReader, read_failed},
    unpack::RelPath,
};

/// Reports progress each time so many bytes have arrived.
const REPORT_EVERY: u64 = 1 << 20;

/// A file that has arrived.
#[derive(Debug, Clone)]
pub(crate) struct Spooled {
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// A received archive.
pub(crate) struct Spool {
    dir: tempfile::TempDir,
    files: HashMap<RelPath, Spooled>,
    links: HashMap<RelPath, RelPath>,
    made: usize,
}

impl Spool {
    pub(crate) fn new(staging: &Path) -> Result<Self> {
        let dir = tempfile::TempDir::new_in(staging).at("cannot make a directory in", staging)?;
        Ok(Spool {
            dir,
            files: HashMap::new(),
            links: HashMap::new(),
            made: 0,
        })
    }

    /// Receives the members of a tar archive, compressed or not.
    pub(crate) fn receive(
        staging: &Path,
        stream: impl Read,
        limits: &Limits,
        progress: &mut dyn FnMut(LoadEvent),
    ) -> Result<Self> {
        let mut spool = Spool::new(staging)?;
        let decoder = Decoder::bounded(stream, limits.ratio()).map_err(read_failed)?;
        let mut tar = TarReader::new(BufReader::with_capacity(128 << 10, decoder), limits);
        let (mut bytes, mut reported) = (0u64, 0);
        while let Some(entry) = tar.next_entry()? {
            bytes = bytes.saturating_add(entry.size);
            if bytes > limits.archive_bytes {
                let reason = format!("archive has more than {} bytes", limits.archive_bytes);
                return Err(Error::hostile(entry.shown(), reason));
            }
            spool.member(&entry, &mut tar)?;
            if bytes >= reported + REPORT_EVERY {
                reported = bytes;
                progress(LoadEvent::Received { bytes });
            }
        }
        tar.drain()?;
        Ok(spool)
    }

    fn member<R: Read>(&mut self, entry: &Entry, tar: &mut TarReader<'_, R>) -> Result<()> {
        let shown = entry.shown();
        let name = RelPath::new(&entry.name, &shown)?;
        match entry.kind {
            Kind::Dir => return Ok(()),
            Kind::File if entry.sparse.is_some() => {
                return Err(Error::hostile(
                    shown,
                    "sparse file in an image archive; make it without --sparse",
                ));
            }
            Kind::File => {
                let file = self.store(tar, u64::MAX)?;
                let old = self.files.insert(name, file.clone());
                if old.is_some_and(|o| o.digest != file.digest) {
                    return Err(Error::hostile(shown, "two files of one name"));
                }
            }
            Kind::Symlink | Kind::Hardlink => {
                let target = link_target(entry, &name)?;
                self.links.insert(name, target);
            }
            _ => return Err(Error::hostile(shown, "an image archive holds only files")),
        }
        Ok(())
    }

    /// Stores a stream as one file.
    pub(crate) fn store(&mut self, from: &mut impl Read, limit: u64) -> Result<Spooled> {
        let path = self.dir.path().join(self.made.to_string());
        self.made += 1;
        let file = File::create_new(&path).at("cannot write", &path)?;
        let mut out = HashWriter::new(BufWriter::with_capacity(128 << 10, file));
        let mut buffer = vec![0; 64 << 10];
        let mut size = 0u64;
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(read_failed(e)),
            };
            size += n as u64;
            if size > limit {
                return Err(Error::hostile("", format!("more than {limit} bytes")));
            }
            out.write_all(&buffer[..n]).at("cannot write", &path)?;
        }
        out.flush().at("cannot write", &path)?;
        let (_, digest, size) = out.finish();
        Ok(Spooled { path, digest, size })
    }

    /// Stores what `write` writes as one file.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<Spooled> {
        let path = self.dir.path().join(self.made.to_string());
        self.made += 1;
        let file = File::create_new(&path).at("cannot write", &path)?;
        let mut out = HashWriter::new(BufWriter::with_capacity(128 << 10, file));
        write(&mut out)?;
        out.flush().at("cannot write", &path)?;
        let (_, digest, size) = out.finish();
        Ok(Spooled { path, digest, size })
    }

    /// Looks a member up, following the links that old `docker save` writes for layers that occur twice.
    pub(crate) fn get(&self, name: &str) -> Result<Option<&Spooled>> {
        let mut name = RelPath::new(name.as_bytes(), name)?;
        for _ in 0..8 {
            if let Some(file) = self.files.get(&name) {
                return Ok(Some(file));
            }
            match self.links.get(&name) {
                Some(target) => name = target.clone(),
                None => return Ok(None),
            }
        }
        Err(Error::hostile(name.shown(), "too many links"))
    }

    /// A blob of an OCI layout.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<&Spooled> {
        let file = self.get(&format!("blobs/sha256/{}", digest.hex()))?;
        let file = file.ok_or_else(|| Error::corrupt(*digest, "the archive does not have it"))?;
        if file.digest != *digest {
            return Err(Error::corrupt(
                *digest,
                format!("the archive's file is {}", file.digest),
            ));
        }
        Ok(file)
    }

    /// The archive has a blob of this name.
    pub(crate) fn has_blob(&self, digest: &Digest) -> Result<bool> {
        Ok(self.get(&format!("blobs/sha256/{}", digest.hex()))?.is_some())
    }

    /// Content of a JSON document.
    pub(crate) fn json(&self, name: &str, file: &Spooled, limits: &Limits) -> Result<Vec<u8>> {
        if file.size > limits.json_bytes {
            return Err(Error::hostile(name, format!("document of {} bytes", file.size)));
        }
        std::fs::read(&file.path).at("cannot read", &file.path)
    }
}

/// Where a link of the outer archive points, worked out on names alone; `..` may not leave the archive.
fn link_target(entry: &Entry, name: &RelPath) -> Result<RelPath> {
    let shown = entry.shown();
    if entry.kind == Kind::Hardlink {
        return RelPath::new(&entry.link, &shown);
    }
    if entry.link.starts_with(b"/") {
        return Err(Error::hostile(shown, "link to an absolute path"));
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    let parent = name.split().0;
    let from: Vec<&[u8]> = parent.names().map(|n| n.as_encoded_bytes()).collect();
    parts.extend(from);
    for part in entry
        .link
        .split(|b| *b == b'/')
        .filter(|p| !p.is_empty() && *p != b".")
    {
        if part != b".." {
            parts.push(part);
        } else if parts.pop().is_none() {
            return Err(Error::hostile(shown, "link out of the archive"));
        }
    }
    RelPath::new(&parts.join(&b'/'), &shown)
}
