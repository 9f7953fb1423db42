//! [`NetworkManager`]: the crate's face towards engine and agent. Each method is one or a few jobs for the network
//! thread, with netd told in between.
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use pontoon_dataplane::{NetdClient, State};
use tokio::task::JoinHandle;

use crate::{
    Config, Endpoint, EndpointSpec, Error, Errors, IngressConflict, IngressState, Network, NetworkSpec,
    OverlayState, PortMapping, Result, Sandbox, SandboxSpec,
    core::{Core, Removal, Remover},
    firewall::Watcher,
    names::{Names, failed},
    netns,
    worker::Worker,
};

/// All networks, sandboxes and endpoints of one daemon, in the network namespace in which it was opened.
///
/// Calls may run concurrently; changes of the kernel are made one after the other by one thread. A call whose future
/// is dropped still takes place in the kernel; [`remove_sandbox`](Self::remove_sandbox) cleans up whatever it left.
#[derive(Debug)]
pub struct NetworkManager {
    /// Ends first: its thread may hold the core for a moment.
    _firewall: Watcher,
    core: Arc<Worker<Core>>,
    remover: Worker<Remover>,
    names: Names,
    watcher: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Drop for NetworkManager {
    fn drop(&mut self) {
        if let Ok(Some(watcher)) = self.watcher.get_mut().map(Option::take) {
            watcher.abort();
        }
    }
}

impl NetworkManager {
    /// Opens the state below the configured directories and finds again what the kernel has of it. Bridges of
    /// user-defined networks are made if they are missing, the others when first needed.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Record`], [`Error::Netlink`], [`Error::Namespace`].
    pub async fn open(config: Config) -> Result<Arc<Self>> {
        let home = Arc::new(netns::current()?);
        let names = Names::new(&config);
        let own = Arc::clone(&home);
        let core = Arc::new(Worker::start("net", move || Core::open(config, own)).await?);
        let port = core.run(Core::firewall_port).await??;
        let weak = Arc::downgrade(&core);
        let firewall = Watcher::start(&home, port, move |noticed| {
            if let Some(core) = weak.upgrade() {
                core.run_blocking(move |core| core.restore_firewall(noticed));
            }
        })?;
        let remover = Worker::start("net-remove", move || Remover::open(&home)).await?;
        Ok(Arc::new(Self {
            _firewall: firewall,
            core,
            remover,
            names,
            watcher: std::sync::Mutex::new(None),
        }))
    }

    /// At daemon start, when it is known which sandboxes are in use: removes all others and everything that belongs
    /// to nothing, and makes sure that netd serves those that stay. Goes on after errors.
    pub async fn reconcile(&self, live: &HashSet<String>) -> Vec<Error> {
        let mut errors = Vec::new();
        let wanted = live.clone();
        match self.core.run(move |core| core.stale_sandboxes(&wanted)).await {
            Ok(stale) => {
                for id in stale {
                    errors.extend(
                        self.remove_sandbox(&id)
                            .await
                            .err()
                            .map(|e| e.0)
                            .unwrap_or_default(),
                    );
                }
            }
            Err(error) => errors.push(error),
        }
        match self.core.run(Core::remove_strays).await {
            Ok(more) => errors.extend(more),
            Err(error) => errors.push(error),
        }
        errors.extend(self.reconcile_names().await.err());
        errors
    }

    /// Replaces what netd serves by what there is, but for the zones of overlays: they hold until the cluster's
    /// state arrives.
    async fn reconcile_names(&self) -> Result<()> {
        let view = |core: &mut Core| -> Result<_> {
            let mut state = State::default();
            for id in core.sandbox_ids() {
                if let Some(dns) = core.sandbox_dns(&id)? {
                    state.sandboxes.insert(id, dns);
                }
            }
            let mut overlays = Vec::new();
            for id in core.named_networks() {
                match core.zone(&id) {
                    Some(zone) if !core.is_overlay(&id) => drop(state.zones.insert(id, zone)),
                    _ => overlays.push(id),
                }
            }
            Ok((state, overlays))
        };
        let _order = self.names.in_order().await;
        let (mut state, overlays) = self.core.run(view).await??;
        let client = if state.sandboxes.is_empty() {
            self.names.running().await?
        } else {
            self.client().await?
        };
        let Some(client) = client else { return Ok(()) };
        let mut before = client.state().await.map_err(failed("read the state"))?;
        for id in overlays {
            if let Some(zone) = before.zones.remove(&id) {
                state.zones.insert(id, zone);
            }
        }
        state.ports = before.ports;
        let ports = client.sync(state).await.map_err(failed("replace the state"))?;
        self.watch(client);
        for (id, ports) in ports {
            self.core
                .run(move |core| core.set_dns_ports(&id, ports))
                .await??;
        }
        Ok(())
    }

