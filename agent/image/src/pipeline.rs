//! A layer's stream in three threads: one takes the compression off, one computes the digest of what comes out, and the
//! caller's unpacks it. The decompressor is the slowest part, and nothing else waits on its thread.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
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

type Chunk = Arc<Vec<u8>>;

/// The plain content of a layer. Reading to the end and then [`Pipeline::finish`] gives its digest.
pub(crate) struct Pipeline {
    compression: Compression,
    chunks: Receiver<io::Result<Chunk>>,
    current: Chunk,
    at: usize,
    hash: JoinHandle<Sha256>,
}

impl Pipeline {
    /// Begins to read `source`, gzip, zstd or plain, and stops after twice the plain bytes that a layer may have (the digest is
    /// wrong then).
    pub(crate) fn start(source: impl Read + Send + 'static, limits: &Limits) -> io::Result<Self> {
        let decoder = Decoder::bounded(source, limits.ratio())?;
        let limit = limits.layer_bytes.saturating_mul(2);
        let compression = decoder.compression();
        let (to_reader, chunks) = sync_channel(WAITING);
        let (to_hash, hashed) = sync_channel::<Chunk>(WAITING);
        thread::Builder::new()
            .name("decompress".into())
            .spawn(move || decompress(decoder.take(limit), &to_reader, &to_hash))?;
        let hash = thread::Builder::new().name("digest".into()).spawn(move || {
            let mut hash = Sha256::new();
            hashed.iter().for_each(|chunk| hash.update(chunk.as_slice()));
            hash
        })?;
        Ok(Pipeline {
            compression,
            chunks,
            current: Chunk::default(),
            at: 0,
            hash,
        })
    }

    pub(crate) fn compression(&self) -> Compression {
        self.compression
    }

    /// Digest of all that there was, read or not.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        let hash = self.hash.join();
        Ok(Digest::from_hash(hash.map_err(|_| {
            io::Error::other("the thread that computes a digest has died")
        })?))
    }
}

/// Ends when the stream does, when it fails, or when nobody reads any more.
fn decompress(mut from: impl Read, reader: &SyncSender<io::Result<Chunk>>, hash: &SyncSender<Chunk>) {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let filled = (&mut from).take(CHUNK as u64).read_to_end(&mut chunk);
        if let Err(e) = filled {
            let _ = reader.send(Err(e));
            return;
        }
        if chunk.is_empty() {
            return;
        }
        let chunk = Chunk::new(chunk);
        if hash.send(chunk.clone()).is_err() || reader.send(Ok(chunk)).is_err() {
            return;
        }
    }
}

impl Read for Pipeline {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.len() {
            match self.chunks.recv() {
                Ok(chunk) => (self.current, self.at) = (chunk?, 0),
                Err(_) => return Ok(0),
            }
        }
        let left = &self.current[self.at..];
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        self.at += count;
        Ok(count)
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
