//! The daemon's side of netd.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use tokio::sync::watch;

use crate::{DnsPorts, Error, SandboxDns, State, Zone};

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
#[derive(Clone, Debug)]
pub struct NetdClient {
    ports: watch::Receiver<BTreeMap<String, DnsPorts>>,
}

impl NetdClient {
    /// Connects to the netd of `run_dir`, or starts one.
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
    pub async fn start_or_connect_with(_run_dir: &Path, _options: NetdOptions) -> Result<Self, Error> {
        Err(Error::Closed)
    }

    /// Serves a sandbox, or changes how it is served; its sockets stay if its namespace is the same.
    ///
    /// # Errors
    /// [`Error::Refused`] if the sockets cannot be opened there; connection errors.
    pub async fn put_sandbox(&self, _sandbox: SandboxDns) -> Result<DnsPorts, Error> {
        Err(Error::Closed)
    }

    /// Stops serving a sandbox and closes its sockets, which would keep its namespace alive. Unknown ids are fine.
    ///
    /// # Errors
    /// Connection errors.
    pub async fn remove_sandbox(&self, _id: &str) -> Result<(), Error> {
        Err(Error::Closed)
    }

    /// Replaces the names of a network. They are answered when this returns.
    ///
    /// # Errors
    /// Connection errors.
    pub async fn put_zone(&self, _network_id: &str, _zone: Zone) -> Result<(), Error> {
        Err(Error::Closed)
    }

    /// Forgets the names of a network. Unknown ids are fine.
    ///
    /// # Errors
    /// Connection errors.
    pub async fn remove_zone(&self, _network_id: &str) -> Result<(), Error> {
        Err(Error::Closed)
    }

    /// Replaces everything; sockets of sandboxes whose namespace is unchanged stay open. Returns where each
    /// sandbox listens; one that could not be served (it is logged) is missing there.
    ///
    /// # Errors
    /// Connection errors.
    pub async fn sync(&self, _state: State) -> Result<BTreeMap<String, DnsPorts>, Error> {
        Err(Error::Closed)
    }

    /// What netd serves now.
    ///
    /// # Errors
    /// Connection errors.
    pub async fn state(&self) -> Result<State, Error> {
        Err(Error::Closed)
    }

    /// Where each sandbox listens, as of the last exchange. Changes on its own only if netd was killed and a port
    /// was taken by another socket in the meantime: then the redirects of that sandbox have to be renewed.
    #[must_use]
    pub fn watch_ports(&self) -> watch::Receiver<BTreeMap<String, DnsPorts>> {
        self.ports.clone()
    }

    /// Ends netd. It is not started again through this client.
    ///
    /// # Errors
    /// Connection errors.
    pub async fn shutdown(&self) -> Result<(), Error> {
        Err(Error::Closed)
    }
}
