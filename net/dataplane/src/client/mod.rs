//! The daemon's side of netd.
//!
//! - here: the handle, whose clones send requests to one keeper task;
//! - `keeper`: owns the connection and the state, and heals netd;
//! - `connection`: one connection, and how a netd is started.

mod connection;
mod keeper;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    DnsPorts, EncryptedNetwork, Error, SandboxDns, State, Tunnel, Zone,
    protocol::{Operation, Outcome},
};
use keeper::{Call, Keeper};

/// How netd is started.
#[derive(Clone, Debug)]
pub struct NetdOptions {
    /// The program; it is run as `<exe> netd <run dir>`.
    pub exe: PathBuf,
}

impl Default for NetdOptions {
    fn default() -> Self {
        Self {
            exe: PathBuf::from("/proc/self/exe"),
        }
    }
}

/// A handle on the node's netd. Clones share one connection and one state.
///
/// If netd is killed, it is started again at once and given the whole state. When the last clone is dropped, the
/// connection closes and netd goes on.
#[derive(Clone, Debug)]
pub struct NetdClient {
    calls: mpsc::Sender<Call>,
    ports: watch::Receiver<BTreeMap<String, DnsPorts>>,
}

impl NetdClient {
    /// Connects to the netd of `run_dir`, or starts one. What a running netd serves is the state to begin with.
    ///
    /// # Errors
    /// [`Error::Spawn`], [`Error::Log`] or [`Error::Unreachable`].
    pub async fn start_or_connect(run_dir: &Path) -> Result<Self, Error> {
        Self::start_or_connect_with(run_dir, NetdOptions::default()).await
    }

    /// As [`start_or_connect`](Self::start_or_connect), with another program.
    ///
    /// # Errors
    /// As there.
    pub async fn start_or_connect_with(run_dir: &Path, options: NetdOptions) -> Result<Self, Error> {
        let (ports_out, ports) = watch::channel(BTreeMap::new());
        let (calls, calls_in) = mpsc::channel(64);
        let keeper = Keeper::connect(run_dir.to_owned(), options, ports_out).await?;
        tokio::spawn(keeper.run(calls_in));
        Ok(Self { calls, ports })
    }

    /// Serves a sandbox, or changes how it is served; its sockets stay if its namespace is the same. The loopback
    /// interface must be up there.
    ///
    /// # Errors
    /// [`Error::Refused`] if the sockets cannot be opened there; connection errors.
    pub async fn put_sandbox(&self, sandbox: SandboxDns) -> Result<DnsPorts, Error> {
        let what = || format!("serve sandbox {}", sandbox.id);
        match self
            .call(Operation::PutSandbox {
                sandbox: sandbox.clone(),
                ports: None,
            })
            .await?
        {
            Outcome::Ports(ports) => Ok(ports),
            outcome => Err(unexpected(what(), outcome)),
        }
    }

