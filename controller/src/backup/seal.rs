//! Sealed chunks: AES-256-GCM in the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015), so that chunks can
//! neither be changed, left out, swapped nor cut off at the end.
//!
//! ```text
//! chunk = u32 length of the sealed bytes, the top bit marks the last | sealed bytes (at most 1 MiB, and a tag of 16)
//! nonce = prefix[7] | u32 number of the chunk, big-endian | u8 1 for the last
//! ```
//! A key seals one file only (its salt is random), so no nonce is used twice.

use std::io::{self, Read, Write};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::key::{PREFIX, Sealing};
use super::{BackupError, fill};

const CHUNK: usize = 1 << 20;
const TAG: usize = 16;
const LAST: u32 = 1 << 31;

/// What both directions share.
struct Chunks {
    key: LessSafeKey,
    prefix: [u8; PREFIX],
    /// Everything before the first chunk.
    head: Vec<u8>,
    number: u32,
}

impl Chunks {
    fn new(sealing: &Sealing, head: Vec<u8>) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, sealing.key.as_ref())
            .expect("the length of the key is the algorithm's");
        Self {
            key: LessSafeKey::new(key),
            prefix: sealing.prefix,
            head,
            number: 0,
        }
    }

    /// The next chunk's nonce.
    fn nonce(&mut self, is_last: bool) -> io::Result<Nonce> {
        let mut nonce = [0; 12];
        nonce[..PREFIX].copy_from_slice(&self.prefix);
        nonce[PREFIX..11].copy_from_slice(&self.number.to_be_bytes());
        nonce[11] = u8::from(is_last);
        let too_long = || io::Error::other("the backup has too many chunks");
        self.number = self.number.checked_add(1).ok_or_else(too_long)?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// Seals what is written to it.
pub(super) struct Sealer<W> {
    out: W,
    chunks: Chunks,
    buffer: Vec<u8>,
}

impl<W: Write> Sealer<W> {
    /// `head` is what stands in `out` already.
    pub(super) fn new(out: W, sealing: &Sealing, head: Vec<u8>) -> Self {
        Self {
            out,
            chunks: Chunks::new(sealing, head),
            buffer: Vec::with_capacity(CHUNK + TAG),
        }
    }

    /// Seals the rest as the last chunk.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.seal(true)?;
        Ok(self.out)
    }

    fn seal(&mut self, is_last: bool) -> io::Result<()> {
        let nonce = self.chunks.nonce(is_last)?;
        self.chunks
            .key
            .seal_in_place_append_tag(nonce, Aad::from(&self.chunks.head), &mut self.buffer)
            .map_err(|_| io::Error::other("can't seal a chunk"))?;
        let mark = if is_last { LAST } else { 0 };
        let length = u32::try_from(self.buffer.len()).map_err(io::Error::other)? | mark;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk waits for more: it may be the last.
        if self.buffer.len() == CHUNK {
            self.seal(false)?;
        }
        let count = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens chunks and gives what is in them.
pub(super) struct Opener<R> {
    input: R,
    chunks: Chunks,
    opened: Vec<u8>,
    /// Of `opened`, how much was given.
    given: usize,
    offset: u64,
    is_last: bool,
    /// Why reading failed; the error that `read` returns is only a sign.
    pub(super) failure: Option<BackupError>,
}

impl<R: Read> Opener<R> {
    /// `head` is what was read of `input` already.
    pub(super) fn new(input: R, sealing: &Sealing, head: Vec<u8>) -> Self {
        Self {
            input,
            offset: head.len() as u64,
            chunks: Chunks::new(sealing, head),
            opened: Vec::new(),
            given: 0,
            is_last: false,
            failure: None,
        }
    }

    fn next(&mut self) -> Result<(), BackupError> {
        let offset = self.offset;
        let damaged = || BackupError::Damaged { offset };
        let mut length = [0; 4];
        fill(&mut self.input, &mut length, offset)?;
        let length = u32::from_le_bytes(length);
        self.is_last = length & LAST != 0;
        let length = (length & !LAST) as usize;
        if !(TAG..=CHUNK + TAG).contains(&length) {
            return Err(damaged());
        }
        self.opened.resize(length, 0);
        fill(&mut self.input, &mut self.opened, offset + 4)?;
        self.offset = offset + 4 + length as u64;
        let nonce = self.chunks.nonce(self.is_last).map_err(|_| damaged())?;
        let opened = self
            .chunks
            .key
            .open_in_place(nonce, Aad::from(&self.chunks.head), &mut self.opened)
            .map_err(|_| damaged())?
            .len();
        self.opened.truncate(opened);
        self.given = 0;
        if self.is_last {
            let mut more = [0];
            match fill(&mut self.input, &mut more, self.offset) {
                Err(BackupError::Cut { .. }) => {}
                Err(other) => return Err(other),
                Ok(()) => return Err(BackupError::Damaged { offset: self.offset }),
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Opener<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.opened.len() && !self.is_last {
            if let Err(failure) = self.next() {
                self.failure.get_or_insert(failure);
                return Err(io::Error::other("the backup can't be read"));
            }
        }
        let count = buffer.len().min(self.opened.len() - self.given);
        buffer[..count].copy_from_slice(&self.opened[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}
