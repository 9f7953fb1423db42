//! What callers of the [`NetworkManager`](crate::NetworkManager) say and get back: networks, sandboxes, endpoints,
//! published ports, and the committed state of overlay networks. Plain data; stored as JSON where it must survive
//! a restart of the daemon.
mod cluster;
mod drift;
mod network;
mod probe;
mod sandbox;

pub use cluster::{
    DATA_PATH_PORT, IngressConflict, IngressPort, IngressState, OverlayPeer, OverlayState, ServiceRecord,
};
pub use drift::{Drift, Mended, Part};
pub use network::{Driver, IpamConfig, Network, NetworkEndpoint, NetworkSpec};
pub use probe::Probe;
pub use sandbox::{
    Endpoint, EndpointSpec, PortMapping, Protocol, Resolver, Sandbox, SandboxMode, SandboxSpec,
};

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// How a [`NetworkManager`](crate::NetworkManager) is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Volatile state: namespaces, sandbox records, netd's socket. One per daemon.
    pub run_dir: PathBuf,
    /// Lasting state: local networks, below `network/`.
    pub data_dir: PathBuf,
    /// The default bridge network, called `bridge`.
    pub default_bridge: BridgeConfig,
    /// The bridge through which containers on overlays reach the outside.
    pub gateway_bridge: BridgeConfig,
    /// The program that is run as `<program> netd <run dir>`; `None` means no names are served (tests of the
    /// kernel side).
    pub netd: Option<PathBuf>,
    /// The host's resolver configuration, copied into sandboxes and used for forwarding.
    pub resolv_conf: PathBuf,
    /// From where subnets are cut that nobody chose: a base and the prefix length of each subnet. Empty: Docker's.
    pub address_pools: Vec<(IpNet, u8)>,
    /// Address to which ports are published that name none, on networks that do not say otherwise.
    pub host_binding: Option<Ipv4Addr>,
    /// What `host-gateway` in extra hosts stands for; empty: the default bridge's addresses.
    pub host_gateway: Vec<IpAddr>,
    /// Accept rules for our bridges are put in front of other firewalls' forward chains (all but ours), where
    /// their policy would drop what we let through.
    pub accept_in_other_chains: bool,
}

impl Config {
    /// The product's defaults below the two directories.
    #[must_use]
    pub fn new(run_dir: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            run_dir: run_dir.into(),
            data_dir: data_dir.into(),
            default_bridge: BridgeConfig::new("pontoon0"),
            gateway_bridge: BridgeConfig::new("pontoon_gw"),
            netd: Some(PathBuf::from("/proc/self/exe")),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            address_pools: Vec::new(),
            host_binding: None,
            host_gateway: Vec::new(),
            accept_in_other_chains: false,
        }
    }
}

/// A bridge that the daemon makes by itself when first needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeConfig {
    /// Interface name, at most 15 bytes.
    pub name: String,
    /// Its subnet with the bridge's own address (`--bip`); `None` takes the first default pool that overlaps no route
    /// of the host.
    pub subnet: Option<IpNet>,
    /// Part of the subnet from which containers get addresses (`--fixed-cidr`).
    pub range: Option<IpNet>,
    /// IPv6 too; without a subnet of its own a unique local one (RFC 4193).
    pub ipv6: bool,
    /// Its IPv6 subnet (`--fixed-cidr-v6`).
    pub subnet6: Option<IpNet>,
    /// MTU of the bridge and its endpoints; `None` means 1500.
    pub mtu: Option<u32>,
    /// Further driver options.
    pub options: BTreeMap<String, String>,
}

impl BridgeConfig {
    /// A bridge of that name with nothing chosen.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            subnet: None,
            range: None,
            ipv6: false,
            subnet6: None,
            mtu: None,
            options: BTreeMap::new(),
        }
    }
}