    async fn client(&self) -> Result<Option<&NetdClient>> {
        let client = self.names.client().await?;
        if let Some(client) = client {
            self.watch(client);
        }
        Ok(client)
    }

    /// Follows netd's ports: where one was killed and its successor could not take the same, redirects change.
    fn watch(&self, client: &NetdClient) {
        let Ok(mut watcher) = self.watcher.lock() else {
            return;
        };
        if watcher.is_some() {
            return;
        }
        let mut ports = client.watch_ports();
        let core = Arc::downgrade(&self.core);
        *watcher = Some(tokio::spawn(async move {
            while ports.changed().await.is_ok() {
                let now = ports.borrow_and_update().clone();
                let Some(core) = core.upgrade() else { return };
                for (id, ports) in now {
                    let sandbox = id.clone();
                    let done = core.run(move |core| core.renew_dns_ports(&id, ports)).await;
                    if let Ok(Err(error)) | Err(error) = done {
                        tracing::error!(sandbox, %error, "DNS queries could not be redirected to netd's new ports");
                    }
                }
            }
        }));
    }

    /// Makes a bridge network; the returned one has subnet and gateway filled in.
    ///
    /// # Errors
    /// [`Error::NetworkExists`], [`Error::SubnetOverlap`], [`Error::Invalid`], or what the kernel refuses; then
    /// nothing is left.
    pub async fn create_network(&self, spec: NetworkSpec) -> Result<Network> {
        self.core.run(move |core| core.create_network(spec)).await?
    }

    /// Removes a bridge network by id or name.
    ///
    /// # Errors
    /// [`Error::NetworkNotFound`], [`Error::Predefined`], [`Error::NetworkInUse`], or what the kernel refuses.
    pub async fn remove_network(&self, id: &str) -> Result<()> {
        let id = self.inspect_network(id).await?.spec.id;
        let own = id.clone();
        self.core.run(move |core| core.remove_network(&own)).await??;
        self.refresh_zone(&id).await
    }

    /// All networks, predefined ones (`bridge`, `host`, `none`, the gateway bridge) and overlays included.
    ///
    /// # Errors
    /// [`Error::ThreadGone`].
    pub async fn list_networks(&self) -> Result<Vec<Network>> {
        self.core.run(|core| core.list_networks()).await
    }

    /// One network by id or name.
    ///
    /// # Errors
    /// [`Error::NetworkNotFound`].
    pub async fn inspect_network(&self, id_or_name: &str) -> Result<Network> {
        let id = id_or_name.to_owned();
        self.core.run(move |core| core.inspect_network(&id)).await?
    }

    /// Makes a sandbox.
    ///
    /// # Errors
    /// [`Error::SandboxExists`], [`Error::InvalidId`], [`Error::Sysctl`], [`Error::Namespace`]; then nothing is left.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox> {
        self.core.run(move |core| core.create_sandbox(spec)).await?
    }

    /// One sandbox.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`].
    pub async fn inspect_sandbox(&self, id: &str) -> Result<Sandbox> {
        let id = id.to_owned();
        self.core.run(move |core| core.inspect_sandbox(&id)).await?
    }

