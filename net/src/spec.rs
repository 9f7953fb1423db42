//! What callers of the [`NetworkManager`](crate::NetworkManager) say and get back: networks, sandboxes, endpoints,
//! published ports, and the committed state of overlay networks. Plain data; stored as JSON where it must survive
//! a restart of the daemon.
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
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
            data_path_port: 4789,
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
    /// A wished IPv4 address; required for overlays, whose addresses the cluster gives.
    pub ip: Option<IpAddr>,
    /// A wished IPv6 address.
    pub ip6: Option<IpAddr>,
    /// Further addresses of link-local scope.
    pub link_local: Vec<IpAddr>,
    /// Options of this endpoint: `com.docker.network.endpoint.ifname` and `.sysctls`.
    pub options: BTreeMap<String, String>,
    /// The endpoint with the highest gives the default route; among equals the network's name decides.
    pub priority: i32,
    /// Names that this sandbox alone knows for other sandboxes of the network: (sandbox id, alias).
    pub links: Vec<(String, String)>,
    /// DNS names on this network (container name, aliases); the short sandbox id is added.
    pub aliases: Vec<String>,
    /// A wished MAC (not on overlays); the default is 02:42 and the address.
    pub mac: Option<[u8; 6]>,
    /// On an overlay: the way out, through the gateway bridge, unless another network has one.
    pub is_default_route: bool,
}

/// An endpoint that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network's id.
    pub network_id: String,
    /// Interface name inside the sandbox.
    pub ifname: String,
    /// IPv4 address with prefix length.
    pub address: Option<IpNet>,
    /// IPv6 address with prefix length.
    #[serde(default)]
    pub address6: Option<IpNet>,
    /// The network's IPv4 gateway; nothing on networks without a way out.
    pub gateway: Option<IpAddr>,
    /// The network's IPv6 gateway.
    #[serde(default)]
    pub gateway6: Option<IpAddr>,
    /// Link-layer address.
    pub mac: [u8; 6],
}

impl Endpoint {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [self.address, self.address6]
            .into_iter()
            .flatten()
            .map(|net| net.addr())
    }

    /// The address by which it is known: IPv4 where there is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.addresses().next()
    }
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
    /// Address on the host; `None` means all of both families, unspecified all of one.
    pub host_ip: Option<IpAddr>,
    /// Port on the host; `None` takes one from 32768 upwards. On routed networks none is taken.
    pub host_port: Option<u16>,
    /// Where not 0: the last port of a range, starting with `host_port`, of which the first free one is taken.
    #[serde(default)]
    pub host_port_end: u16,
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
