//! [`NetworkManager`]: the crate's face towards engine and agent.
use std::{collections::HashSet, sync::Arc};

use crate::{
    Config, Endpoint, EndpointSpec, Error, Errors, IngressConflict, IngressState, Network, NetworkSpec,
    OverlayState, PortMapping, Result, Sandbox, SandboxSpec,
};

/// All networks, sandboxes and endpoints of one daemon.
#[derive(Debug)]
pub struct NetworkManager {}

impl NetworkManager {
    /// Opens the state.
    pub async fn open(_config: Config) -> Result<Arc<Self>> {
        Err(Error::ThreadGone)
    }
    /// At daemon start.
    pub async fn reconcile(&self, _live: &HashSet<String>) -> Vec<Error> {
        Vec::new()
    }
    /// Makes a bridge network; the returned one has subnet and gateway filled in.
    pub async fn create_network(&self, _spec: NetworkSpec) -> Result<Network> {
        Err(Error::ThreadGone)
    }
    /// Removes a bridge network by id.
    pub async fn remove_network(&self, _id: &str) -> Result<()> {
        Err(Error::ThreadGone)
    }
    /// All networks, predefined ones (`bridge`, `host`, `none`) and overlays included.
    pub async fn list_networks(&self) -> Result<Vec<Network>> {
        Err(Error::ThreadGone)
    }
    /// One network by id or name.
    pub async fn inspect_network(&self, _id_or_name: &str) -> Result<Network> {
        Err(Error::ThreadGone)
    }
    /// Makes a sandbox.
    pub async fn create_sandbox(&self, _spec: SandboxSpec) -> Result<Sandbox> {
        Err(Error::ThreadGone)
    }
    /// One sandbox.
    pub async fn inspect_sandbox(&self, _id: &str) -> Result<Sandbox> {
        Err(Error::ThreadGone)
    }
    /// Adds an endpoint.
    pub async fn attach(&self, _sandbox_id: &str, _spec: EndpointSpec) -> Result<Endpoint> {
        Err(Error::ThreadGone)
    }
    /// Removes an endpoint.
    pub async fn detach(&self, _sandbox_id: &str, _network_id: &str) -> Result<()> {
        Err(Error::ThreadGone)
    }
    /// Publishes ports: all or none.
    pub async fn publish(&self, _sandbox_id: &str, _ports: &[PortMapping]) -> Result<Vec<PortMapping>> {
        Err(Error::ThreadGone)
    }
    /// Removes a sandbox with everything in it. Idempotent.
    pub async fn remove_sandbox(&self, _id: &str) -> Result<(), Errors> {
        Err(Errors(vec![Error::ThreadGone]))
    }
    /// Content for /etc/resolv.conf.
    pub async fn resolv_conf(&self, _sandbox_id: &str) -> Result<String> {
        Err(Error::ThreadGone)
    }
    /// Content for /etc/hosts.
    pub async fn hosts(&self, _sandbox_id: &str) -> Result<String> {
        Err(Error::ThreadGone)
    }
    /// Takes the committed state of one overlay network.
    pub async fn set_overlay(&self, _state: OverlayState) -> Result<()> {
        Err(Error::ThreadGone)
    }
    /// Forgets an overlay network.
    pub async fn remove_overlay(&self, _network_id: &str) -> Result<(), Errors> {
        Err(Errors(vec![Error::ThreadGone]))
    }
    /// Takes the committed state of the routing mesh; returns the ports this node can't serve.
    pub async fn set_ingress(&self, _state: IngressState) -> Result<Vec<IngressConflict>> {
        Err(Error::ThreadGone)
    }
    /// Leaves the routing mesh.
    pub async fn remove_ingress(&self) -> Result<(), Errors> {
        Err(Errors(vec![Error::ThreadGone]))
    }
    /// Removes everything of ours from the kernel and ends netd; definitions of local networks stay on disk.
    pub async fn shutdown_all(&self) -> Result<(), Errors> {
        Err(Errors(vec![Error::ThreadGone]))
    }
}