    /// Adds an endpoint: link, address, route, firewall, names. The network is given by id or name.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`], [`Error::NetworkNotFound`], [`Error::AlreadyAttached`], [`Error::NotManaged`],
    /// [`Error::Address`], [`Error::Dns`], or what the kernel refuses; then nothing is left.
    pub async fn attach(&self, sandbox_id: &str, spec: EndpointSpec) -> Result<Endpoint> {
        let id = sandbox_id.to_owned();
        let attached = self.core.run(move |core| core.attach(&id, &spec)).await??;
        if attached.is_nameless {
            return Ok(attached.endpoint);
        }
        let network = attached.endpoint.network_id.clone();
        let named = self
            .tell_names(sandbox_id, attached.has_names.then_some(network.as_str()))
            .await;
        if let Err(error) = named {
            // The error that led here is the one to tell.
            let _ = self.detach(sandbox_id, &network).await;
            return Err(error);
        }
        Ok(attached.endpoint)
    }

    /// Tells netd about a sandbox whose endpoints changed, and about the network on which they did.
    async fn tell_names(&self, sandbox_id: &str, network: Option<&str>) -> Result<()> {
        if let Some(network) = network {
            self.refresh_zone(network).await?;
            self.refresh_links(sandbox_id, network).await?;
        }
        let id = sandbox_id.to_owned();
        let Some(dns) = self.core.run(move |core| core.sandbox_dns(&id)).await?? else {
            return self.stop_names(sandbox_id).await;
        };
        let Some(client) = self.client().await? else {
            return Ok(());
        };
        let ports = client.put_sandbox(dns).await.map_err(failed("serve a sandbox"))?;
        let id = sandbox_id.to_owned();
        self.core.run(move |core| core.set_dns_ports(&id, ports)).await?
    }

    /// Sandboxes that have names of their own for one whose endpoint came or went are told its addresses.
    async fn refresh_links(&self, sandbox_id: &str, network: &str) -> Result<()> {
        let (target, on) = (sandbox_id.to_owned(), network.to_owned());
        let linked = self.core.run(move |core| core.linked_to(&target, &on)).await?;
        self.refresh_sandboxes(linked).await
    }

    /// Tells netd anew how it serves sandboxes.
    async fn refresh_sandboxes(&self, ids: Vec<String>) -> Result<()> {
        for id in ids {
            let own = id.clone();
            // One that goes at this moment needs no names.
            let Ok(Some(dns)) = self.core.run(move |core| core.sandbox_dns(&own)).await? else {
                continue;
            };
            let Some(client) = self.client().await? else {
                return Ok(());
            };
            client.put_sandbox(dns).await.map_err(failed("serve a sandbox"))?;
        }
        Ok(())
    }

    /// The addresses for which `host-gateway` stands.
    ///
    /// # Errors
    /// The default bridge can't be made.
    pub async fn host_gateway(&self) -> Result<Vec<std::net::IpAddr>> {
        self.core.run(Core::host_gateway).await?
    }

    /// netd stops to serve a sandbox that left its last network with names.
    async fn stop_names(&self, sandbox_id: &str) -> Result<()> {
        let id = sandbox_id.to_owned();
        let was_served = self.core.run(move |core| core.clear_dns_ports(&id)).await??;
        let client = if was_served {
            self.names.running().await?
        } else {
            None
        };
        let Some(client) = client else { return Ok(()) };
        client
            .remove_sandbox(sandbox_id)
            .await
            .map_err(failed("stop serving"))
    }

    /// Sends the names of a network, or takes them away with it.
    async fn refresh_zone(&self, network: &str) -> Result<()> {
        let _order = self.names.in_order().await;
        let id = network.to_owned();
        match self.core.run(move |core| core.zone(&id)).await? {
            Some(zone) => {
                let client = if zone.records.is_empty() {
                    self.names.running().await?
                } else {
                    self.client().await?
                };
                let Some(client) = client else { return Ok(()) };
                client.put_zone(network, zone).await.map_err(failed("set names"))
            }
            None => {
                let Some(client) = self.names.running().await? else {
                    return Ok(());
                };
                client.remove_zone(network).await.map_err(failed("remove names"))
            }
        }
    }

