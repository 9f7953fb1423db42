//! One connection to a shim: a call and its reply, after which it may become a stream.

use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::Error;
use crate::error::IoContext;
use crate::protocol::{Call, HEADER, Reply, Request, VERSION, decode_header, encode, kind};

/// A connection on which at most one call is outstanding.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
}

impl Connection {
    /// Connects; [`Error::NotRunning`] if nobody listens.
    pub(super) async fn open(path: &Path) -> Result<Self, Error> {
        let not_running = |source| Error::NotRunning {
            path: path.display().to_string(),
            source,
        };
        // By the directory's descriptor, for paths that are longer than a socket address.
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(not_running(std::io::ErrorKind::InvalidInput.into()));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(dir, flags, Mode::empty()).map_err(|e| not_running(e.into()))?;
        let address = Path::new("/proc/self/fd")
            .join(directory.as_raw_fd().to_string())
            .join(name);
        let stream = UnixStream::connect(address).await.map_err(not_running)?;
        Ok(Self { stream })
    }

    /// Sends a request and waits for its answer. An answer that is an error becomes one.
    pub(super) async fn call(&mut self, request: Request) -> Result<Reply, Error> {
        let call = serde_json::to_vec(&Call {
            version: VERSION,
            request,
        })
        .map_err(|source| Error::Json {
            what: "encode a call to the shim".to_owned(),
            source,
        })?;
        self.stream
            .write_all(&encode(kind::CONTROL, &call))
            .await
            .context(|| "send a call to the shim")?;
        self.reply().await
    }

    /// Waits for the next answer.
    pub(super) async fn reply(&mut self) -> Result<Reply, Error> {
        let mut header = [0; HEADER];
        match self.stream.read_exact(&mut header).await {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Err(Error::ShimDied),
            Err(source) => {
                return Err(Error::Io {
                    what: "read the shim's answer".to_owned(),
                    source,
                });
            }
        }
        let (frame, length) = decode_header(header)?;
        if frame != kind::CONTROL {
            return Err(Error::Protocol(format!("answer has frame kind {frame}")));
        }
        let mut payload = vec![0; length];
        self.stream
            .read_exact(&mut payload)
            .await
            .context(|| "read the shim's answer")?;
        let reply: Reply = serde_json::from_slice(&payload).map_err(|source| Error::Json {
            what: "parse the shim's answer".to_owned(),
            source,
        })?;
        match reply {
            Reply::Error(error) => Err(error.into()),
            reply => Ok(reply),
        }
    }

    /// The bare stream, for attachments.
    pub(super) fn into_stream(self) -> UnixStream {
        self.stream
    }
}
