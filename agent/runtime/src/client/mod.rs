//! The async side: what the engine holds of a container. Every call is one short connection to the shim's
//! socket, so a client survives anything but the shim's own end, and clones freely.

mod attachment;
mod connection;
mod destroy;
mod spawn;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::{LinuxResources, Process, Spec};

use crate::config::SOCKET_FILE;
use crate::protocol::{ContainerState, Reply, Request};
use crate::{Error, ExitRecord, ShimConfig, read_exit_record};
use connection::Connection;

pub use attachment::{Attachment, OutputReader, StdStream, StdinWriter};
pub use destroy::{destroy, destroy_cgroup};
pub use spawn::{own_command, set_shim_executable};

/// How long a shim that has nothing to wait for may take to answer. One that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which streams a client attaches to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachOptions {
    /// Send input.
    pub stdin: bool,
    /// Receive standard output (with a tty: everything).
    pub stdout: bool,
    /// Receive standard error.
    pub stderr: bool,
}

/// A process to start inside a running container.
#[derive(Debug, Clone)]
pub struct ExecSpec {
    /// Chosen by the caller, unique within the container.
    pub id: String,
    /// What to run. `terminal` is taken from `tty` below.
    pub process: Process,
    /// Give it a pseudo terminal.
    pub tty: bool,
    /// Keep its stdin open; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Throw its output away.
    pub detach: bool,
}

/// A process that was started inside a running container.
#[derive(Debug)]
pub struct ExecProcess {
    /// Pid in the daemon's pid namespace.
    pub pid: u32,
    /// Its streams; `None` when detached.
    pub attachment: Option<Attachment>,
    client: ShimClient,
    id: String,
}

impl ExecProcess {
    /// Waits for its end; 128 + signal when killed by one.
    pub async fn wait(&self) -> Result<i32, Error> {
        self.client.wait_exec(&self.id).await
    }
}

/// A handle on one container's shim.
#[derive(Debug, Clone)]
pub struct ShimClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    state: ContainerState,
}

