//! Sandboxes, endpoints, drivers, tunnels, firewall and load balancing: what the daemon programs into the kernel.
//!
//! Layout:
//! - [`NetworkManager`] (`manager`): what engine and agent call; async
//! - `core`: networks, sandboxes, endpoints and the kernel calls for them; synchronous, owned by one thread (`worker`)
//! - `netlink`: batches of requests on links, addresses, routes, neighbours
//! - `firewall`: nftables transactions, the tables of host and sandboxes, slot maps, conntrack
//! - `netns`: the only module with `unsafe` (unshare); `names`: netd; `resolver`: resolv.conf, hosts; `record`: files
//! - `proxy`: published ports where the kernel does not translate
//!
//! The main path is `create_sandbox` → `attach` → `publish`, and for the cluster `set_overlay`, `set_ingress`.
//! `DESIGN.md` in this folder says why things are as they are.
mod core;
mod error;
mod firewall;
pub mod host;
mod manager;
mod names;
mod netlink;
mod netns;
mod proxy;
mod record;
mod resolver;
mod spec;
mod worker;

pub use error::{BoxedError, Error, Errors, Result};
pub use manager::NetworkManager;
pub use spec::{
    BridgeConfig, Config, DATA_PATH_PORT, Drift, Driver, Endpoint, EndpointSpec, IngressConflict,
    IngressPort, IngressState, IpamConfig, Mended, Network, NetworkEndpoint, NetworkSpec, OverlayPeer,
    OverlayState, Part, PortMapping, Probe, Protocol, Resolver, Sandbox, SandboxMode, SandboxSpec,
    ServiceRecord,
};
