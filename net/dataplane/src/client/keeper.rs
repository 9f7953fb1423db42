//! The task behind all clones of a client: it owns the connection and the state that netd should have.
//!
//! One task, so that a caller who gives up in the middle of a call cannot leave half a line on the socket, and
//! so that a killed netd is noticed and replaced although nobody calls.

use std::{collections::BTreeMap, io, net::IpAddr, path::PathBuf, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};

use super::{NetdOptions, connection::Connection};
use crate::{
    DnsPorts, Error, State, Tunnel, Zone,
    protocol::{Operation, Outcome},
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A request of a client, and where its outcome goes.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) reply: oneshot::Sender<Result<Outcome, Error>>,
}

/// Owner of the connection.
#[derive(Debug)]
pub(super) struct Keeper {
    run_dir: PathBuf,
    options: NetdOptions,
    state: State,
    ports: watch::Sender<BTreeMap<String, DnsPorts>>,
    connection: Option<Connection>,
    /// Pause before the next attempt to replace a netd that could not be started.
    pause: Duration,
}

impl Keeper {
    /// Connects for the first time; the state to begin with is what netd serves.
    pub(super) async fn connect(
        run_dir: PathBuf,
        options: NetdOptions,
        ports: watch::Sender<BTreeMap<String, DnsPorts>>,
    ) -> Result<Self, Error> {
        let mut connection = Connection::open_or_start(&run_dir, &options).await?;
        let operation = Operation::State;
        let Outcome::State(state) = connection.exchange(&operation).await.map_err(Error::Connection)? else {
            return Err(Error::Protocol {
                operation: "tell its state".to_owned(),
            });
        };
        ports.send_replace(state.ports.clone());
        Ok(Self {
            run_dir,
            options,
            state,
            ports,
            connection: Some(connection),
            pause: FIRST_PAUSE,
        })
    }

