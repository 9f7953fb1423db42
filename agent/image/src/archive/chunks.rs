//! An archive that arrives in pieces, for the blocking readers of archives: the engine's (`load`, `import`, builds) and the client's
//! (`cp`).

use std::io::{self, Read};

use bytes::Bytes;
use tokio::sync::mpsc;

/// A channel of chunks as a blocking reader. The sender says that the archive is whole by sending `Ok(empty)` last or by
/// closing the channel; an `Err` ends it as a failed stream.
pub struct ChunkReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl ChunkReader {
    /// Reads what is sent.
    pub fn new(chunks: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self {
            chunks,
            current: Bytes::new(),
        }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}
