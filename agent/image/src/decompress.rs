//! Recognises compressed and plain streams by their first bytes and decompresses in this process: no helper binary of
//! the host or of an image is ever run (CVE-2014-9357, CVE-2026-41567). Layers are plain, gzip or zstd, for which OCI has media
//! types; archives that users bring may be bzip2 or xz, too.

use std::{
    io::{self, BufReader, Chain, Cursor, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bzip2::bufread::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;

/// KiB that an xz stream may want for its dictionary; `xz -9` wants half of it.
const XZ_MEMORY: u32 = 128 << 10;
/// Bytes by which streams are recognised: xz has the longest magic number.
const MAGIC: usize = 6;

/// How a layer is compressed.
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
    Bzip2(Box<MultiBzDecoder<BufReader<Peeked<R>>>>),
    Xz(Box<XzReader<BufReader<Peeked<R>>>>),
}

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Layer(Compression),
    Bzip2,
    Xz,
}

impl<R: Read> Decoder<R> {
    /// Reads the magic number and picks the decoder.
    pub(crate) fn new(inner: R) -> io::Result<Self> {
        Self::bounded(inner, Ratio::default())
    }

    /// [`Decoder::new`] with another bound for bombs.
    pub(crate) fn bounded(mut inner: R, ratio: Ratio) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(MAGIC);
        (&mut inner).take(MAGIC as u64).read_to_end(&mut magic)?;
        let format = format_of(&magic);
        let packed = Arc::new(AtomicU64::new(magic.len() as u64));
        let counted = Counted {
            inner,
            bytes: packed.clone(),
        };
        let stream = Cursor::new(magic).chain(counted);
        let buffered = |stream| BufReader::with_capacity(128 << 10, stream);
        Ok(Decoder {
            stream: match format {
                Format::Layer(Compression::Plain) => Stream::Plain(stream),
                Format::Layer(Compression::Gzip) => {
                    Stream::Gzip(Box::new(MultiGzDecoder::new(buffered(stream))))
                }
                Format::Layer(Compression::Zstd) => {
                    let decoder = zstd::stream::read::Decoder::with_buffer(buffered(stream))?;
                    Stream::Zstd(Box::new(decoder))
                }
                Format::Bzip2 => Stream::Bzip2(Box::new(MultiBzDecoder::new(buffered(stream)))),
                Format::Xz => {
                    let decoder = XzReader::new_mem_limit(buffered(stream), true, XZ_MEMORY);
                    Stream::Xz(Box::new(decoder))
                }
            },
            packed,
            plain: 0,
            ratio,
        })
    }

    /// The compression, if it is one that a layer may have.
    pub(crate) fn compression(&self) -> Option<Compression> {
        match self.stream {
            Stream::Plain(_) => Some(Compression::Plain),
            Stream::Gzip(_) => Some(Compression::Gzip),
            Stream::Zstd(_) => Some(Compression::Zstd),
            Stream::Bzip2(_) | Stream::Xz(_) => None,
        }
    }
}

fn format_of(magic: &[u8]) -> Format {
    match magic {
        [0x1f, 0x8b, 0x08, ..] => Format::Layer(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Format::Layer(Compression::Zstd),
        // A zstd stream may begin with a skippable frame (RFC 8878, section 3.1.2), as zstd:chunked's do.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Format::Layer(Compression::Zstd),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Format::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0x00] => Format::Xz,
        _ => Format::Layer(Compression::Plain),
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = match &mut self.stream {
            Stream::Plain(r) => return r.read(buf),
            Stream::Gzip(r) => r.read(buf)?,
            Stream::Zstd(r) => r.read(buf)?,
            Stream::Bzip2(r) => r.read(buf)?,
            Stream::Xz(r) => r.read(buf)?,
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

    #[test]
    fn archives_of_every_format_are_read() {
        let plain: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("plain");
        std::fs::write(&file, &plain).unwrap();
        let packed = |tool: &str| {
            let mut command = std::process::Command::new(tool);
            command.args(["--stdout", "--keep", "-9"]).arg(&file);
            command.output().unwrap().stdout
        };
        for (tool, layer) in [("gzip", Some(Compression::Gzip)), ("bzip2", None), ("xz", None)] {
            // Two streams one after the other are one, as the tools have it.
            let twice = [packed(tool), packed(tool)].concat();
            let mut decoder = Decoder::new(&twice[..]).unwrap();
            assert_eq!(decoder.compression(), layer, "{tool}");
            let mut read = Vec::new();
            decoder.read_to_end(&mut read).unwrap();
            assert!(read == [&plain[..], &plain[..]].concat(), "{tool}");
            let cut = &twice[..twice.len() - 9];
            assert!(
                io::copy(&mut Decoder::new(cut).unwrap(), &mut io::sink()).is_err(),
                "{tool}"
            );
        }
    }
}
