//! One connection to a netd, and how a netd is started.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::NetdOptions;
use crate::{
    Error,
    protocol::{self, Hello, Operation, Outcome, PROTOCOL, Response},
};

/// How long a netd may take to answer after it was started.
const START: Duration = Duration::from_secs(10);
/// How long one exchange may take; a large state is some milliseconds.
const EXCHANGE: Duration = Duration::from_secs(20);
const LARGEST_LOG: u64 = 1 << 20;

/// A connection whose hello has been read.
#[derive(Debug)]
pub(super) struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    hello: Hello,
    next_id: u64,
    /// netd's number of changes after the last exchange.
    pub(super) revision: u64,
}

impl Connection {
    async fn open(socket: &Path) -> io::Result<Self> {
        let (reader, writer) = UnixStream::connect(socket).await?.into_split();
        let mut reader = BufReader::new(reader);
        let hello = timeout(EXCHANGE, read_line(&mut reader)).await??;
        let hello = serde_json::from_str(&hello)?;
        Ok(Self {
            reader,
            writer,
            hello,
            next_id: 1,
            revision: 0,
        })
    }

    /// Connects to the netd of a run directory. Starts one if none answers, and replaces one that speaks another
    /// version of the protocol.
    pub(super) async fn open_or_start(run_dir: &Path, options: &NetdOptions) -> Result<Self, Error> {
        let socket = protocol::socket_path(run_dir);
        let deadline = Instant::now() + START;
        let mut child: Option<Child> = None;
        let mut pause = Duration::from_millis(2);
        loop {
            let failure = match Self::open(&socket).await {
                Ok(connection) if connection.hello.protocol == PROTOCOL => {
                    let Hello { version, pid, .. } = &connection.hello;
                    tracing::debug!(version, pid, "connected to netd");
                    reap(child);
                    return Ok(connection);
                }
                Ok(other) => {
                    tracing::info!(
                        protocol = other.hello.protocol,
                        "replacing a netd of another version"
                    );
                    let _ = other.exchange_once(&Operation::Shutdown).await;
                    io::Error::other("it speaks another version of the protocol and did not end")
                }
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                reap(child);
                return Err(Error::Unreachable {
                    socket,
                    source: failure,
                });
            }
            // A child that ended found another netd holding the lock: one that starts or ends at this moment.
            if child
                .as_mut()
                .is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
            {
                child = Some(spawn(run_dir, options)?);
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    async fn exchange_once(mut self, operation: &Operation) -> io::Result<Outcome> {
        let outcome = self.exchange(operation).await?;
        // Until it has closed the connection it still holds the lock.
        timeout(EXCHANGE, self.closed()).await?;
        Ok(outcome)
    }

    /// Sends a request and waits for its response.
    pub(super) async fn exchange(&mut self, operation: &Operation) -> io::Result<Outcome> {
        #[derive(serde::Serialize)]
        struct Borrowed<'a> {
            id: u64,
            op: &'a Operation,
        }
        let id = self.next_id;
        self.next_id += 1;
        let mut line = serde_json::to_vec(&Borrowed { id, op: operation })?;
        line.push(b'\n');
        let response = timeout(EXCHANGE, async {
            self.writer.write_all(&line).await?;
            read_line(&mut self.reader).await
        });
        let response: Response = serde_json::from_str(&response.await??)?;
        if response.id != id {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the response belongs to another request",
            ));
        }
        self.revision = response.revision;
        Ok(response.outcome)
    }

    /// Resolves when netd closed the connection, or spoke when it should not have. Can be dropped at any time.
    pub(super) async fn closed(&mut self) {
        let _ = self.reader.fill_buf().await;
    }
}

async fn read_line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line)
}

fn spawn(run_dir: &Path, options: &NetdOptions) -> Result<Child, Error> {
    let path = protocol::log_path(run_dir);
    let log = open_log(&path).map_err(|source| Error::Log { path, source })?;
    let spawned = Command::new(&options.exe)
        .arg0("pontoon")
        .arg("netd")
        .arg(absolute(run_dir))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(false)
        .spawn();
    spawned.map_err(|source| Error::Spawn {
        exe: options.exe.clone(),
        source,
    })
}

fn absolute(run_dir: &Path) -> PathBuf {
    std::path::absolute(run_dir).unwrap_or_else(|_| run_dir.to_owned())
}

/// The log goes on over restarts, and begins anew when it has become long.
fn open_log(path: &Path) -> io::Result<File> {
    let log = File::options().create(true).append(true).open(path)?;
    if log.metadata()?.len() > LARGEST_LOG {
        log.set_len(0)?;
    }
    Ok(log)
}

/// Waits for a netd of ours in the background, so that it leaves no zombie when it ends before we do.
fn reap(child: Option<Child>) {
    if let Some(mut child) = child {
        tokio::spawn(async move { child.wait().await });
    }
}
