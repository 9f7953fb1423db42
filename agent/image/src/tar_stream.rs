//! A strict, bounded reader of tar streams: ustar, PAX and GNU long names, on the `tar` crate's header type.
//!
//! The crate's own iterator is not enough for untrusted layers: it splits PAX records at newlines (so a binary
//! `security.capability` hides the records after it), reads extension headers of any size into memory, and accepts
//! entries whose PAX and header sizes disagree (RUSTSEC-2026-0068, CVE-2025-62518 "TARmageddon"). Here every size
//! conflict and malformed record is an error that names the entry. Called by the archive loader and by the unpacker.

mod entry;
mod fields;
mod pax;
pub(crate) mod sparse;

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Read},
};

use tar::{EntryType, Header};

use crate::{Error, Result, limits::Limits};
pub use entry::{Entry, Kind};
pub use sparse::Sparse;

use pax::{decimal, pax_record};

const BLOCK: usize = 512;
/// Largest size that ustar's 11 octal digits hold; above it writers put the size into PAX and 0 into the header.
const OCTAL_MAX: u64 = 0o77_777_777_777;

/// PAX records by their keys.
type Records = BTreeMap<String, Vec<u8>>;

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
            return Err(cut_off());
        }
        self.data_left -= n as u64;
        Ok(n)
    }
}

impl<R: BufRead> BufRead for TarReader<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.data_left == 0 {
            return Ok(&[]);
        }
        let piece = self.inner.fill_buf()?;
        if piece.is_empty() {
            return Err(cut_off());
        }
        let most = usize::try_from(self.data_left).unwrap_or(usize::MAX);
        Ok(&piece[..piece.len().min(most)])
    }

    fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.data_left -= count as u64;
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "archive is truncated")
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
