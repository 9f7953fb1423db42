//! The control protocol: JSON lines over `<run dir>/netd.sock`.
//!
//! netd speaks first, with a [`Hello`]; then each [`Request`] gets one [`Response`] in order. `shutdown` and the hello
//! keep their form in all versions, so that a newer daemon can replace an older netd.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{DnsPorts, EncryptedNetwork, SandboxDns, State, Tunnel, Zone};

/// Version of the protocol; a netd of another version is replaced.
pub(crate) const PROTOCOL: u32 = 2;

/// The control socket.
pub(crate) fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("netd.sock")
}

/// The file whose lock says that a netd runs.
pub(crate) fn lock_path(run_dir: &Path) -> PathBuf {
    run_dir.join("netd.lock")
}

/// netd's log.
pub(crate) fn log_path(run_dir: &Path) -> PathBuf {
    run_dir.join("netd.log")
}

/// The first line on a connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// [`PROTOCOL`] of the speaker.
    pub(crate) protocol: u32,
    /// Release of the binary, for the log.
    pub(crate) version: String,
    /// Process id, for the log.
    pub(crate) pid: u32,
}

/// One request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Comes back in the response.
    pub(crate) id: u64,
    /// What to do.
    pub(crate) op: Operation,
}

/// What can be asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    /// Serve or change a sandbox, on these ports if they are free.
    PutSandbox {
        sandbox: SandboxDns,
        ports: Option<DnsPorts>,
    },
    /// Stop serving a sandbox.
    RemoveSandbox { id: String },
    /// Replace a network's names.
    PutZone { network: String, zone: Zone },
    /// Change some names, if nothing else was changed since `revision`.
    PatchZone {
        network: String,
        revision: u64,
        set: BTreeMap<String, Vec<IpAddr>>,
        unset: Vec<String>,
    },
    /// Forget a network's names.
    RemoveZone { network: String },
    /// Start the tunnel of encrypted networks, or change it.
    PutTunnel { tunnel: Box<Tunnel> },
    /// End the tunnel and let its networks go.
    RemoveTunnel,
    /// Carry a network's frames through the tunnel, or change how.
    PutEncrypted { network: String, spec: EncryptedNetwork },
    /// Carry them no more.
    RemoveEncrypted { network: String },
    /// Replace everything.
    Sync { state: State },
    /// Tell everything.
    State,
    /// End.
    Shutdown,
}

/// The answer to one request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Response {
    /// The request's id.
    pub(crate) id: u64,
    /// Number of changes so far.
    pub(crate) revision: u64,
    /// What came of it.
    pub(crate) outcome: Outcome,
}

/// What came of a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// It is done.
    Done,
    /// The sandbox is served there.
    Ports(DnsPorts),
    /// All sandboxes are served there.
    AllPorts(BTreeMap<String, DnsPorts>),
    /// The tunnel has this UDP port.
    Listens(u16),
    /// What is served.
    State(State),
    /// The base of a patch is not what it names.
    Stale,
    /// It could not be done, and why.
    Refused(String),
}
