//! Sandboxes, endpoints, drivers, tunnels, firewall and load balancing: what the daemon programs into the kernel.
mod error;
mod manager;
mod spec;

pub use error::{BoxedError, Error, Errors, Result};
pub use manager::NetworkManager;
pub use spec::{
    BridgeConfig, Config, Driver, Endpoint, EndpointSpec, IngressConflict, IngressPort, IngressState,
    IpamConfig, Network, NetworkEndpoint, NetworkSpec, OverlayPeer, OverlayState, PortMapping, Protocol,
    Resolver, Sandbox, SandboxMode, SandboxSpec, ServiceRecord,
};
