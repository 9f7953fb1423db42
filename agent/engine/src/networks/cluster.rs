//! Containers that are no tasks in networks of the cluster (attachable overlays). The managers give the addresses: asked for at each start,
//! given back at each end. The agent carries the questions to them ([`ClusterNetworks`]); it is told of running containers when it
//! begins, so that a restarted daemon's attachments are those of the containers that it found.
//!
//! Called by the container's start, end and rename, by `network connect` and `disconnect`; the slot is filled by the daemon.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use pontoon_net::{Driver, NetworkSpec};
use pontoon_proto::v1::{ContainerAttachment, ContainerNetwork};
use tokio::sync::watch;

use crate::container::Container;
use crate::container::network::{dns_names, mac};
use crate::container::record::{Record, has_process};
use crate::{Engine, Error, Result};

/// So long the daemon's part in its cluster may take to start before a container that needs it fails to.
const STARTING: Duration = Duration::from_secs(30);
/// Option of an endpoint that overlays do not know.
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

/// Why the cluster gives no network or address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// It has no network of this name.
    #[error("network not found")]
    NotFound,
    /// The network is for services only; the text is the manager's.
    #[error("{0}")]
    NotAttachable(String),
    /// There is no address, or the wish can't be met; the text says why.
    #[error("{0}")]
    Refused(String),
    /// Nobody answers, or the network does not reach this host; the text says what is missing.
    #[error("{0}")]
    Unreachable(String),
}

/// What the engine asks of the cluster that this host is in.
#[tonic::async_trait]
pub trait ClusterNetworks: Send + Sync + 'static {
    /// A network that containers may join, by id, name or unique beginning of its id.
    async fn find(&self, target: &str) -> Result<NetworkSpec, ClusterError>;
    /// Gives an address, or the one that the container has in the network already.
    async fn attach(&self, wish: ContainerAttachment) -> Result<ContainerAttachment, ClusterError>;
    /// Gives an address back; of no network: all of the container's. Goes on in the background if that takes long.
    async fn detach(&self, container: &str, network: Option<&str>);
    /// Waits until this host has programmed the network with this address in it. Each call takes a newer state than the number that the
    /// one before gave; the first takes any (0).
    async fn programmed(&self, network: &str, addr: IpAddr, newer: u64) -> Result<u64, ClusterError>;
}

/// This host's place in a cluster, as far as containers are concerned.
#[derive(Clone, Default)]
pub(crate) enum Place {
    /// It is in none.
    #[default]
    Outside,
    /// It is in one whose part is still being started.
    Starting,
    /// It is in one.
    Inside(Arc<dyn ClusterNetworks>),
}

/// [`Place`], shared.
pub(crate) struct Cluster(watch::Sender<Place>);

impl Cluster {
    pub(crate) fn new(is_starting: bool) -> Self {
        let place = if is_starting {
            Place::Starting
        } else {
            Place::Outside
        };
        Self(watch::Sender::new(place))
    }

    fn set(&self, place: Place) {
        self.0.send_replace(place);
    }

    /// The cluster, without waiting for it.
    fn now(&self) -> Option<Arc<dyn ClusterNetworks>> {
        match &*self.0.borrow() {
            Place::Inside(cluster) => Some(cluster.clone()),
            _ => None,
        }
    }

    /// The cluster; waits while it is being started.
    async fn get(&self, network: &str) -> Result<Arc<dyn ClusterNetworks>> {
        let mut place = self.0.subscribe();
        let started = place.wait_for(|place| !matches!(place, Place::Starting));
        match tokio::time::timeout(STARTING, started).await {
            Ok(Ok(place)) => match &*place {
                Place::Inside(cluster) => Ok(cluster.clone()),
                _ => Err(Error::NoSuchNetwork(network.to_owned())),
            },
            _ => Err(Error::Unreachable(format!(
                "Could not attach to network {network}: this node's part in its swarm has not started"
            ))),
        }
    }
}

