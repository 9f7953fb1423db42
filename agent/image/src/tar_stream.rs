//! A strict, bounded reader of tar streams: ustar, PAX and GNU long names, on the `tar` crate's header type.
//!
//! The crate's own iterator is not enough for untrusted layers: it splits PAX records at newlines (so a binary
//! `security.capability` hides the records after it), reads extension headers of any size into memory, and accepts
//! entries whose PAX and header sizes disagree (RUSTSEC-2026-0068, CVE-2025-62518 "TARmageddon"). Here every size
//! conflict and malformed record is an error that names the entry. Called by the archive loader and by the unpacker.

mod pax;
pub(crate) mod sparse;

use std::{collections::BTreeMap, io, io::Read, ops::Range};

use tar::{EntryType, Header};

use crate::{Error, Result, limits::Limits};
pub use sparse::Sparse;

use pax::{decimal, pax_record, pax_time};

const BLOCK: usize = 512;
/// Largest size that ustar's 11 octal digits hold; above it writers put the size into PAX and 0 into the header.
const OCTAL_MAX: u64 = 0o77_777_777_777;

/// PAX records by their keys.
type Records = BTreeMap<String, Vec<u8>>;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// Another name of a file that the archive has before.
    Hardlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A FIFO.
    Fifo,
}

/// One member of the archive; its data is read from the [`TarReader`].
#[derive(Debug, Clone)]
pub struct Entry {
    /// Path as the archive has it.
    pub name: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions with set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Bytes of content; of a sparse file without its holes.
    pub size: u64,
    /// Where a sparse file's content belongs.
    pub sparse: Option<Sparse>,
    /// Major and minor number of a device.
    pub dev: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Entry {
    /// The name for messages.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }
}

/// Reads entries one after another; between two calls of `next_entry`, `Read` gives the entry's data.
pub struct TarReader<'a, R> {
    inner: R,
    limits: &'a Limits,
    data_left: u64,
    padding: u64,
    entries: u64,
    ended: bool,
    last_name: String,
}

/// Extension headers that apply to the next entry.
#[derive(Default)]
struct Pending {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Records>,
    /// Sparse runs of PAX form 0.0, which repeats its records.
    runs: Vec<(u64, u64)>,
}

impl<'a, R: Read> TarReader<'a, R> {
    /// Reads a plain tar stream.
    pub fn new(inner: R, limits: &'a Limits) -> Self {
        let last_name = String::new();
        TarReader {
            inner,
            limits,
            data_left: 0,
            padding: 0,
            entries: 0,
            ended: false,
            last_name,
        }
    }

