//! What netd serves: sandboxes with their DNS settings, one zone of names for each network, and the tunnel of encrypted networks.
//!
//! These values are built by `pontoon-net`, kept by the client so that it can refill a netd that was killed, kept
//! by netd, and cross the control socket as JSON.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::{EncryptedNetwork, Tunnel};

/// The resolver of one sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxDns {
    /// The sandbox's id.
    pub id: String,
    /// Path of its network namespace. When the path vanishes or names another namespace, netd drops the sandbox.
    pub netns: PathBuf,
    /// Ids of its networks. A name is looked up in this order; the first network that knows it answers.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Servers for all other names. Loopback addresses are asked from netd's own namespace (the host's resolver),
    /// others from inside the sandbox.
    #[serde(default)]
    pub upstreams: Vec<SocketAddr>,
    /// Search domains; applied by the resolver in the sandbox (resolv.conf), kept here for completeness.
    #[serde(default)]
    pub search: Vec<String>,
    /// Resolver options such as `ndots:0`; likewise applied in the sandbox.
    #[serde(default)]
    pub options: Vec<String>,
    /// No query leaves the node for this sandbox; unknown names do not exist (CVE-2024-29018).
    #[serde(default)]
    pub internal: bool,
    /// Names of `--add-host`; they win over all networks.
    #[serde(default)]
    pub extra_hosts: BTreeMap<String, Vec<IpAddr>>,
}

/// The names of one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// Addresses by lower-case name without a final dot. A name with no addresses exists, and has none.
    pub records: BTreeMap<String, Vec<IpAddr>>,
}

/// Where a sandbox's resolver listens on 127.0.0.11, to be reached by a redirect of port 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsPorts {
    /// UDP port.
    pub udp: u16,
    /// TCP port.
    pub tcp: u16,
}

/// All that netd serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Sandboxes by id.
    #[serde(default)]
    pub sandboxes: BTreeMap<String, SandboxDns>,
    /// Zones by network id.
    #[serde(default)]
    pub zones: BTreeMap<String, Zone>,
    /// Where each sandbox listens. In an answer: the truth. In [`sync`](crate::NetdClient::sync): ports that a new
    /// netd takes again if it can, so that redirects stay right; may be empty.
    #[serde(default)]
    pub ports: BTreeMap<String, DnsPorts>,
    /// The tunnel of encrypted networks.
    #[serde(default)]
    pub tunnel: Option<Tunnel>,
    /// Networks in the tunnel, by id.
    #[serde(default)]
    pub encrypted: BTreeMap<String, EncryptedNetwork>,
}