/// Gives the cluster's refusal the engine's words; `network` is its name.
fn refusal(network: &str, error: ClusterError) -> Error {
    match error {
        ClusterError::NotFound => Error::NoSuchNetwork(network.to_owned()),
        ClusterError::NotAttachable(text) => denied(network, &text),
        ClusterError::Refused(text) => {
            Error::Conflict(format!("Could not attach to network {network}: {text}"))
        }
        ClusterError::Unreachable(text) => {
            Error::Unreachable(format!("Could not attach to network {network}: {text}"))
        }
    }
}

/// Docker's words, which are SwarmKit's.
fn denied(network: &str, text: &str) -> Error {
    Error::Conflict(format!(
        "Could not attach to network {network}: rpc error: code = PermissionDenied desc = {text}"
    ))
}

/// What of a wish an overlay can't do.
pub(crate) fn check_overlay(wish: &ContainerNetwork, name: &str) -> Result<()> {
    let refuse = |text: String| Err(Error::Invalid(text));
    if !wish.link_local_ips.is_empty() {
        return refuse(format!(
            "network {name} is an overlay, which has no link-local addresses: leave --link-local-ip out"
        ));
    }
    if wish.driver_opts.contains_key(SYSCTLS) {
        return refuse(format!(
            "network {name} is an overlay, whose endpoints do not take {SYSCTLS}: use --sysctl"
        ));
    }
    let Some(wanted) = mac(&wish.mac_address)? else {
        return Ok(());
    };
    let ip: Option<std::net::Ipv4Addr> = wish.ip_address.parse().ok();
    let own = ip.map(|ip| {
        let [a, b, c, d] = ip.octets();
        [0x02, 0x42, a, b, c, d]
    });
    match own {
        Some(own) if own == wanted => Ok(()),
        _ => refuse(format!(
            "network {name} is an overlay, where the MAC address of an endpoint is 02:42 and its IPv4 address: leave \
             --mac-address out, or choose the address by --ip"
        )),
    }
}

/// The part of an address before its prefix length.
fn bare(addr: &str) -> Option<IpAddr> {
    addr.parse::<IpNet>().ok().map(|net| net.addr())
}

impl Engine {
    /// The host is in a cluster from now on. Who calls takes in [`attachments`](Self::attachments) afterwards, under the lock with which it
    /// lets them go, so that no end is missed.
    pub fn join_cluster(&self, cluster: Arc<dyn ClusterNetworks>) {
        self.cluster.set(Place::Inside(cluster));
    }

    /// The host is in no cluster (any more).
    pub fn leave_cluster(&self) {
        self.cluster.set(Place::Outside);
    }

    /// What running containers that are no tasks have in the cluster's networks.
    pub fn attachments(&self) -> Vec<ContainerAttachment> {
        let mut found = Vec::new();
        for container in self.containers.all() {
            let record = container.record();
            if !has_process(record.view().state()) {
                continue;
            }
            let wanted = record.wanted_networks.iter().filter(|n| n.from_cluster);
            for wanted in wanted {
                let networks = &record.view().networks;
                let has = networks.iter().find(|n| n.network_id == wanted.network_id);
                if let Some(has) = has.filter(|has| !has.ip_address.is_empty()) {
                    found.push(ContainerAttachment {
                        addr: format!("{}/{}", has.ip_address, has.ip_prefix_len),
                        ..wish(&container.id, &record, wanted)
                    });
                }
            }
        }
        found
    }

    /// Looks up a network that containers may join: this host's, or the cluster's. True if it is the cluster's.
    pub(crate) async fn find_joinable(&self, target: &str) -> Result<(NetworkSpec, bool)> {
        let local = match self.find_network(target).await {
            Ok(network) => Some(network.spec),
            Err(Error::NoSuchNetwork(_)) => None,
            Err(error) => return Err(error),
        };
        let spec = match local {
            Some(spec) if !matches!(spec.driver, Driver::Overlay { .. }) => return Ok((spec, false)),
            // What is programmed here is the committed state.
            Some(spec) => spec,
            None => {
                let cluster = self.cluster.get(target).await?;
                cluster
                    .find(target)
                    .await
                    .map_err(|error| refusal(target, error))?
            }
        };
        match spec.attachable {
            true => Ok((spec, true)),
            false => Err(denied(
                &spec.name,
                &format!("network {} not manually attachable", spec.name),
            )),
        }
    }

