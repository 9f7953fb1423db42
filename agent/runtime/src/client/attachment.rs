//! A client's end of a container's streams. Reading slowly slows the container down; going away does not.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::Error;
use crate::error::IoContext;
use crate::protocol::{HEADER, decode_header, encode, kind};

/// Largest stdin frame; larger writes are split.
const STDIN_CHUNK: usize = 64 << 10;

/// Which stream bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StdStream {
    /// Standard output; with a tty, everything.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Both directions of an attachment.
#[derive(Debug)]
pub struct Attachment {
    reader: OutputReader,
    writer: StdinWriter,
}

impl Attachment {
    pub(super) fn new(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        Self {
            reader: OutputReader { stream: read },
            writer: StdinWriter { stream: write },
        }
    }

    /// The two directions, to be driven by different tasks. The attachment ends when the reader is dropped.
    pub fn split(self) -> (OutputReader, StdinWriter) {
        (self.reader, self.writer)
    }
}

/// The container's output.
#[derive(Debug)]
pub struct OutputReader {
    stream: OwnedReadHalf,
}

impl OutputReader {
    /// The next piece of output; `None` after the last. Not cancel-safe: keep the future until it is ready.
    pub async fn next(&mut self) -> Result<Option<(StdStream, Bytes)>, Error> {
        let mut header = [0; HEADER];
        match self.stream.read_exact(&mut header).await {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
            Err(source) => {
                return Err(Error::Io {
                    what: "read container output".to_owned(),
                    source,
                });
            }
        }
        let (frame, length) = decode_header(header)?;
        let mut payload = vec![0; length];
        self.stream
            .read_exact(&mut payload)
            .await
            .context(|| "read container output")?;
        match frame {
            kind::STDOUT => Ok(Some((StdStream::Stdout, payload.into()))),
            kind::STDERR => Ok(Some((StdStream::Stderr, payload.into()))),
            kind::OUTPUT_END => Ok(None),
            other => Err(Error::Protocol(format!("output has frame kind {other}"))),
        }
    }
}

/// The container's input. Dropping it leaves stdin open; [`StdinWriter::close`] ends it.
#[derive(Debug)]
pub struct StdinWriter {
    stream: OwnedWriteHalf,
}

impl StdinWriter {
    /// Sends input; waits while the container does not read.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        for chunk in data.chunks(STDIN_CHUNK) {
            self.stream
                .write_all(&encode(kind::STDIN, chunk))
                .await
                .context(|| "send container input")?;
        }
        Ok(())
    }

    /// End of input. What it means is the container's `stdin_once`; an exec's stdin is closed.
    pub async fn close(&mut self) -> Result<(), Error> {
        self.stream
            .write_all(&encode(kind::STDIN_CLOSE, &[]))
            .await
            .context(|| "close container input")
    }
}
