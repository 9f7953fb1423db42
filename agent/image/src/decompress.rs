//! Recognises gzip, zstd and plain streams by their first bytes and decompresses in this process: no helper binary of
//! the host or of an image is ever run (CVE-2014-9357, CVE-2026-41567).

use std::io::{self, BufReader, Chain, Cursor, Read};

use flate2::read::MultiGzDecoder;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

type Peeked<R> = Chain<Cursor<Vec<u8>>, R>;

/// A stream with its compression taken off.
pub(crate) enum Decoder<R: Read> {
    Plain(Peeked<R>),
    Gzip(Box<MultiGzDecoder<BufReader<Peeked<R>>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<Peeked<R>>>>),
}

impl<R: Read> Decoder<R> {
    /// Reads the magic number and picks the decoder.
    pub(crate) fn new(mut inner: R) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(4);
        (&mut inner).take(4).read_to_end(&mut magic)?;
        let kind = compression_of(&magic);
        let stream = Cursor::new(magic).chain(inner);
        Ok(match kind {
            Compression::Plain => Decoder::Plain(stream),
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(
                128 << 10,
                stream,
            )))),
            Compression::Zstd => {
                let reader = BufReader::with_capacity(128 << 10, stream);
                Decoder::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(reader)?))
            }
        })
    }

    pub(crate) fn compression(&self) -> Compression {
        match self {
            Decoder::Plain(_) => Compression::Plain,
            Decoder::Gzip(_) => Compression::Gzip,
            Decoder::Zstd(_) => Compression::Zstd,
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
        match self {
            Decoder::Plain(r) => r.read(buf),
            Decoder::Gzip(r) => r.read(buf),
            Decoder::Zstd(r) => r.read(buf),
        }
    }
}
