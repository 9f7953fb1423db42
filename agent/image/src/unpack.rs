//! Applies one layer archive to an empty directory, in overlayfs' form: whiteouts become 0/0 character devices and
//! opaque directories get overlayfs' mark for them (kernel documentation, filesystems/overlayfs.rst).
//!
//! Nothing here trusts the archive. Names are split and checked first; directories are opened with `openat2`
//! (`RESOLVE_BENEATH`, no links) from the layer's own descriptor; the last name is never followed. A layer that writes
//! through a link, leaves its root or plays with entry kinds is refused with the entry's name. Called by the layer store.

mod apply;
mod finish;
mod tree;

pub(crate) use apply::Apply;

use std::{ffi::OsStr, io::BufRead, os::unix::ffi::OsStrExt, path::Path};

use crate::{
    Digest, Error, Result,
    limits::Limits,
    merged::Merged,
    pipeline::Pipeline,
    tar_stream::{TarReader, read_failed},
};

/// What a layer's directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// What the layer changes, as overlayfs wants it. The directory is empty at first.
    Overlay,
    /// The whole file system up to this layer. The directory is a copy of what is below at first.
    Tree,
}

/// Unpacks `archive` (plain tar) into the existing directory `dest`, on top of the layers of `below`. Reads the stream
/// to its end. Gives the bytes of the layer's regular files, and the stream for its digest.
pub(crate) fn unpack<R: BufRead>(
    archive: R,
    dest: &Path,
    form: Form,
    below: &Merged,
    limits: &Limits,
) -> Result<(u64, R)> {
    let (apply, archive) = begin(archive, dest, form, limits)?;
    Ok((apply.finish(below)?, archive))
}

/// The part of [`unpack`] that needs nothing of the layers below.
pub(crate) fn begin<R: BufRead>(archive: R, dest: &Path, form: Form, limits: &Limits) -> Result<(Apply, R)> {
    let mut reader = TarReader::new(archive, limits);
    let mut apply = Apply::new(dest, form, limits)?;
    while let Some(entry) = reader.next_entry()? {
        apply.entry(&entry, &mut reader)?;
    }
    reader.drain()?;
    Ok((apply, reader.into_inner()))
}

/// Checks that what was unpacked is the layer that it was said to be.
pub(crate) fn check(archive: Pipeline, diff_id: &Digest) -> Result<()> {
    let actual = archive.finish().map_err(read_failed)?;
    if actual != *diff_id {
        return Err(Error::corrupt(
            *diff_id,
            format!("the archive's layer is {actual}"),
        ));
    }
    Ok(())
}

/// A checked relative path: plain names only, none of them `.`, `..` or longer than the kernel takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct RelPath(Vec<u8>);

impl RelPath {
    /// Checks a name from an archive. Empty and `.` components go, as every tar reader does.
    pub(crate) fn new(raw: &[u8], entry: &str) -> Result<Self> {
        if raw.starts_with(b"/") {
            return Err(Error::hostile(entry, "absolute path"));
        }
        let mut path = Vec::with_capacity(raw.len());
        for name in raw.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".") {
            if name == b".." {
                return Err(Error::hostile(entry, "path with .."));
            }
            if name.len() > 255 {
                return Err(Error::hostile(entry, "name longer than 255 bytes"));
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        Ok(RelPath(path))
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Directory and last name; the root has no name.
    pub(crate) fn split(&self) -> (RelPath, &OsStr) {
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(i) => (RelPath(self.0[..i].to_vec()), OsStr::from_bytes(&self.0[i + 1..])),
            None => (RelPath::default(), OsStr::from_bytes(&self.0)),
        }
    }

    pub(crate) fn join(&self, name: &[u8]) -> RelPath {
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        RelPath(path)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &OsStr> + Clone {
        self.0
            .split(|b| *b == b'/')
            .filter(|c| !c.is_empty())
            .map(OsStr::from_bytes)
    }

    pub(crate) fn as_os(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

#[cfg(test)]
mod tests;
