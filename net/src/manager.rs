//! [`NetworkManager`]: the crate's face towards engine and agent. Each method is one or a few jobs for the network
//! thread, with netd told in between.
mod check;
mod cluster;
mod names;
mod probe;

use std::{collections::HashSet, sync::Arc};

use tokio::task::JoinHandle;

use crate::{
    Config, Endpoint, EndpointSpec, Error, Errors, Network, NetworkSpec, PortMapping, Result, Sandbox,
    SandboxSpec,
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
    responders: probe::Responders,
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
            responders: probe::Responders::default(),
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

    /// The addresses for which `host-gateway` stands.
    ///
    /// # Errors
    /// The default bridge can't be made.
    pub async fn host_gateway(&self) -> Result<Vec<std::net::IpAddr>> {
        self.core.run(Core::host_gateway).await?
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
        let own = id.to_owned();
        let known = move |core: &mut Core| core.sandbox(&own).is_ok().then(|| core.is_nameless(&own));
        let Some(is_nameless) = self.core.run(known).await.map_err(one)? else {
            return Ok(());
        };
        let mut errors = Vec::new();
        if !is_nameless {
            // netd first: its sockets keep the namespace alive.
            errors.extend(self.leave_netd(id).await.err());
        }
        let own = id.to_owned();
        let begun = self.core.run(move |core| core.begin_removal(&own)).await;
        let begun = begun.map_err(one)?;
        errors.extend(begun.errors);
        let removal = begun.removal;
        let bereaved = if let Some(bereaved) = begun.ended {
            if !removal.is_empty() {
                self.remover.post(move |remover| remover.clear_up(removal));
            }
            bereaved
        } else {
            errors.extend(self.remove_links(removal).await);
            let own = id.to_owned();
            let finished = self.core.run(move |core| core.finish_removal(&own)).await;
            let (bereaved, more) = finished.map_err(one)?;
            errors.extend(more);
            bereaved
        };
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
        // Also those of which the caller of the removal did not stay.
        let retired = Removal {
            retired: true,
            ..Removal::default()
        };
        self.remover.run(move |remover| remover.clear_up(retired)).await
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
}

fn one(error: Error) -> Errors {
    Errors(vec![error])
}

fn flat(result: Result<Result<()>>) -> Option<Error> {
    result.and_then(|inner| inner).err()
}