    /// The next entry, `None` at the end of the archive. Data of the entry before that was not read is skipped.
    ///
    /// # Errors
    /// [`Error::HostileArchive`], [`Error::NotAnArchive`], or the stream's.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.skip_data()?;
        let mut pending = Pending::default();
        let mut extensions = 0;
        loop {
            let Some(header) = self.header()? else {
                if extensions > 0 {
                    return Err(self.bad("extension header without an entry"));
                }
                return Ok(None);
            };
            extensions += 1;
            if extensions > 16 {
                return Err(self.bad("too many extension headers before one entry"));
            }
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(self.bad(format!("more than {} entries", self.limits.entries)));
            }
            if !self.extension(&header, &mut pending)? {
                return self.entry(&header, pending).map(Some);
            }
        }
    }

    /// Reads the rest of the stream after the last entry, so that a hash over it is complete.
    ///
    /// # Errors
    /// The stream's.
    pub fn drain(&mut self) -> Result<()> {
        let mut buf = [0; 16 << 10];
        while self.inner.read(&mut buf).map_err(read_failed)? > 0 {}
        Ok(())
    }

    /// The stream.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    fn bad(&self, reason: impl Into<String>) -> Error {
        Error::hostile(self.last_name.clone(), reason)
    }

    fn skip_data(&mut self) -> Result<()> {
        let left = self.data_left + self.padding;
        let skipped = io::copy(&mut (&mut self.inner).take(left), &mut io::sink()).map_err(read_failed)?;
        if skipped < self.data_left {
            return Err(truncated());
        }
        // Writers that are not closed (umoci) leave out what fills the last block; all content is there.
        self.ended |= skipped < left;
        (self.data_left, self.padding) = (0, 0);
        Ok(())
    }

    /// The next header block; `None` at a clean end.
    fn header(&mut self) -> Result<Option<Header>> {
        if self.ended {
            return Ok(None);
        }
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            self.ended = true;
            return Ok(None);
        }
        if header.as_bytes().iter().all(|b| *b == 0) {
            self.ended = true;
            let mut second = [0; BLOCK];
            if self.block(&mut second)? && second.iter().any(|b| *b != 0) {
                return Err(self.bad("data after an end-of-archive block"));
            }
            return Ok(None);
        }
        let bytes = header.as_bytes();
        let sum: u32 = bytes[..148]
            .iter()
            .chain(&bytes[156..])
            .map(|b| u32::from(*b))
            .sum::<u32>()
            + 8 * 32;
        match header.cksum() {
            Ok(c) if c == sum => Ok(Some(header)),
            _ => Err(Error::NotAnArchive("tar header has a wrong checksum".into())),
        }
    }

    /// Fills a block; false at the end of the stream.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]).map_err(read_failed)? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(truncated()),
                n => filled += n,
            }
        }
        Ok(true)
    }

    /// Takes in an extension header; false when `header` is an ordinary entry.
    fn extension(&mut self, header: &Header, pending: &mut Pending) -> Result<bool> {
        let kind = header.entry_type();
        let twice = match kind {
            EntryType::GNULongName => pending.long_name.is_some(),
            EntryType::GNULongLink => pending.long_link.is_some(),
            EntryType::XHeader => pending.pax.is_some(),
            EntryType::XGlobalHeader => false,
            _ => return Ok(false),
        };
        if twice {
            return Err(self.bad("two extension headers of one kind before one entry"));
        }
        let size = header.entry_size().map_err(|_| self.bad("malformed size"))?;
        if size > self.limits.extension_bytes {
            return Err(self.bad(format!("extension header of {size} bytes")));
        }
        (self.data_left, self.padding) = (size, padding(size));
        let mut data = Vec::new();
        self.read_to_end(&mut data).map_err(read_failed)?;
        self.skip_data()?;
        match kind {
            EntryType::GNULongName => pending.long_name = Some(until_nul(data)),
            EntryType::GNULongLink => pending.long_link = Some(until_nul(data)),
            EntryType::XHeader => {
                pending.pax = Some(self.pax(&data, &mut pending.runs)?);
            }
            _ => {
                let global = self.pax(&data, &mut Vec::new())?;
                if ["size", "path", "linkpath"]
                    .iter()
                    .any(|k| global.contains_key(*k))
                {
                    return Err(self.bad("global PAX header that renames or resizes entries"));
                }
            }
        }
        Ok(true)
    }

    /// Parses PAX records, `<length> <key>=<value>\n` each (POSIX pax, "pax Extended Header").
    fn pax(&self, mut data: &[u8], runs: &mut Vec<(u64, u64)>) -> Result<Records> {
        let mut records = BTreeMap::new();
        while !data.is_empty() {
            let record = pax_record(data).ok_or_else(|| self.bad("malformed PAX record"))?;
            data = &data[record.length..];
            let number = || decimal(record.value).ok_or_else(|| self.bad("malformed sparse map"));
            match (record.key, runs.last_mut()) {
                ("GNU.sparse.offset", _) => {
                    runs.push((number()?, 0));
                    continue;
                }
                ("GNU.sparse.numbytes", Some(run)) => {
                    run.1 = number()?;
                    continue;
                }
                _ => {}
            }
            let twice = records
                .insert(record.key.to_owned(), record.value.to_vec())
                .is_some();
            if twice {
                return Err(self.bad(format!("two PAX records for {}", record.key)));
            }
        }
        records.retain(|_, v| !v.is_empty());
        Ok(records)
    }

    fn entry(&mut self, header: &Header, pending: Pending) -> Result<Entry> {
        let pax = pending.pax.unwrap_or_default();
        // The name of a sparse file stands apart: `path` is what readers see that don't know the form.
        let name = pax.get("GNU.sparse.name").or_else(|| pax.get("path"));
        let name = name.cloned().or(pending.long_name);
        let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
        self.last_name = String::from_utf8_lossy(&name[..name.len().min(256)]).into_owned();
        let link = pax.get("linkpath").cloned().or(pending.long_link);
        let link = link.unwrap_or_else(|| {
            header
                .link_name_bytes()
                .map(|l| l.into_owned())
                .unwrap_or_default()
        });
        if name.len() > self.limits.path_bytes || link.len() > self.limits.path_bytes {
            return Err(self.bad(format!("path longer than {} bytes", self.limits.path_bytes)));
        }
        if name.contains(&0) || link.contains(&0) {
            return Err(self.bad("NUL in a path"));
        }
        let kind = self.kind(header, &name)?;
        let size = self.size(header, kind, &pax)?;
        (self.data_left, self.padding) = (size, padding(size));
        let (size, sparse) = self.sparse(header, kind, (&pax, &pending.runs), size)?;
        let field = |range: Range<usize>, r: io::Result<u64>| {
            empty_is_zero(header, range, r).map_err(|_| self.bad("malformed header field"))
        };
        let (uid, gid) = (
            empty_is_zero(header, 108..116, header.uid()),
            empty_is_zero(header, 116..124, header.gid()),
        );
        Ok(Entry {
            kind,
            size,
            sparse,
            mode: (field(100..108, header.mode().map(u64::from))? & 0o7777) as u32,
            uid: self.id("uid", &pax, uid)?,
            gid: self.id("gid", &pax, gid)?,
            mtime: match pax.get("mtime") {
                Some(v) => pax_time(v).ok_or_else(|| self.bad("malformed mtime"))?,
                None => (i64::try_from(field(136..148, header.mtime())?).unwrap_or(0), 0),
            },
            dev: (
                header.device_major().ok().flatten().unwrap_or(0),
                header.device_minor().ok().flatten().unwrap_or(0),
            ),
            xattrs: self.xattrs(&pax)?,
            name,
            link,
        })
    }

    fn kind(&self, header: &Header, name: &[u8]) -> Result<Kind> {
        Ok(match header.entry_type() {
            EntryType::Regular if name.ends_with(b"/") => Kind::Dir,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Dir,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::Hardlink,
            EntryType::Char => Kind::Char,
            EntryType::Block => Kind::Block,
            EntryType::Fifo => Kind::Fifo,
            EntryType::GNUSparse => Kind::File,
            other => return Err(self.bad(format!("unknown entry type {:#04x}", other.as_byte()))),
        })
    }

    /// The map of a sparse file, and how much data is left behind it.
    fn sparse(
        &mut self,
        header: &Header,
        kind: Kind,
        (pax, runs): (&Records, &[(u64, u64)]),
        size: u64,
    ) -> Result<(u64, Option<Sparse>)> {
        let malformed = "malformed sparse map";
        let found = if header.entry_type() == EntryType::GNUSparse {
            let inner = &mut self.inner;
            let next = |block: &mut [u8; BLOCK]| inner.read_exact(block).map(|()| true);
            sparse::of_gnu(header, next).map_err(read_failed)?
        } else {
            match sparse::of_pax(pax, runs) {
                sparse::Pax::No => return Ok((size, None)),
                sparse::Pax::Bad => None,
                sparse::Pax::Map(map) => Some(map),
                sparse::Pax::InData(real) => {
                    let read = sparse::of_data(&mut *self, real).map_err(read_failed)?;
                    read.map(|(map, _)| map)
                }
            }
        };
        let found = found.ok_or_else(|| self.bad(malformed))?;
        found.check(self.data_left).map_err(|reason| self.bad(reason))?;
        if kind != Kind::File {
            return Err(self.bad(malformed));
        }
        if found.size > self.limits.layer_bytes {
            return Err(self.bad(format!(
                "{} bytes, more than {} allowed",
                found.size, self.limits.layer_bytes
            )));
        }
        Ok((self.data_left, Some(found)))
    }

    /// The entry's size, on which all readers of this archive must agree.
    fn size(&self, header: &Header, kind: Kind, pax: &Records) -> Result<u64> {
        let in_header = header.entry_size().map_err(|_| self.bad("malformed size"))?;
        let size = match pax.get("size") {
            None => in_header,
            Some(v) => {
                let in_pax = decimal(v).ok_or_else(|| self.bad("malformed PAX size"))?;
                if in_pax != in_header && !(in_header == 0 && in_pax > OCTAL_MAX) {
                    return Err(self.bad(format!("header says {in_header} bytes, PAX says {in_pax}")));
                }
                in_pax
            }
        };
        if kind != Kind::File && size != 0 {
            return Err(self.bad(format!("{kind:?} with {size} bytes of data")));
        }
        if size > self.limits.layer_bytes {
            return Err(self.bad(format!(
                "{size} bytes, more than {} allowed",
                self.limits.layer_bytes
            )));
        }
        Ok(size)
    }

    fn id(&self, key: &str, pax: &Records, header: io::Result<u64>) -> Result<u32> {
        let id = match pax.get(key) {
            Some(v) => decimal(v),
            None => header.ok(),
        };
        // u32::MAX is chown(2)'s "leave as it is".
        match id.map(u32::try_from) {
            Some(Ok(id)) if id != u32::MAX => Ok(id),
            _ => Err(self.bad(format!("malformed {key}"))),
        }
    }

    fn xattrs(&self, pax: &Records) -> Result<Vec<(String, Vec<u8>)>> {
        let mut xattrs = Vec::new();
        for (key, value) in pax {
            let Some(name) = key.strip_prefix("SCHILY.xattr.") else {
                continue;
            };
            if value.len() > self.limits.xattr_bytes
                || name.len() > 255
                || name.is_empty()
                || name.contains('\0')
            {
                return Err(self.bad(format!("extended attribute {name:.64} is too large")));
            }
            // They steer overlayfs itself: a redirect in a layer would show other files of the host's layers.
            if name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.") {
                return Err(self.bad(format!("extended attribute {name:.64} is overlayfs' own")));
            }
            xattrs.push((name.to_owned(), value.clone()));
        }
        Ok(xattrs)
    }
}

impl<R: Read> Read for TarReader<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf
            .len()
            .min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let n = self.inner.read(&mut buf[..want])?;
        if n == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "archive is truncated",
            ));
        }
        self.data_left -= n as u64;
        Ok(n)
    }
}

/// Writers leave numeric fields blank that they have nothing to say in; Go reads them as zero.
fn empty_is_zero(header: &Header, field: Range<usize>, value: io::Result<u64>) -> io::Result<u64> {
    let blank = header.as_bytes()[field].iter().all(|b| matches!(b, 0 | b' '));
    if blank { Ok(0) } else { value }
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

fn until_nul(mut data: Vec<u8>) -> Vec<u8> {
    if let Some(end) = data.iter().position(|b| *b == 0) {
        data.truncate(end);
    }
    data
}

fn truncated() -> Error {
    Error::NotAnArchive("it is truncated".into())
}

/// A read of the archive failed: the stream broke off, or its compression is damaged.
pub(crate) fn read_failed(source: io::Error) -> Error {
    Error::Stream {
        op: "cannot read the archive",
        source,
    }
}

#[cfg(test)]
mod tests;
