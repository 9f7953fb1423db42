//! A layer's stream in two threads: one takes the compression off, and the caller's unpacks what comes out. The digest of the plain
//! stream is computed by whichever of the two would wait for the other, so that two processors are busy whatever is slow, the
//! compression or the files; where there are more processors a third thread does nothing else.

use std::{
    collections::VecDeque,
    io::{self, BufRead, Read},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, SyncSender, TryRecvError, TrySendError, channel, sync_channel},
    },
    thread,
};

use sha2::{Digest as _, Sha256};

use crate::{
    Digest, Limits,
    decompress::{Compression, Decoder},
};

/// Bytes that go from one thread to the next at once, and how many such pieces may wait to be unpacked.
const CHUNK: usize = 256 << 10;
const WAITING: usize = 8;
/// How many may wait for the digest before decompression does.
const UNHASHED: usize = 2 * WAITING;
/// From so many processors on the digest has a thread of its own.
const PROCESSORS: usize = 3;

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

/// The digest of the stream so far, and the pieces that it lacks.
struct Hashing {
    /// Held while a piece is taken from `waiting` and hashed: pieces go in in their order.
    state: Mutex<Sha256>,
    waiting: Mutex<Waiting>,
    /// For the thread that does nothing else.
    more: Condvar,
    pool: Pool,
}

#[derive(Default)]
struct Waiting {
    pieces: VecDeque<Arc<Chunk>>,
    ended: bool,
}

/// Nothing that is done under the locks can panic half-way.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hashing {
    fn new(pool: Pool) -> Self {
        Hashing {
            state: Mutex::new(Sha256::new()),
            waiting: Mutex::default(),
            more: Condvar::new(),
            pool,
        }
    }

    /// Gives how many pieces wait now.
    fn push(&self, chunk: Arc<Chunk>) -> usize {
        let mut waiting = locked(&self.waiting);
        waiting.pieces.push_back(chunk);
        self.more.notify_one();
        waiting.pieces.len()
    }

    fn end(&self) {
        locked(&self.waiting).ended = true;
        self.more.notify_one();
    }

    fn hash(&self, state: &mut Sha256, chunk: Arc<Chunk>) {
        state.update(chunk.content());
        self.pool.give_back(chunk);
    }

    /// Hashes the oldest piece; false when there is none, or when another thread is at it.
    fn help(&self) -> bool {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(_) => return false,
        };
        let chunk = locked(&self.waiting).pieces.pop_front();
        chunk.map(|chunk| self.hash(&mut state, chunk)).is_some()
    }

    /// Hashes what comes until the stream's end.
    fn run(&self) {
        loop {
            let waiting = locked(&self.waiting);
            let waiting = self.more.wait_while(waiting, |w| w.pieces.is_empty() && !w.ended);
            let waiting = waiting.unwrap_or_else(PoisonError::into_inner);
            if waiting.pieces.is_empty() {
                return;
            }
            drop(waiting);
            drop(self.hash_all());
        }
    }

    /// Hashes all that waits.
    fn hash_all(&self) -> MutexGuard<'_, Sha256> {
        let mut state = locked(&self.state);
        loop {
            let chunk = locked(&self.waiting).pieces.pop_front();
            match chunk {
                Some(chunk) => self.hash(&mut state, chunk),
                None => return state,
            }
        }
    }
}

/// The plain content of a layer. Reading to the end and then [`Pipeline::finish`] gives its digest.
pub(crate) struct Pipeline {
    compression: Compression,
    chunks: Receiver<io::Result<Arc<Chunk>>>,
    current: Option<Arc<Chunk>>,
    at: usize,
    hashing: Arc<Hashing>,
}

impl Pipeline {
    /// Begins to read `source`, gzip, zstd or plain, and stops after twice the plain bytes that a layer may have (the digest is
    /// wrong then).
    pub(crate) fn start(source: impl Read + Send + 'static, limits: &Limits) -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self::with(source, limits, processors)
    }

    fn with(source: impl Read + Send + 'static, limits: &Limits, processors: usize) -> io::Result<Self> {
        let decoder = Decoder::bounded(source, limits.ratio())?;
        let limit = limits.layer_bytes.saturating_mul(2);
        let compression = decoder.compression().ok_or_else(|| {
            let text = "the layer is compressed with bzip2 or xz: only gzip and zstd are known to the image specification";
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?;
        let (to_reader, chunks) = sync_channel(WAITING);
        let (back, used) = channel();
        let hashing = Arc::new(Hashing::new(Pool(back)));
        let digest = hashing.clone();
        thread::Builder::new().name("decompress".into()).spawn(move || {
            decompress(decoder.take(limit), &used, &to_reader, &digest);
            digest.end();
        })?;
        if processors >= PROCESSORS {
            let digest = hashing.clone();
            thread::Builder::new()
                .name("digest".into())
                .spawn(move || digest.run())?;
        }
        Ok(Pipeline {
            compression,
            chunks,
            current: None,
            at: 0,
            hashing,
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
        Ok(Digest::from_hash(self.hashing.hash_all().clone()))
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
                self.hashing.pool.give_back(used);
            }
            let chunk = match self.chunks.try_recv() {
                Err(TryRecvError::Empty) if self.hashing.help() => continue,
                Err(TryRecvError::Empty) => self.chunks.recv().ok(),
                other => other.ok(),
            };
            match chunk {
                Some(chunk) => (self.current, self.at) = (Some(chunk?), 0),
                None => return Ok(0),
            }
        }
    }
}

/// Ends when the stream does, when it fails, or when nobody reads any more.
fn decompress(
    mut from: impl Read,
    used: &Receiver<Chunk>,
    reader: &SyncSender<io::Result<Arc<Chunk>>>,
    hashing: &Hashing,
) {
    loop {
        let mut chunk = used.try_recv().unwrap_or_else(|_| Chunk::new());
        if let Err(e) = chunk.fill(&mut from) {
            let _ = reader.send(Err(e));
            return;
        }
        if chunk.len == 0 {
            break;
        }
        let chunk = Arc::new(chunk);
        if hashing.push(chunk.clone()) > UNHASHED {
            hashing.help();
        }
        if !hand_over(Ok(chunk), reader, hashing) {
            return;
        }
    }
    while hashing.help() {}
}

/// Gives the reader a piece, and hashes while it has no room for one. False when nobody reads any more.
fn hand_over(
    mut piece: io::Result<Arc<Chunk>>,
    reader: &SyncSender<io::Result<Arc<Chunk>>>,
    hashing: &Hashing,
) -> bool {
    loop {
        piece = match reader.try_send(piece) {
            Ok(()) => return true,
            Err(TrySendError::Disconnected(_)) => return false,
            Err(TrySendError::Full(piece)) => piece,
        };
        if !hashing.help() {
            return reader.send(piece).is_ok();
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
        for processors in [1, PROCESSORS] {
            let start = || Pipeline::with(io::Cursor::new(packed.clone()), &Limits::default(), processors);
            let mut pipe = start().unwrap();
            assert_eq!(pipe.compression(), Compression::Zstd);
            let mut out = Vec::new();
            pipe.read_to_end(&mut out).unwrap();
            assert!(out == data);
            assert_eq!(pipe.finish().unwrap(), Digest::of(&data));
            // What nobody has read is in the digest too.
            let mut pipe = start().unwrap();
            pipe.read_exact(&mut [0; 1000]).unwrap();
            assert_eq!(pipe.finish().unwrap(), Digest::of(&data));
        }
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
