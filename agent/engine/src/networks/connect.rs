//! Containers that join and leave networks, whether they run or not. A wish is written down before the kernel is told, and
//! forgotten before the kernel is: what a killed daemon left between the two is put right when the next one starts.

use std::sync::Arc;

use pontoon_net::{Driver, Network, NetworkSpec};
use pontoon_proto::v1::{ConnectNetworkRequest, ContainerNetwork, DisconnectNetworkRequest};

use crate::container::Container;
use crate::container::network::{NetworkMode, seen};
use crate::container::record::{Record, has_process};
use crate::{Engine, Error, Result};

impl Engine {
    /// Connects a container to a network.
    ///
    /// # Errors
    /// No such network or container, it is connected already, or what the network refuses; then nothing has changed.
    pub async fn connect_network(self: &Arc<Self>, request: ConnectNetworkRequest) -> Result<()> {
        let engine = self.clone();
        self.whole(async move {
            let (network, _) = engine.find_joinable(&request.network).await?;
            let container = engine.containers.find(&request.container)?;
            let _operation = container.operation.lock().await;
            let record = container.record();
            check_join(&record, &network)?;
            let mut wish = request.endpoint.unwrap_or_default();
            wish.network.clone_from(&network.name);
            engine.resolve_network(&mut wish, false).await?;
            engine.resolve_links(&mut wish.links, &network.name)?;
            engine.join(&container, wish).await?;
            engine.emit_network("connect", &network, Some(&container.id));
            Ok(())
        })
        .await
    }

    async fn join(self: &Arc<Self>, container: &Arc<Container>, wish: ContainerNetwork) -> Result<()> {
        let before = container.record();
        let id = wish.network_id.clone();
        container.update(|record| {
            record.wanted_networks.push(wish.clone());
            record.view_mut().networks.push(wish.clone());
        })?;
        if !has_process(before.view().state()) {
            return Ok(());
        }
        let record = container.record();
        let joined = async {
            self.attach_network(&container.id, &record, &wish, true).await?;
            if self.sandbox(&container.id).await?.ports.is_empty() && before.view().ports.is_empty() {
                // A network with a way out may be what published ports waited for; one without changes nothing.
                let published = self.publish_ports(&container.id, &record).await;
                if let Err(error) = published
                    && before.wanted_networks.is_empty()
                {
                    return Err(error);
                }
            }
            self.write_names(container, &record).await?;
            self.refresh_view(container).await
        };
        let Err(error) = joined.await else { return Ok(()) };
        if let Err(errors) = self.network.detach(&container.id, &id).await {
            tracing::warn!(container = container.id, %errors, "could not undo a connection to a network");
        }
        self.detach_cluster(container, Some(&id)).await;
        forget(container, &id)?;
        Err(error)
    }

    /// Disconnects a container from a network; forced, also where only the endpoint is left.
    ///
    /// # Errors
    /// No such network or container, it is not connected, or what could not be removed.
    pub async fn disconnect_network(self: &Arc<Self>, request: DisconnectNetworkRequest) -> Result<()> {
        let engine = self.clone();
        self.whole(async move {
            let network = engine.find_left(&request).await?;
            let container = match engine.containers.find(&request.container) {
                Ok(container) => container,
                Err(_) if request.force => return engine.drop_endpoint(&network, &request.container).await,
                Err(error) => return Err(error),
            };
            let _operation = container.operation.lock().await;
            let record = container.record();
            check_leave(&record, &network)?;
            let id = &network.spec.id;
            let is_wanted = record.wanted_networks.iter().any(|n| n.network_id == *id);
            if !is_wanted && !request.force {
                return Err(Error::Conflict(format!(
                    "container {} is not connected to network {}",
                    container.id, network.spec.name
                )));
            }
            forget(&container, id)?;
            if has_process(record.view().state()) {
                engine.leave(&container, id).await?;
            }
            engine.emit_network("disconnect", &network.spec, Some(&container.id));
            Ok(())
        })
        .await
    }

    /// The network that is to be left. One of the cluster is known here only while a container that runs is in it; what it is called is then
    /// known by the container's wish.
    async fn find_left(&self, request: &DisconnectNetworkRequest) -> Result<Network> {
        let target = &request.network;
        let missing = match self.find_network(target).await {
            Err(error @ Error::NoSuchNetwork(_)) => error,
            found => return found,
        };
        let Ok(container) = self.containers.find(&request.container) else {
            return Err(missing);
        };
        let record = container.record();
        let mut wanted = record.wanted_networks.iter().filter(|n| n.from_cluster);
        let wanted = wanted.find(|n| n.network == *target || n.network_id == *target);
        let wanted = wanted.ok_or(missing)?;
        let driver = Driver::Overlay { vni: 0 };
        Ok(Network {
            spec: NetworkSpec::new(&wanted.network_id, &wanted.network, driver),
            interface: None,
            endpoints: Vec::new(),
            peers: Vec::new(),
        })
    }

