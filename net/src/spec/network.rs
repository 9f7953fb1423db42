//! Networks as they are asked for and shown.
use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Endpoint;

/// The kind of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Loopback only.
    None,
    /// The daemon's own network namespace.
    Host,
    /// A bridge on this host with NAT.
    Bridge,
    /// Links with MACs of their own below an interface of the host.
    Macvlan,
    /// Links with the MAC of an interface of the host.
    Ipvlan,
    /// A VXLAN over the nodes of the cluster.
    Overlay {
        /// The network's VXLAN identifier (RFC 7348), 24 bit.
        vni: u32,
    },
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "null",
            Self::Host => "host",
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Overlay { .. } => "overlay",
        })
    }
}

/// One subnet of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamConfig {
    /// `None` lets the manager choose (bridge networks only).
    pub subnet: Option<IpNet>,
    /// Address of the bridge; `None` takes the first host address.
    pub gateway: Option<IpAddr>,
    /// Part of the subnet from which addresses are taken.
    pub range: Option<IpNet>,
    /// Addresses that others have, by a name of the user's choice.
    #[serde(default)]
    pub auxiliary: BTreeMap<String, IpAddr>,
}

/// A network as its creator wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Unique id: 25 characters for cluster networks, 64 for local ones; `[0-9A-Za-z_-]`.
    pub id: String,
    /// Unique name on this node.
    pub name: String,
    /// Kind of network.
    pub driver: Driver,
    /// Subnets: at most one of each family.
    pub ipam: Vec<IpamConfig>,
    /// No way out: no NAT, no default route, no DNS forwarding, no published ports.
    pub internal: bool,
    /// Standalone containers may join an overlay.
    pub attachable: bool,
    /// IPv6 addresses for its endpoints.
    pub enable_ipv6: bool,
    /// IPv4 addresses for its endpoints.
    #[serde(default = "yes")]
    pub enable_ipv4: bool,
    /// Driver options: `parent`, `macvlan_mode`, `ipvlan_mode`, `ipvlan_flag` and `com.docker.network.*` as the drivers
    /// know them; others are kept for their owners.
    pub options: BTreeMap<String, String>,
    /// Options of the address management, kept for their owners.
    #[serde(default)]
    pub ipam_options: BTreeMap<String, String>,
    /// User's labels.
    pub labels: BTreeMap<String, String>,
}

impl NetworkSpec {
    /// A bridge network with nothing chosen.
    #[must_use]
    pub fn bridge(id: impl Into<String>, name: impl Into<String>) -> Self {
        Self::new(id, name, Driver::Bridge)
    }

    /// A network of `driver` with nothing chosen.
    #[must_use]
    pub fn new(id: impl Into<String>, name: impl Into<String>, driver: Driver) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            driver,
            ipam: Vec::new(),
            internal: false,
            attachable: false,
            enable_ipv6: false,
            enable_ipv4: true,
            ipam_options: BTreeMap::new(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    /// The first IPv4 subnet, if chosen.
    #[must_use]
    pub fn subnet(&self) -> Option<IpNet> {
        self.ipam
            .iter()
            .filter_map(|c| c.subnet)
            .find(|s| s.addr().is_ipv4())
    }

    /// The first IPv6 subnet, if chosen.
    #[must_use]
    pub fn subnet6(&self) -> Option<IpNet> {
        self.ipam
            .iter()
            .filter_map(|c| c.subnet)
            .find(|s| s.addr().is_ipv6())
    }
}

fn yes() -> bool {
    true
}

/// A network that exists, with what was chosen for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The spec, subnet and gateway filled in.
    pub spec: NetworkSpec,
    /// The bridge interface on the host, for bridge networks.
    pub interface: Option<String>,
    /// Endpoints on this node.
    pub endpoints: Vec<NetworkEndpoint>,
    /// Of an overlay: underlay addresses of the nodes with endpoints in it, this one first.
    pub peers: Vec<IpAddr>,
}

/// An endpoint as seen from its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkEndpoint {
    /// The sandbox it is in.
    pub sandbox_id: String,
    /// Address, interface, MAC.
    pub endpoint: Endpoint,
}
