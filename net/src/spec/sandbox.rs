//! Sandboxes, their endpoints and published ports, as they are asked for and shown.
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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