    /// Makes an endpoint on a network of the cluster: with the address that the managers give, once this host knows the network. The caller
    /// gives the address back when this fails.
    pub(crate) async fn attach_cluster(
        &self,
        id: &str,
        record: &Record,
        wanted: &ContainerNetwork,
        mut spec: pontoon_net::EndpointSpec,
    ) -> Result<()> {
        let name = &wanted.network;
        let cluster = self.cluster.get(name).await?;
        let refused = |error| refusal(name, error);
        let given = cluster.attach(wish(id, record, wanted)).await.map_err(refused)?;
        let Some(addr) = bare(&given.addr) else {
            return Err(Error::Conflict(format!(
                "Could not attach to network {name}: the managers gave no address ({:?})",
                given.addr
            )));
        };
        spec.ip = Some(addr);
        spec.mac = None;
        let mut newer = 0;
        loop {
            newer = cluster
                .programmed(&wanted.network_id, addr, newer)
                .await
                .map_err(refused)?;
            match self.network.attach(id, spec.clone()).await {
                // Its last container here has just left; that this one came is on its way.
                Err(pontoon_net::Error::NetworkNotFound { .. }) => {}
                attached => {
                    let failed = |error| Error::network("failed to set up container networking", error);
                    return attached.map(drop).map_err(failed);
                }
            }
        }
    }

    /// Gives back what a container has in the cluster's networks, or in one of them.
    pub(crate) async fn detach_cluster(&self, container: &Container, network: Option<&str>) {
        let of = |wanted: &&ContainerNetwork| network.is_none_or(|id| wanted.network_id == id);
        let has = container.read(|record| record.wanted_networks.iter().filter(of).any(|n| n.from_cluster));
        if (has || network.is_some())
            && let Some(cluster) = self.cluster.now()
        {
            cluster.detach(&container.id, network).await;
        }
    }

    /// Tells the cluster under which names a running container is found from now on.
    pub(crate) async fn rename_in_cluster(&self, container: &Container) {
        let record = container.record();
        let Some(cluster) = self.cluster.now().filter(|_| has_process(record.view().state())) else {
            return;
        };
        for wanted in record.wanted_networks.iter().filter(|n| n.from_cluster) {
            if let Err(error) = cluster.attach(wish(&container.id, &record, wanted)).await {
                tracing::warn!(
                    container = container.id,
                    network = wanted.network,
                    %error,
                    "other nodes know the container by its old name until it starts again"
                );
            }
        }
    }
}

/// What a container asks of the cluster.
fn wish(id: &str, record: &Record, wanted: &ContainerNetwork) -> ContainerAttachment {
    ContainerAttachment {
        network_id: wanted.network_id.clone(),
        container_id: id.to_owned(),
        wished_addr: wanted.ip_address.clone(),
        names: dns_names(id, record, wanted),
        ..ContainerAttachment::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(ip: &str, mac: &str) -> ContainerNetwork {
        ContainerNetwork {
            ip_address: ip.into(),
            mac_address: mac.into(),
            ..ContainerNetwork::default()
        }
    }

    #[test]
    fn an_overlay_takes_no_mac_but_the_addresses_own() {
        check_overlay(&wish("", ""), "app").unwrap();
        check_overlay(&wish("10.0.1.7", "02:42:0a:00:01:07"), "app").unwrap();
        for (ip, mac) in [("", "02:42:0a:00:01:07"), ("10.0.1.8", "02:42:0a:00:01:07")] {
            let refused = check_overlay(&wish(ip, mac), "app").unwrap_err().to_string();
            assert!(refused.contains("02:42"), "{refused}");
        }
        let mut link_local = wish("", "");
        link_local.link_local_ips.push("169.254.7.7".into());
        assert!(check_overlay(&link_local, "app").is_err());
    }
}