impl ShimClient {
    /// Starts a shim and has it create the container. Returns when the container's init is made and waits for
    /// [`ShimClient::start`]. On failure nothing is left but files in the run directory.
    pub async fn spawn(cfg: &ShimConfig, spec: &Spec) -> Result<Self, Error> {
        let state = spawn::spawn(cfg, spec).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                dir: cfg.dir.clone(),
                state,
            }),
        })
    }

    /// Finds the shim of a container again, after a restart of the daemon.
    ///
    /// [`Error::NotRunning`] if none answers: look for the exit record, then [`destroy`].
    pub async fn connect(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(SOCKET_FILE);
        let call = async { Connection::open(&path).await?.call(Request::State).await };
        match in_time(call).await? {
            Reply::State(state) => Ok(Self {
                inner: Arc::new(Inner {
                    dir: dir.to_owned(),
                    state,
                }),
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// Pid of the container's init in the daemon's pid namespace.
    pub fn pid(&self) -> u32 {
        self.inner.state.pid
    }

    /// Limits that could not be applied on this host, in words for the user.
    pub fn warnings(&self) -> &[String] {
        &self.inner.state.warnings
    }

    /// The container's state now.
    pub async fn state(&self) -> Result<ContainerState, Error> {
        match in_time(self.call(Request::State)).await? {
            Reply::State(state) => Ok(state),
            other => Err(unexpected(&other)),
        }
    }

    /// Lets the container's program run. Returns when execve has succeeded; [`Error::Exec`] if it has not.
    pub async fn start(&self) -> Result<(), Error> {
        self.call_ok(Request::Start).await
    }

    /// Joins the container's streams. Called before `start`, no byte is lost; called later, output begins now.
    pub async fn attach(&self, options: AttachOptions) -> Result<Attachment, Error> {
        let AttachOptions {
            stdin,
            stdout,
            stderr,
        } = options;
        let mut connection = self.connection().await?;
        connection
            .call(Request::Attach {
                exec: None,
                stdin,
                stdout,
                stderr,
            })
            .await?;
        Ok(Attachment::new(connection.into_stream()))
    }

    /// Starts a further process inside the running container. Returns when its execve has succeeded.
    pub async fn exec(&self, spec: ExecSpec) -> Result<ExecProcess, Error> {
        let ExecSpec {
            id,
            process,
            tty,
            stdin,
            detach,
        } = spec;
        let mut connection = self.connection().await?;
        let request = Request::Exec {
            id: id.clone(),
            process: Box::new(process),
            tty,
            stdin,
            detach,
        };
        match connection.call(request).await? {
            Reply::Pid(pid) => {
                let attachment = (!detach).then(|| Attachment::new(connection.into_stream()));
                Ok(ExecProcess {
                    pid,
                    attachment,
                    client: self.clone(),
                    id,
                })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Sets the size of the terminal of the container (`None`) or of an exec.
    pub async fn resize(&self, exec_id: Option<&str>, rows: u16, cols: u16) -> Result<(), Error> {
        self.call_ok(Request::Resize {
            exec: exec_id.map(str::to_owned),
            rows,
            cols,
        })
        .await
    }

    /// Closes stdin of the container (`None`) or of an exec.
    pub async fn close_stdin(&self, exec_id: Option<&str>) -> Result<(), Error> {
        self.call_ok(Request::CloseStdin {
            exec: exec_id.map(str::to_owned),
        })
        .await
    }

    /// Sends a signal to the container's init, or to every process in its cgroup.
    pub async fn kill(&self, signal: i32, all: bool) -> Result<(), Error> {
        self.call_ok(Request::Kill {
            exec: None,
            signal,
            all,
        })
        .await
    }

    /// Sends a signal to an exec'd process.
    pub async fn kill_exec(&self, exec_id: &str, signal: i32) -> Result<(), Error> {
        self.call_ok(Request::Kill {
            exec: Some(exec_id.to_owned()),
            signal,
            all: false,
        })
        .await
    }

    /// Freezes every process of the container.
    pub async fn pause(&self) -> Result<(), Error> {
        self.call_ok(Request::Pause).await
    }

    /// Thaws the container.
    pub async fn resume(&self) -> Result<(), Error> {
        self.call_ok(Request::Resume).await
    }

    /// Changes limits of the running container. Fields that are absent stay as they are.
    pub async fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        self.call_ok(Request::Update {
            resources: Box::new(resources.clone()),
        })
        .await
    }

    /// Waits for the container's end. Also answers when the shim is gone: from the exit record, or
    /// [`Error::ShimDied`] if there is none.
    pub async fn wait(&self) -> Result<ExitRecord, Error> {
        let outcome = match self.connection().await {
            Ok(mut connection) => {
                let mut answer = connection.call(Request::Wait { exec: None }).await;
                while let Ok(Reply::Notice(notice)) = answer {
                    let id = self.inner.dir.file_name().unwrap_or_default().to_string_lossy();
                    tracing::warn!(container = %id, "{notice}");
                    answer = connection.reply().await;
                }
                answer
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(Reply::Exit(record)) => Ok(record),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => match read_exit_record(&self.inner.dir)? {
                Some(record) => Ok(record),
                None if matches!(
                    error,
                    Error::NotRunning { .. } | Error::Io { .. } | Error::ShimDied
                ) =>
                {
                    Err(Error::ShimDied)
                }
                None => Err(error),
            },
        }
    }

    /// Waits for the end of an exec'd process, by its id; works after [`ShimClient::connect`] too.
    pub async fn wait_exec(&self, exec_id: &str) -> Result<i32, Error> {
        match self
            .call(Request::Wait {
                exec: Some(exec_id.to_owned()),
            })
            .await?
        {
            Reply::ExecExit(code) => Ok(code),
            other => Err(unexpected(&other)),
        }
    }

    async fn connection(&self) -> Result<Connection, Error> {
        Connection::open(&self.inner.dir.join(SOCKET_FILE)).await
    }

    async fn call(&self, request: Request) -> Result<Reply, Error> {
        self.connection().await?.call(request).await
    }

    async fn call_ok(&self, request: Request) -> Result<(), Error> {
        let answer = match request {
            // execve may wait for a slow file system.
            Request::Start => self.call(request).await?,
            _ => in_time(self.call(request)).await?,
        };
        match answer {
            Reply::Ok => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

/// An answer that can't take long, or [`Error::Hangs`].
async fn in_time(answer: impl Future<Output = Result<Reply, Error>>) -> Result<Reply, Error> {
    tokio::time::timeout(PATIENCE, answer)
        .await
        .unwrap_or(Err(Error::Hangs(PATIENCE)))
}

fn unexpected(reply: &Reply) -> Error {
    Error::Protocol(format!("unexpected answer {reply:?}"))
}
