//! Recognises gzip, zstd and plain streams by their first bytes and decompresses in this process: no helper binary of
//! the host or of an image is ever run (CVE-2014-9357, CVE-2026-41567).

use std::{
    io::{self, BufReader, Chain, Cursor, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flate2::read::MultiGzDecoder;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

type Peeked<R> = Chain<Cursor<Vec<u8>>, R>;

/// How much more than it is a compressed stream may become: `times`, once more than `from` bytes have come out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ratio {
    pub(crate) from: u64,
    pub(crate) times: u64,
}

impl Default for Ratio {
    fn default() -> Self {
        let limits = crate::Limits::default();
        limits.ratio()
    }
}

/// Counts what is read.
pub(crate) struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// A stream with its compression taken off.
pub(crate) struct Decoder<R: Read> {
    stream: Stream<Counted<R>>,
    packed: Arc<AtomicU64>,
    plain: u64,
    ratio: Ratio,
}

enum Stream<R: Read> {
    Plain(Peeked<R>),
    Gzip(Box<MultiGzDecoder<BufReader<Peeked<R>>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<Peeked<R>>>>),
}

impl<R: Read> Decoder<R> {
    /// Reads the magic number and picks the decoder.
    pub(crate) fn new(inner: R) -> io::Result<Self> {
        Self::bounded(inner, Ratio::default())
    }

    /// [`Decoder::new`] with another bound for bombs.
    pub(crate) fn bounded(mut inner: R, ratio: Ratio) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(4);
        (&mut inner).take(4).read_to_end(&mut magic)?;
        let kind = compression_of(&magic);
        let packed = Arc::new(AtomicU64::new(magic.len() as u64));
        let counted = Counted {
            inner,
            bytes: packed.clone(),
        };
        let stream = Cursor::new(magic).chain(counted);
        Ok(Decoder {
            stream: match kind {
                Compression::Plain => Stream::Plain(stream),
                Compression::Gzip => Stream::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(
                    128 << 10,
                    stream,
                )))),
                Compression::Zstd => {
                    let reader = BufReader::with_capacity(128 << 10, stream);
                    Stream::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(reader)?))
                }
            },
            packed,
            plain: 0,
            ratio,
        })
    }

    pub(crate) fn compression(&self) -> Compression {
        match self.stream {
            Stream::Plain(_) => Compression::Plain,
            Stream::Gzip(_) => Compression::Gzip,
            Stream::Zstd(_) => Compression::Zstd,
        }
    }
}

fn compression_of(magic: &[u8]) -> Compression {
    match magic {
        [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
        // A zstd stream may begin with a skippable frame (RFC 8878, section 3.1.2), as zstd:chunked's do.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Compression::Zstd,
        _ => Compression::Plain,
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = match &mut self.stream {
            Stream::Plain(r) => return r.read(buf),
            Stream::Gzip(r) => r.read(buf)?,
            Stream::Zstd(r) => r.read(buf)?,
        };
        self.plain += n as u64;
        let packed = self.packed.load(Ordering::Relaxed).max(1);
        if self.plain > self.ratio.from && self.plain / packed > self.ratio.times {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{packed} compressed bytes become more than {} times as many: refused as a bomb",
                    self.ratio.times
                ),
            ));
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_refused_before_it_fills_the_disk() {
        let bomb = zstd::encode_all(io::repeat(0).take(64 << 20), 3).unwrap();
        let read = |ratio| {
            let mut decoder = Decoder::bounded(&bomb[..], ratio).unwrap();
            io::copy(&mut decoder, &mut io::sink())
        };
        let ratio = |from, times| Ratio { from, times };
        assert_eq!(read(ratio(1 << 30, 100)).unwrap(), 64 << 20);
        let error = read(ratio(1 << 20, 100)).unwrap_err().to_string();
        assert!(error.contains("refused as a bomb"), "{error}");
        assert_eq!(read(ratio(1 << 20, 1 << 20)).unwrap(), 64 << 20);
    }
}