    /// Serves calls until the last client is gone or netd was told to end.
    pub(super) async fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        loop {
            let (connection, pause) = (&mut self.connection, self.pause);
            let lost = async {
                match connection {
                    Some(connection) => connection.closed().await,
                    None => sleep(pause).await,
                }
            };
            tokio::select! {
                call = calls.recv() => {
                    let Some(Call { operation, reply }) = call else { return };
                    let last = matches!(operation, Operation::Shutdown);
                    // A caller who no longer waits does not care.
                    let _ = reply.send(self.call(operation).await);
                    if last {
                        return;
                    }
                }
                () = lost => self.heal().await,
            }
        }
    }

    async fn heal(&mut self) {
        if self.connection.take().is_some() {
            tracing::warn!("netd is gone, it is started again");
        }
        if let Err(error) = self.reconnect().await {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, source, "netd cannot be replaced yet");
        }
    }

    /// Connects again and gives netd the whole state, with the ports that redirects in the sandboxes point to.
    async fn reconnect(&mut self) -> Result<(), Error> {
        let mut connection = Connection::open_or_start(&self.run_dir, &self.options).await?;
        let operation = Operation::Sync {
            state: self.state.clone(),
        };
        let Outcome::AllPorts(ports) = connection.exchange(&operation).await.map_err(Error::Connection)?
        else {
            return Err(Error::Protocol {
                operation: "replace its state".to_owned(),
            });
        };
        self.set_ports(ports);
        self.connection = Some(connection);
        self.pause = FIRST_PAUSE;
        Ok(())
    }

    async fn call(&mut self, operation: Operation) -> Result<Outcome, Error> {
        if matches!(operation, Operation::Shutdown) {
            return self.shutdown().await;
        }
        let patch = self.patch(&operation);
        let operation = self.note(operation);
        if let Some(patch) = patch
            && let Ok(Outcome::Done) = self.exchange(&patch).await
        {
            return Ok(Outcome::Done);
        }
        let outcome = match self.exchange(&operation).await {
            Ok(outcome) => outcome,
            // netd was killed, perhaps by this very moment's work. The request may be repeated: all set a state.
            Err(_) => {
                self.connection = None;
                self.reconnect().await?;
                self.exchange(&operation).await.map_err(Error::Connection)?
            }
        };
        self.learn(operation, &outcome);
        Ok(outcome)
    }

    async fn exchange(&mut self, operation: &Operation) -> io::Result<Outcome> {
        let Some(connection) = &mut self.connection else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let outcome = connection.exchange(operation).await;
        if outcome.is_err() {
            // What is read next might be the rest of this exchange.
            self.connection = None;
        }
        outcome
    }

    /// A netd that is gone already has ended as well.
    async fn shutdown(&mut self) -> Result<Outcome, Error> {
        if let Some(mut connection) = self.connection.take() {
            let outcome = connection
                .exchange(&Operation::Shutdown)
                .await
                .map_err(Error::Connection)?;
            connection.closed().await;
            return Ok(outcome);
        }
        Ok(Outcome::Done)
    }

    /// What differs between the zone that netd has and the one that it should have, if that is the smaller part.
    fn patch(&self, operation: &Operation) -> Option<Operation> {
        let Operation::PutZone {
            network,
            zone: Zone { records },
        } = operation
        else {
            return None;
        };
        let known = &self.state.zones.get(network)?.records;
        let revision = self.connection.as_ref()?.revision;
        let changed = |(name, addresses): &(&String, &Vec<IpAddr>)| known.get(*name) != Some(*addresses);
        let set: BTreeMap<_, _> = records
            .iter()
            .filter(changed)
            .map(|(name, addresses)| (name.clone(), addresses.clone()))
            .collect();
        let unset: Vec<_> = known
            .keys()
            .filter(|name| !records.contains_key(*name))
            .cloned()
            .collect();
        let small = (set.len() + unset.len()) * 2 < records.len();
        small.then(|| Operation::PatchZone {
            network: network.clone(),
            revision,
            set,
            unset,
        })
    }

    /// Writes into the state what netd cannot refuse, before it is sent: a netd that dies now gets it with the rest.
    fn note(&mut self, operation: Operation) -> Operation {
        match &operation {
            Operation::RemoveSandbox { id } => {
                self.state.sandboxes.remove(id);
                self.state.ports.remove(id);
                self.publish();
            }
            Operation::PutZone { network, zone } => {
                self.state.zones.insert(network.clone(), zone.clone());
            }
            Operation::RemoveZone { network } => {
                self.state.zones.remove(network);
            }
            Operation::RemoveTunnel => {
                self.state.tunnel = None;
                self.state.encrypted.clear();
            }
            Operation::RemoveEncrypted { network } => {
                self.state.encrypted.remove(network);
            }
            Operation::Sync { state } => {
                let mut state = state.clone();
                if state.ports.is_empty() {
                    state.ports = std::mem::take(&mut self.state.ports);
                }
                self.state = state.clone();
                return Operation::Sync { state };
            }
            Operation::PutSandbox { sandbox, .. } => {
                let ports = self.state.ports.get(&sandbox.id).copied();
                return Operation::PutSandbox {
                    sandbox: sandbox.clone(),
                    ports,
                };
            }
            _ => {}
        }
        operation
    }

    /// Writes into the state what only netd knows.
    fn learn(&mut self, operation: Operation, outcome: &Outcome) {
        match (operation, outcome) {
            (Operation::PutSandbox { sandbox, .. }, Outcome::Ports(ports)) => {
                self.state.ports.insert(sandbox.id.clone(), *ports);
                self.state.sandboxes.insert(sandbox.id.clone(), sandbox);
                self.publish();
            }
            (Operation::PutSandbox { sandbox, .. }, Outcome::Refused(_)) => {
                // netd dropped what it served under this id.
                self.state.sandboxes.remove(&sandbox.id);
                self.state.ports.remove(&sandbox.id);
                self.publish();
            }
            // The port that it got once stays its own, also for a netd that replaces this one.
            (Operation::PutTunnel { tunnel }, Outcome::Listens(listen_port)) => {
                let listen_port = *listen_port;
                self.state.tunnel = Some(Tunnel {
                    listen_port,
                    ..*tunnel
                });
            }
            (Operation::PutEncrypted { network, spec }, Outcome::Done) => {
                self.state.encrypted.insert(network, spec);
            }
            (Operation::PutEncrypted { network, .. }, Outcome::Refused(_)) => {
                self.state.encrypted.remove(&network);
            }
            (Operation::Sync { .. }, Outcome::AllPorts(ports)) => self.set_ports(ports.clone()),
            _ => {}
        }
    }

    fn set_ports(&mut self, ports: BTreeMap<String, DnsPorts>) {
        self.state.ports = ports;
        self.publish();
    }

    fn publish(&self) {
        let ports = &self.state.ports;
        self.ports.send_if_modified(|known| {
            let differs = known != ports;
            if differs {
                known.clone_from(ports);
            }
            differs
        });
    }
}