    /// Removes an endpoint. The network is given by id or name.
    ///
    /// # Errors
    /// [`Error::NotAttached`] and the like alone, or all failures of the removal, which goes on after each.
    pub async fn detach(&self, sandbox_id: &str, network: &str) -> Result<(), Errors> {
        let network = self.inspect_network(network).await.map_err(one)?.spec.id;
        let sandbox = self.inspect_sandbox(sandbox_id).await.map_err(one)?;
        if sandbox.endpoints.iter().all(|e| e.network_id != network) {
            return Err(one(Error::NotAttached {
                sandbox: sandbox_id.into(),
                network,
            }));
        }
        let (id, from) = (sandbox_id.to_owned(), network.clone());
        let (removal, mut errors) = self
            .core
            .run(move |core| core.begin_detach(&id, &from))
            .await
            .map_err(one)?;
        errors.extend(self.remove_links(removal).await);
        let (id, from) = (sandbox_id.to_owned(), network.clone());
        errors.extend(flat(
            self.core.run(move |core| core.finish_detach(&id, &from)).await,
        ));
        errors.extend(self.tell_names(sandbox_id, Some(&network)).await.err());
        Errors::check(errors)
    }

    /// A job that may leave connections to be forgotten, which takes the kernel milliseconds.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Core) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (result, stale) = self.core.run(move |core| (work(core), core.take_stale())).await?;
        if !stale.is_empty() {
            let errors = self.remover.run(move |remover| remover.forget(stale)).await?;
            errors.into_iter().next().map_or(Ok(()), Err)?;
        }
        result
    }

    async fn remove_links(&self, removal: Removal) -> Vec<Error> {
        if removal.is_empty() {
            return Vec::new();
        }
        self.remover
            .run(move |remover| remover.remove(removal))
            .await
            .unwrap_or_else(|error| vec![error])
    }

    /// Publishes ports: all or none. In mode host nothing is done, as the ports are open anyway.
    ///
    /// # Errors
    /// [`Error::PortAllocated`] if we have the port already, [`Error::PortBind`] if another process has,
    /// [`Error::Invalid`] if the sandbox has no endpoint with a way out.
    pub async fn publish(&self, sandbox_id: &str, ports: &[PortMapping]) -> Result<Vec<PortMapping>> {
        let (id, ports) = (sandbox_id.to_owned(), ports.to_vec());
        self.change(move |core| core.publish(&id, &ports)).await
    }

    /// Removes a sandbox with its endpoints, ports, names and namespace. One that is not there is fine. What it had is
    /// free for others afterwards. Its links on the host are down then; the kernel takes about 20 ms to forget them, for
    /// which only [`settle`](Self::settle) waits.
    ///
    /// # Errors
    /// All failures; the removal goes on after each.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), Errors> {
        let mut errors = Vec::new();
        match self.inspect_sandbox(id).await {
            Ok(_) => {}
            Err(Error::SandboxNotFound { .. }) => return Ok(()),
            Err(error) => return Err(one(error)),
        }
        // netd first: its sockets keep the namespace alive.
        match self.names.running().await {
            Ok(Some(client)) => errors.extend(
                client
                    .remove_sandbox(id)
                    .await
                    .map_err(failed("stop serving"))
                    .err(),
            ),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
        let own = id.to_owned();
        let (removal, more) = self
            .core
            .run(move |core| core.begin_removal(&own))
            .await
            .map_err(one)?;
        errors.extend(more);
        if removal.must_wait() {
            errors.extend(self.remove_links(removal).await);
        } else if !removal.is_empty() {
            self.remover.post(move |remover| remover.clear_up(removal));
        }
        let own = id.to_owned();
        let (bereaved, more) = self
            .core
            .run(move |core| core.finish_removal(&own))
            .await
            .map_err(one)?;
        errors.extend(more);
        for network in bereaved.networks {
            errors.extend(self.refresh_zone(&network).await.err());
        }
        errors.extend(self.refresh_sandboxes(bereaved.sandboxes).await.err());
        Errors::check(errors)
    }

    /// Waits until the kernel has forgotten all links of sandboxes that were removed before. Called before a daemon ends
    /// and by whoever counts links.
    ///
    /// # Errors
    /// [`Error::ThreadGone`].
    pub async fn settle(&self) -> Result<()> {
        self.remover.run(|_| ()).await
    }

    /// Content for the container's /etc/resolv.conf.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`], [`Error::File`].
    pub async fn resolv_conf(&self, sandbox_id: &str) -> Result<String> {
        let id = sandbox_id.to_owned();
        self.core.run(move |core| core.resolv_conf(&id)).await?
    }

    /// Content for the container's /etc/hosts.
    ///
    /// # Errors
    /// [`Error::SandboxNotFound`].
    pub async fn hosts(&self, sandbox_id: &str) -> Result<String> {
        let id = sandbox_id.to_owned();
        self.core.run(move |core| core.hosts(&id)).await?
    }

    /// Takes the committed state of one overlay network, whole; only differences are programmed.
    ///
    /// # Errors
    /// [`Error::NoUnderlay`], [`Error::Invalid`], or what the kernel refuses; the next call tries the rest again.
    pub async fn set_overlay(&self, state: OverlayState) -> Result<()> {
        let id = state.network.id.clone();
        self.change(move |core| core.set_overlay(state)).await?;
        self.refresh_zone(&id).await
    }

    /// Forgets an overlay network. One that is not there is fine.
    ///
    /// # Errors
    /// [`Error::NetworkInUse`] alone if it has endpoints here; else all failures of the removal.
    pub async fn remove_overlay(&self, network_id: &str) -> Result<(), Errors> {
        let id = network_id.to_owned();
        let mut errors = self
            .core
            .run(move |core| core.remove_overlay(&id))
            .await
            .map_err(one)?;
        errors.extend(self.refresh_zone(network_id).await.err());
        Errors::check(errors)
    }

    /// Takes the committed state of the routing mesh, whole; returns the ports that this node can't serve.
    ///
    /// # Errors
    /// [`Error::NetworkNotFound`] if the ingress network was not made known by [`set_overlay`](Self::set_overlay),
    /// or what the kernel refuses.
    pub async fn set_ingress(&self, state: IngressState) -> Result<Vec<IngressConflict>> {
        self.change(move |core| core.set_ingress(state)).await
    }

    /// Leaves the routing mesh. Not being in it is fine.
    ///
    /// # Errors
    /// All failures of the removal.
    pub async fn remove_ingress(&self) -> Result<(), Errors> {
        Errors::check(self.core.run(Core::remove_mesh).await.map_err(one)?)
    }

    /// Removes everything of ours from the kernel and ends netd. Definitions of local networks stay on disk;
    /// `net.ipv4.ip_forward` stays as it is.
    ///
    /// # Errors
    /// All failures; the removal goes on after each.
    pub async fn shutdown_all(&self) -> Result<(), Errors> {
        let mut errors = Vec::new();
        for id in self.core.run(|core| core.sandbox_ids()).await.map_err(one)? {
            errors.extend(
                self.remove_sandbox(&id)
                    .await
                    .err()
                    .map(|e| e.0)
                    .unwrap_or_default(),
            );
        }
        errors.extend(self.settle().await.err());
        errors.extend(
            self.core
                .run(Core::remove_everything)
                .await
                .unwrap_or_else(|e| vec![e]),
        );
        match self.names.running().await {
            Ok(Some(client)) => errors.extend(client.shutdown().await.map_err(failed("end")).err()),
            Ok(None) => {}
            Err(error) => errors.push(error),
        }
        Errors::check(errors)
    }

    /// Names served on a network: what netd was told last.
    ///
    /// # Errors
    /// [`Error::ThreadGone`].
    pub async fn names(&self, network_id: &str) -> Result<BTreeMap<String, Vec<std::net::IpAddr>>> {
        let id = network_id.to_owned();
        Ok(self
            .core
            .run(move |core| core.zone(&id))
            .await?
            .map(|zone| zone.records)
            .unwrap_or_default())
    }
}

fn one(error: Error) -> Errors {
    Errors(vec![error])
}

fn flat(result: Result<Result<()>>) -> Option<Error> {
    result.and_then(|inner| inner).err()
}
