//! The protocol between `ShimClient` and the shim, version 1.
//!
//! Every connection carries frames: one kind byte, a big-endian u32 length, the payload. The client opens with
//! one `Control` frame (a [`Call`]), the shim answers with one (a [`Reply`]). After `attach` and `exec` the
//! connection becomes a stream: output frames towards the client, stdin frames towards the shim.

use serde::{Deserialize, Serialize};

use oci_spec::runtime::{LinuxResources, Process};

use crate::{Error, ExitRecord};

/// Version spoken by this build. A shim may be older than the daemon: answer it in its own version or refuse.
pub(crate) const VERSION: u32 = 1;
/// Longest payload accepted: an OCI process with its environment stays far below.
pub(crate) const MAX_PAYLOAD: usize = 4 << 20;
/// Bytes before the payload.
pub(crate) const HEADER: usize = 5;

/// Frame kinds.
pub(crate) mod kind {
    pub const CONTROL: u8 = 0;
    pub const STDOUT: u8 = 1;
    pub const STDERR: u8 = 2;
    pub const STDIN: u8 = 3;
    pub const STDIN_CLOSE: u8 = 4;
    /// No more output will follow on this connection.
    pub const OUTPUT_END: u8 = 5;
}

/// One request with the version it is written in.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub version: u32,
    pub request: Request,
}

/// What a client may ask.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    State,
    Start,
    Attach {
        exec: Option<String>,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    Exec {
        id: String,
        process: Box<Process>,
        tty: bool,
        stdin: bool,
        detach: bool,
    },
    Resize {
        exec: Option<String>,
        rows: u16,
        cols: u16,
    },
    CloseStdin {
        exec: Option<String>,
    },
    Kill {
        exec: Option<String>,
        signal: i32,
        all: bool,
    },
    Pause,
    Resume,
    Update {
        resources: Box<LinuxResources>,
    },
    Wait {
        exec: Option<String>,
    },
}

/// What the shim answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Ok,
    State(ContainerState),
    Pid(u32),
    Exit(ExitRecord),
    ExecExit(i32),
    /// Something that the daemon is to log. Only before the answer to `wait` for the container.
    Notice(String),
    Error(WireError),
}

/// First and only line that the shim writes to its standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Hello {
    Created(ContainerState),
    Failed(WireError),
}

/// A container as its shim sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Pid of the container's init in the daemon's pid namespace.
    pub pid: u32,
    /// `created`, `running`, `paused` or `stopped`.
    pub status: String,
    /// Limits that could not be applied on this host, in words for the user.
    pub warnings: Vec<String>,
    /// Ids of the exec'd processes that are running.
    pub execs: Vec<String>,
    /// Pid of the shim itself.
    pub shim_pid: u32,
}

/// An error as it crosses the socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WireError {
    InvalidSpec(String),
    Unsupported(String),
    Exec { code: i32, message: String },
    Create(String),
    State { state: String, operation: String },
    NoSuchExec(String),
    Other { operation: String, message: String },
}

impl WireError {
    /// Packs an error; `operation` names what was asked where the error itself does not.
    pub(crate) fn from_error(operation: &str, error: &Error) -> Self {
        match error {
            Error::InvalidSpec(text) => Self::InvalidSpec(text.clone()),
            Error::Unsupported(text) => Self::Unsupported(text.clone()),
            Error::Exec { code, message } => Self::Exec {
                code: *code,
                message: message.clone(),
            },
            Error::Create(text) => Self::Create(text.clone()),
            Error::State { state, operation } => Self::State {
                state: state.clone(),
                operation: operation.clone(),
            },
            Error::NoSuchExec(id) => Self::NoSuchExec(id.clone()),
            other => Self::Other {
                operation: operation.to_owned(),
                message: other.chain(),
            },
        }
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        match error {
            WireError::InvalidSpec(text) => Self::InvalidSpec(text),
            WireError::Unsupported(text) => Self::Unsupported(text),
            WireError::Exec { code, message } => Self::Exec { code, message },
            WireError::Create(text) => Self::Create(text),
            WireError::State { state, operation } => Self::State { state, operation },
            WireError::NoSuchExec(id) => Self::NoSuchExec(id),
            WireError::Other { operation, message } => Self::Shim { operation, message },
        }
    }
}

/// One frame, encoded.
pub(crate) fn encode(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    push(&mut frame, kind, payload);
    frame
}

/// Appends one frame to a buffer.
pub(crate) fn push(buffer: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    buffer.push(kind);
    buffer.extend_from_slice(&length.to_be_bytes());
    buffer.extend_from_slice(payload);
}

/// Kind and payload length of a frame header; refuses unknown kinds and absurd lengths.
pub(crate) fn decode_header(header: [u8; HEADER]) -> Result<(u8, usize), Error> {
    let [kind, rest @ ..] = header;
    let length = u32::from_be_bytes(rest) as usize;
    if kind > kind::OUTPUT_END || length > MAX_PAYLOAD {
        return Err(Error::Protocol(format!("bad frame: kind {kind}, {length} bytes")));
    }
    Ok((kind, length))
}