    /// Takes all running containers out of the cluster's networks: this host leaves it. Returns what could not be done.
    pub async fn disconnect_from_cluster(self: &Arc<Self>) -> Vec<String> {
        let mut failures = Vec::new();
        for container in self.containers.all() {
            let _operation = container.operation.lock().await;
            let record = container.record();
            if !has_process(record.view().state()) {
                continue;
            }
            for network in record.wanted_networks.iter().filter(|n| n.from_cluster) {
                let left = match forget(&container, &network.network_id) {
                    Ok(()) => self.leave(&container, &network.network_id).await,
                    Err(error) => Err(error),
                };
                let name = &record.view().name;
                failures.extend(left.err().map(|error| {
                    format!(
                        "disconnect container {name} from {}: {}",
                        network.network,
                        error.chain()
                    )
                }));
            }
        }
        failures
    }

    async fn leave(self: &Arc<Self>, container: &Container, network: &str) -> Result<()> {
        match self.network.detach(&container.id, network).await {
            Ok(()) => {}
            Err(errors) if errors.0.iter().all(pontoon_net::Error::is_not_found) => {}
            Err(errors) => {
                return Err(Error::Conflict(format!("disconnect from network: {errors}")));
            }
        }
        self.detach_cluster(container, Some(network)).await;
        self.write_names(container, &container.record()).await?;
        self.refresh_view(container).await
    }

    /// Removes an endpoint whose container the engine does not know.
    async fn drop_endpoint(&self, network: &Network, target: &str) -> Result<()> {
        let none = || Error::NoSuchContainer(target.to_owned());
        let mut endpoints = network.endpoints.iter();
        let left = endpoints.find(|e| !target.is_empty() && e.sandbox_id.starts_with(target));
        let sandbox = &left.ok_or_else(none)?.sandbox_id;
        let removed = self.network.detach(sandbox, &network.spec.id).await;
        removed.map_err(|errors| Error::Conflict(format!("disconnect from network: {errors}")))
    }

    /// Brings what `inspect` shows of a running container's networks up to date.
    async fn refresh_view(&self, container: &Container) -> Result<()> {
        let sandbox = self.sandbox(&container.id).await?;
        container.update(|record| {
            let (networks, ports) = seen(&sandbox, record);
            record.view_mut().networks = networks;
            record.view_mut().ports = ports;
        })
    }

    /// At the daemon's start: a running container is in the networks that it wants, and in no other. A connection that
    /// was cut short is taken back, a disconnection finished.
    pub(crate) async fn reconcile_networks(self: &Arc<Self>, container: &Arc<Container>) {
        let record = container.record();
        if !matches!(NetworkMode::parse(&record.host().network_mode), NetworkMode::Own) {
            return;
        }
        let Ok(sandbox) = self.sandbox(&container.id).await else {
            return;
        };
        let has = |id: &str| sandbox.endpoints.iter().any(|e| e.network_id == id);
        let wants = |id: &str| record.wanted_networks.iter().any(|n| n.network_id == id);
        let mut done = Ok(());
        let cut_short = record.wanted_networks.iter().filter(|n| !has(&n.network_id));
        for network in cut_short {
            done = done.and(forget(container, &network.network_id));
        }
        let unfinished: Vec<_> = sandbox
            .endpoints
            .iter()
            .filter(|e| !wants(&e.network_id))
            .collect();
        for endpoint in unfinished {
            // The way out of overlays is nobody's wish, and no network of the engine's.
            if self
                .find_network(&endpoint.network_id)
                .await
                .is_ok_and(|n| n.spec.name != self.config.gateway_bridge)
            {
                done = done.and(self.leave(container, &endpoint.network_id).await);
            }
        }
        let done = done.and(self.refresh_view(container).await);
        if let Err(error) = done {
            tracing::warn!(
                container = container.id,
                error = error.chain(),
                "could not reconcile a container's networks"
            );
        }
    }
}

/// Forgets a wish.
fn forget(container: &Container, network: &str) -> Result<()> {
    container.update(|record| {
        record.wanted_networks.retain(|n| n.network_id != network);
        record.view_mut().networks.retain(|n| n.network_id != network);
    })
}

fn conflict(text: &str) -> Error {
    Error::Conflict(text.to_owned())
}

const HOST: &str = "container cannot be disconnected from host network or connected to host network";
const SHARED: &str = "container sharing network namespace with another container or host cannot be connected to any other network";
const NONE: &str =
    "container cannot be connected to multiple networks with one of the networks in private (none) mode";

fn check_join(record: &Record, network: &NetworkSpec) -> Result<()> {
    let host = record.host();
    match (&network.driver, NetworkMode::parse(&host.network_mode)) {
        (Driver::Host, _) => return Err(conflict(HOST)),
        (Driver::None, _) | (_, NetworkMode::None) => return Err(conflict(NONE)),
        (_, NetworkMode::Host | NetworkMode::Container(_)) => return Err(conflict(SHARED)),
        (_, NetworkMode::Own) => {}
    }
    if record.wanted_networks.iter().any(|n| n.network_id == network.id) {
        return Err(Error::Conflict(format!(
            "endpoint with name {} already exists in network {}",
            record.view().name,
            network.name
        )));
    }
    Ok(())
}

fn check_leave(record: &Record, network: &Network) -> Result<()> {
    let host = record.host();
    match (&network.spec.driver, NetworkMode::parse(&host.network_mode)) {
        (Driver::Host, _) | (_, NetworkMode::Host) => Err(conflict(HOST)),
        (_, NetworkMode::Container(_)) => Err(conflict(SHARED)),
        _ => Ok(()),
    }
}
