//! What callers of the [`NetworkManager`](crate::NetworkManager) say and get back: networks, sandboxes, endpoints,
//! published ports, and the committed state of overlay networks. Plain data; stored as JSON where it must survive
//! a restart of the daemon. Addresses are [`IpAddr`] throughout although only IPv4 is programmed today.
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
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
    /// UDP port of VXLAN.
    pub data_path_port: u16,
    /// The program that is run as `<program> netd <run dir>`; `None` means no names are served (tests of the
    /// kernel side).
    pub netd: Option<PathBuf>,
    /// The host's resolver configuration, copied into sandboxes and used for forwarding.
    pub resolv_conf: PathBuf,
}

impl Config {
    /// The product's defaults below the two directories.
    #[must_use]
    pub fn new(run_dir: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            run_dir: run_dir.into(),
            data_dir: data_dir.into(),
            default_bridge: BridgeConfig {
                name: "pontoon0".into(),
                subnet: None,
                mtu: None,
            },
            gateway_bridge: BridgeConfig {
                name: "pontoon_gw".into(),
                subnet: None,
                mtu: None,
            },
            data_path_port: 4789,
            netd: Some(PathBuf::from("/proc/self/exe")),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        }
    }
}

/// A bridge that the daemon makes by itself when first needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeConfig {
    /// Interface name, at most 15 bytes.
    pub name: String,
    /// Its subnet; `None` takes the first default pool that overlaps no route of the host.
    pub subnet: Option<IpNet>,
    /// MTU of the bridge and its endpoints; `None` means 1500.
    pub mtu: Option<u32>,
}

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
    /// Subnets; the first IPv4 one is used.
    pub ipam: Vec<IpamConfig>,
    /// No way out: no NAT, no default route, no DNS forwarding, no published ports.
    pub internal: bool,
    /// Standalone containers may join an overlay.
    pub attachable: bool,
    /// Asks for IPv6, which is refused for now.
    pub enable_ipv6: bool,
    /// Driver options; `com.docker.network.bridge.{name,enable_icc,enable_ip_masquerade,host_binding_ipv4}` and
    /// `com.docker.network.driver.mtu` are understood, others kept.
    pub options: BTreeMap<String, String>,
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
}

/// An endpoint as seen from its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkEndpoint {
    /// The sandbox it is in.
    pub sandbox_id: String,
    /// Address, interface, MAC.
    pub endpoint: Endpoint,
}

/// Whose network a container gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxMode {
    /// An own namespace with loopback only; nothing can be attached.
    None,
    /// The daemon's namespace.
    Host,
    /// An own namespace with endpoints.
    Managed,
}

/// A sandbox to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Unique id (the container's); its first 12 characters are a DNS name on user-defined networks.
    pub id: String,
    /// Whose network.
    pub mode: SandboxMode,
    /// For the hosts file.
    pub hostname: String,
    /// Resolvers instead of the host's.
    pub dns: Vec<IpAddr>,
    /// Search domains instead of the host's; a single `.` means none.
    pub dns_search: Vec<String>,
    /// Resolver options instead of the host's.
    pub dns_options: Vec<String>,
    /// Further names, in the hosts file and in DNS.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// `net.*` settings of the namespace, dotted names.
    pub sysctls: BTreeMap<String, String>,
}

impl SandboxSpec {
    /// A sandbox with nothing chosen.
    #[must_use]
    pub fn new(id: impl Into<String>, mode: SandboxMode) -> Self {
        Self {
            id: id.into(),
            mode,
            hostname: String::new(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            extra_hosts: Vec::new(),
            sysctls: BTreeMap::new(),
        }
    }
}

/// A sandbox that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// `<run>/netns/<id>`; `None` in mode host, where the container is given no network namespace of its own.
    pub netns: Option<PathBuf>,
    /// Its endpoints in the order of attachment.
    pub endpoints: Vec<Endpoint>,
    /// Its published ports.
    pub ports: Vec<PortMapping>,
}

/// An endpoint to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// The network's id.
    pub network_id: String,
    /// A wished address; required for overlays, whose addresses the cluster gives.
    pub ip: Option<IpAddr>,
    /// DNS names on this network (container name, aliases); the short sandbox id is added.
    pub aliases: Vec<String>,
    /// A wished MAC (bridge only); the default is 02:42 and the address.
    pub mac: Option<[u8; 6]>,
    /// This endpoint gives the default route; on an overlay: through the gateway bridge.
    pub is_default_route: bool,
}

/// An endpoint that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network's id.
    pub network_id: String,
    /// Interface name inside the sandbox.
    pub ifname: String,
    /// Address with prefix length.
    pub address: IpNet,
    /// The default gateway if the sandbox's default route goes through this endpoint.
    pub gateway: Option<IpAddr>,
    /// Link-layer address.
    pub mac: [u8; 6],
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP (RFC 9260).
    Sctp,
}

impl Protocol {
    /// The IP protocol number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Address on the host; unspecified means all.
    pub host_ip: IpAddr,
    /// Port on the host; `None` takes one from 32768 upwards.
    pub host_port: Option<u16>,
    /// Port in the container.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// Everything this node has to know about one overlay network: committed cluster state, replaced as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayState {
    /// The network, driver overlay with its VNI and one subnet.
    pub network: NetworkSpec,
    /// Address of this node on the underlay.
    pub local_vtep: IpAddr,
    /// Endpoints of all nodes, ingress legs included; those of this node may be there and are skipped.
    pub peers: Vec<OverlayPeer>,
    /// Services on the network.
    pub services: Vec<ServiceRecord>,
    /// DNS names of single tasks.
    pub tasks: Vec<(String, IpAddr)>,
}

/// Where an endpoint of an overlay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OverlayPeer {
    /// Its address on the overlay.
    pub ip: IpAddr,
    /// Its node's address on the underlay.
    pub vtep: IpAddr,
}

/// A service as it is resolved and balanced on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// DNS name.
    pub name: String,
    /// Further DNS names.
    pub aliases: Vec<String>,
    /// Virtual address; `None` for `dnsrr`, whose name resolves to the backends.
    pub vip: Option<IpAddr>,
    /// Addresses of healthy tasks that are not draining.
    pub backends: Vec<IpAddr>,
}

/// The routing mesh on this node: committed cluster state, replaced as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressState {
    /// The ingress overlay, made known before by `set_overlay`.
    pub network_id: String,
    /// This node's own address on the ingress network, with its prefix.
    pub node_address: IpNet,
    /// Ports published on every node.
    pub ports: Vec<IngressPort>,
}

/// One port of the routing mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressPort {
    /// Protocol.
    pub protocol: Protocol,
    /// Port on every node.
    pub published: u16,
    /// Port of the tasks.
    pub target: u16,
    /// Addresses of healthy tasks on the ingress network.
    pub backends: Vec<IpAddr>,
}

/// A port of the routing mesh that this node can't serve. The others work.
#[derive(Debug)]
pub struct IngressConflict {
    /// Protocol.
    pub protocol: Protocol,
    /// The published port.
    pub published: u16,
    /// Why.
    pub error: crate::Error,
}

/// Resolvers to forward to and what goes into resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers.
    pub servers: Vec<SocketAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}
