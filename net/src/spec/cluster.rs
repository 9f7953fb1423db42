//! The committed state of overlay networks and of the routing mesh, as the agent passes it on.
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{NetworkSpec, Protocol};

/// UDP port of VXLAN where a cluster names none (RFC 7348 section 5).
pub const DATA_PATH_PORT: u16 = 4789;

/// Everything this node has to know about one overlay network: committed cluster state, replaced as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayState {
    /// The network, driver overlay with its VNI and one subnet.
    pub network: NetworkSpec,
    /// Address of this node on the underlay.
    pub local_vtep: IpAddr,
    /// UDP port of VXLAN on all nodes. It stays as it is for as long as this node knows the network.
    pub data_path_port: u16,
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
    /// Addresses of healthy tasks that are not draining. One that is left out while it is still among the peers keeps the connections
    /// that it has.
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
