//! A layer's stream in three threads: one takes the compression off, one computes the digest of what comes out, and the
//! caller's unpacks it. The decompressor is the slowest part, and nothing else waits on its thread.

use std::{
    io::{self, BufRead, Read},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread::{self, JoinHandle},
};

use sha2::{Digest as _, Sha256};

use crate::{
    Digest, Limits,
    decompress::{Compression, Decoder},
};

/// Bytes that go from one thread to the next at once, and how many such pieces may wait.
const CHUNK: usize = 256 << 10;
const WAITING: usize = 8;

/// A piece of plain content.
struct Chunk {
    /// Always of the full length: memory that was used once needs not be cleared again.
    data: Vec<u8>,
    len: usize,
}

impl Chunk {
    fn new() -> Self {
        Chunk {
            data: vec![0; CHUNK],
            len: 0,
        }
    }

    fn content(&self) -> &[u8] {
        &self.data[..self.len]
    }

    /// Reads as much as fits; less only at the end.
    fn fill(&mut self, from: &mut impl Read) -> io::Result<()> {
        self.len = 0;
        while self.len < self.data.len() {
            match from.read(&mut self.data[self.len..]) {
                Ok(0) => break,
                Ok(n) => self.len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Where pieces come back to that all have done with.
#[derive(Clone)]
struct Pool(Sender<Chunk>);

impl Pool {
    fn give_back(&self, chunk: Arc<Chunk>) {
        if let Some(chunk) = Arc::into_inner(chunk) {
            // Nobody needs it any more at the stream's end.
            let _ = self.0.send(chunk);
        }
    }
}

/// The plain content of a layer. Reading to the end and then [`Pipeline::finish`] gives its digest.
pub(crate) struct Pipeline {
    compression: Compression,
    chunks: Receiver<io::Result<Arc<Chunk>>>,
    current: Option<Arc<Chunk>>,
    at: usize,
    pool: Pool,
    hash: JoinHandle<Sha256>,
}

impl Pipeline {
    /// Begins to read `source`, gzip, zstd or plain, and stops after twice the plain bytes that a layer may have (the digest is
    /// wrong then).
    pub(crate) fn start(source: impl Read + Send + 'static, limits: &Limits) -> io::Result<Self> {
        let decoder = Decoder::bounded(source, limits.ratio())?;
        let limit = limits.layer_bytes.saturating_mul(2);
        let compression = decoder.compression().ok_or_else(|| {
            let text = "the layer is compressed with bzip2 or xz: only gzip and zstd are known to the image specification";
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?;
        let (to_reader, chunks) = sync_channel(WAITING);
        let (to_hash, hashed) = sync_channel::<Arc<Chunk>>(WAITING);
        let (back, used) = channel();
        let pool = Pool(back);
        thread::Builder::new()
            .name("decompress".into())
            .spawn(move || decompress(decoder.take(limit), &used, &to_reader, &to_hash))?;
        let to_pool = pool.clone();
        let hash = thread::Builder::new().name("digest".into()).spawn(move || {
            let mut hash = Sha256::new();
            for chunk in hashed {
                hash.update(chunk.content());
                to_pool.give_back(chunk);
            }
            hash
        })?;
        Ok(Pipeline {
            compression,
            chunks,
            current: None,
            at: 0,
            pool,
            hash,
        })
    }

    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// Digest of all that there was, read or not.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        loop {
            match self.next()? {
                0 => break,
                rest => self.at += rest,
            }
        }
        let hash = self.hash.join();
        Ok(Digest::from_hash(hash.map_err(|_| {
            io::Error::other("the thread that computes a digest has died")
        })?))
    }

    /// Bytes that can be had at once, 0 at the end; waits for the next piece when one is used up.
    fn next(&mut self) -> io::Result<usize> {
        loop {
            if let Some(chunk) = &self.current
                && self.at < chunk.len
            {
                return Ok(chunk.len - self.at);
            }
            if let Some(used) = self.current.take() {
                self.pool.give_back(used);
            }
            match self.chunks.recv() {
                Ok(chunk) => (self.current, self.at) = (Some(chunk?), 0),
                Err(_) => return Ok(0),
            }
        }
    }
}

/// Ends when the stream does, when it fails, or when nobody reads any more.
fn decompress(
    mut from: impl Read,
    used: &Receiver<Chunk>,
    reader: &SyncSender<io::Result<Arc<Chunk>>>,
    hash: &SyncSender<Arc<Chunk>>,
) {
    loop {
        let mut chunk = used.try_recv().unwrap_or_else(|_| Chunk::new());
        if let Err(e) = chunk.fill(&mut from) {
            let _ = reader.send(Err(e));
            return;
        }
        if chunk.len == 0 {
            return;
        }
        let chunk = Arc::new(chunk);
        if hash.send(chunk.clone()).is_err() || reader.send(Ok(chunk)).is_err() {
            return;
        }
    }
}

impl Read for Pipeline {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.fill_buf()?;
        let count = piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&piece[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// The pieces as they lie: what writes files copies nothing.
impl BufRead for Pipeline {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let left = self.next()?;
        Ok(match &self.current {
            Some(chunk) => &chunk.content()[self.at..self.at + left],
            None => &[],
        })
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_and_digest_arrive_and_errors_too() {
        let data: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let packed = zstd::encode_all(&data[..], 1).unwrap();
        let mut pipe = Pipeline::start(io::Cursor::new(packed.clone()), &Limits::default()).unwrap();
        assert_eq!(pipe.compression(), Compression::Zstd);
        let mut out = Vec::new();
        pipe.read_to_end(&mut out).unwrap();
        assert!(out == data);
        assert_eq!(pipe.finish().unwrap(), Digest::of(&data));
        let short = Limits {
            layer_bytes: 5,
            ..Limits::default()
        };
        let pipe = Pipeline::start(io::Cursor::new(packed.clone()), &short).unwrap();
        assert_eq!(pipe.finish().unwrap(), Digest::of(&data[..10]));
        let cut = packed[..packed.len() / 2].to_vec();
        assert!(
            Pipeline::start(io::Cursor::new(cut), &Limits::default())
                .unwrap()
                .finish()
                .is_err()
        );
        // Nobody reads: the threads end by themselves.
        drop(Pipeline::start(io::Cursor::new(data), &Limits::default()).unwrap());
    }
}