    /// Stops serving a sandbox and closes its sockets, which would keep its namespace alive. Unknown ids are fine.
    ///
    /// # Errors
    /// Connection errors.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        self.done("remove a sandbox", Operation::RemoveSandbox { id: id.to_owned() })
            .await
    }

    /// Replaces the names of a network. They are answered when this returns. Only what differs from the last
    /// call crosses the socket.
    ///
    /// # Errors
    /// Connection errors.
    pub async fn put_zone(&self, network_id: &str, zone: Zone) -> Result<(), Error> {
        self.done(
            "serve a zone",
            Operation::PutZone {
                network: network_id.to_owned(),
                zone,
            },
        )
        .await
    }

    /// Forgets the names of a network. Unknown ids are fine.
    ///
    /// # Errors
    /// Connection errors.
    pub async fn remove_zone(&self, network_id: &str) -> Result<(), Error> {
        self.done(
            "remove a zone",
            Operation::RemoveZone {
                network: network_id.to_owned(),
            },
        )
        .await
    }

    /// Starts the tunnel of encrypted networks, or changes it: sessions stay where their keys do. Returns its UDP port.
    ///
    /// # Errors
    /// [`Error::Refused`] if the port or the control socket is another's, or a network would not fit; connection errors.
    pub async fn put_tunnel(&self, tunnel: Tunnel) -> Result<u16, Error> {
        let tunnel = Box::new(tunnel);
        match self.call(Operation::PutTunnel { tunnel }).await? {
            Outcome::Listens(port) => Ok(port),
            outcome => Err(unexpected("start the tunnel".to_owned(), outcome)),
        }
    }

    /// Ends the tunnel and lets its networks go.
    ///
    /// # Errors
    /// Connection errors.
    pub async fn remove_tunnel(&self) -> Result<(), Error> {
        self.done("end the tunnel", Operation::RemoveTunnel).await
    }

    /// Carries a network's frames through the tunnel, or changes how. Its TAP is made if it is not there; the caller makes it a port of the
    /// network's bridge, and deletes it with the namespace.
    ///
    /// # Errors
    /// [`Error::Refused`] without a tunnel, if the MTU does not fit, or if the TAP can't be had; connection errors.
    pub async fn put_encrypted(&self, network_id: &str, spec: EncryptedNetwork) -> Result<(), Error> {
        let network = network_id.to_owned();
        let operation = format!("encrypt network {network_id}");
        match self.call(Operation::PutEncrypted { network, spec }).await? {
            Outcome::Done => Ok(()),
            outcome => Err(unexpected(operation, outcome)),
        }
    }

    /// Carries a network's frames no more. Unknown ids are fine.
    ///
    /// # Errors
    /// Connection errors.
    pub async fn remove_encrypted(&self, network_id: &str) -> Result<(), Error> {
        let network = network_id.to_owned();
        let operation = Operation::RemoveEncrypted { network };
        self.done("let an encrypted network go", operation).await
    }

    /// Replaces everything; sockets of sandboxes whose namespace is unchanged stay open. Returns where each
    /// sandbox listens; one that could not be served (netd logs why) is missing there.
    ///
    /// # Errors
    /// Connection errors.
    pub async fn sync(&self, state: State) -> Result<BTreeMap<String, DnsPorts>, Error> {
        match self.call(Operation::Sync { state }).await? {
            Outcome::AllPorts(ports) => Ok(ports),
            outcome => Err(unexpected("replace its state".to_owned(), outcome)),
        }
    }

    /// What netd serves now.
    ///
    /// # Errors
    /// Connection errors.
    pub async fn state(&self) -> Result<State, Error> {
        match self.call(Operation::State).await? {
            Outcome::State(state) => Ok(state),
            outcome => Err(unexpected("tell its state".to_owned(), outcome)),
        }
    }

    /// Where each sandbox listens, as of the last exchange. An entry changes on its own only if netd was killed and
    /// a port was taken by another socket in the meantime: then the redirects of that sandbox have to be renewed.
    #[must_use]
    pub fn watch_ports(&self) -> watch::Receiver<BTreeMap<String, DnsPorts>> {
        self.ports.clone()
    }

    /// Ends netd. It is not started again through this client.
    ///
    /// # Errors
    /// Connection errors.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.done("end", Operation::Shutdown).await
    }

    async fn call(&self, operation: Operation) -> Result<Outcome, Error> {
        let (reply, outcome) = oneshot::channel();
        self.calls
            .send(Call { operation, reply })
            .await
            .map_err(|_| Error::Closed)?;
        outcome.await.map_err(|_| Error::Closed)?
    }

    async fn done(&self, what: &str, operation: Operation) -> Result<(), Error> {
        match self.call(operation).await? {
            Outcome::Done => Ok(()),
            outcome => Err(unexpected(what.to_owned(), outcome)),
        }
    }
}

fn unexpected(operation: String, outcome: Outcome) -> Error {
    match outcome {
        Outcome::Refused(reason) => Error::Refused { operation, reason },
        _ => Error::Protocol { operation },
    }
}
