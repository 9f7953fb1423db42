//! [`Engine`]: the one owner of containers on this host. It holds the containers, the image store and the network
//! manager; the operations themselves are in `container`, `stdio`, `logs`, `images`, `networks` and `system`.
//!
//! Every operation that changes something runs in a task of its own, so that a client that goes away in the middle
//! leaves no half-done work behind.

use std::collections::BTreeSet;
use std::future::Future;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use pontoon_image::{ImageStore, Limits};
use pontoon_net::{BridgeConfig, NetworkManager};
use pontoon_proto::v1::GenericResource;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::build::cache::BuildCache;
use crate::config::NATIVE_RUNTIME;
use crate::error::IoContext;
use crate::event::log::EventLog;
use crate::event::{ContainerEvent, EventObject};
use crate::networks::cluster::Cluster;
use crate::registry::Registry;
use crate::spec::remap::IdMap;
use crate::volumes::Volumes;
use crate::{EngineConfig, Error, RegistrySettings, Result, container, id, images};

/// Events kept for slow watchers.
const EVENTS: usize = 1024;

/// The local engine. Made by [`Engine::open`], ended by [`Engine::shutdown`]; containers outlive it.
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) id: String,
    pub(crate) containers: Registry,
    pub(crate) images: Arc<ImageStore>,
    pub(crate) registries: Arc<pontoon_image::registry::Registry>,
    pub(crate) network: Arc<NetworkManager>,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) build_cache: Arc<BuildCache>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) event_log: Arc<EventLog>,
    labels: RwLock<Vec<String>>,
    generic_resources: RwLock<Vec<GenericResource>>,
    /// Counts reloads of the settings.
    reloads: watch::Sender<u64>,
    /// Images that assigned tasks use, as their specs name them.
    pub(crate) task_images: RwLock<BTreeSet<String>>,
    pub(crate) events: broadcast::Sender<ContainerEvent>,
    /// Counts changes of the image store.
    pub(crate) image_changes: watch::Sender<u64>,
    /// Mappings of containers' user namespaces, if they have any.
    pub(crate) remap: Option<IdMap>,
    /// The cluster that this host is in.
    pub(crate) cluster: Cluster,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("data_dir", &self.config.data_dir)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the engine: finds running containers again, handles what ended meanwhile, removes leftovers, applies
    /// restart policies (in the background).
    ///
    /// # Errors
    /// The folders, the image store or the network can't be opened. A single bad container is logged and left alone.
    pub async fn open(config: EngineConfig) -> Result<Arc<Self>> {
        if config.default_runtime != NATIVE_RUNTIME && !config.runtimes.contains_key(&config.default_runtime)
        {
            return Err(Error::Invalid(format!(
                "specified default runtime '{}' does not exist",
                config.default_runtime
            )));
        }
        let remap = IdMap::load(&config.userns_remap)?;
        make_dir(&config.data_dir.join("engine/containers"))?;
        make_dir(&config.run_dir.join("shim"))?;
        make_dir(&config.run_dir.join("seccomp"))?;
        if config.exe != Path::new("/proc/self/exe") {
            pontoon_runtime::set_shim_executable(config.exe.clone());
        }
        let storage = images::storage(&config)?;
        let image_dir = config.data_dir.join(pontoon_image::folder_of(&storage.driver));
        let images = blocking(move || {
            ImageStore::open_on(&image_dir, Limits::default(), &storage).map_err(Error::Image)
        });
        let network = async {
            NetworkManager::open(network_config(&config))
                .await
                .map_err(|e| Error::network("open networks", e))
        };
        let owner = remap.as_ref().map_or((0, 0), IdMap::root);
        let volumes_dir = config.data_dir.join("volumes");
        let volumes = blocking(move || Volumes::open(volumes_dir, owner));
        let (images, network, volumes) = tokio::try_join!(images, network, volumes)?;
        let images = Arc::new(images);
        let (data_dir, store) = (config.data_dir.clone(), images.clone());
        let build_cache = blocking(move || BuildCache::open(&data_dir, &store)).await?;
        let (labels, generic_resources) = (config.labels.clone(), config.generic_resources.clone());
        let registries = pontoon_image::registry::Registry::new(config.registries.clone());
        let cluster = Cluster::new(config.in_cluster);
        let image_changes = watch::Sender::new(0);
        let changed = image_changes.clone();
        images.watch(move || changed.send_modify(|count| *count += 1));
        let engine = Arc::new(Self {
            id: engine_id(&config.data_dir)?,
            config,
            containers: Registry::default(),
            images,
            build_cache: Arc::new(build_cache),
            registries: Arc::new(registries),
            network,
            volumes: Arc::new(volumes),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            event_log: Arc::default(),
            labels: RwLock::new(labels),
            generic_resources: RwLock::new(generic_resources),
            reloads: watch::Sender::new(0),
            task_images: RwLock::default(),
            events: broadcast::Sender::new(EVENTS),
            image_changes,
            remap,
            cluster,
        });
        container::restore::run(&engine).await?;
        crate::build::sweep(&engine)?;
        engine.watch_disk();
        engine.heal_networks();
        Ok(engine)
    }

    /// Stops looking after containers and waits until running operations are done and the kernel has forgotten the links of
    /// removed containers. Containers go on running.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = self.network.settle().await {
            tracing::warn!(%error, "links of removed containers may be left until the daemon starts again");
        }
    }

    /// What happens to containers from now on. A receiver that lags loses the oldest.
    pub fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.events.subscribe()
    }

    /// The image store; its calls block.
    pub fn images(&self) -> &Arc<ImageStore> {
        &self.images
    }

    /// Wakes after each change of which images there are.
    pub fn image_changes(&self) -> watch::Receiver<u64> {
        self.image_changes.subscribe()
    }

    /// The network manager.
    pub fn network(&self) -> &Arc<NetworkManager> {
        &self.network
    }

    /// Its labels, `key=value`.
    pub fn labels(&self) -> Vec<String> {
        self.labels.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it offers services besides CPUs and memory.
    pub fn generic_resources(&self) -> Vec<GenericResource> {
        self.generic_resources
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Changes with each reload of the settings.
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.reloads.subscribe()
    }

    /// Takes over the settings that may change while it runs, and tells of it.
    pub fn reload(
        &self,
        labels: Vec<String>,
        generic_resources: Vec<GenericResource>,
        registries: RegistrySettings,
    ) {
        self.registries.reload(registries);
        let shown = format!("[{}]", labels.join(" "));
        *self.labels.write().unwrap_or_else(PoisonError::into_inner) = labels;
        *self
            .generic_resources
            .write()
            .unwrap_or_else(PoisonError::into_inner) = generic_resources;
        self.reloads.send_modify(|count| *count += 1);
        let name = crate::system::host_name();
        self.emit_object(
            EventObject::Daemon,
            "reload",
            &self.id,
            [("name", name), ("labels", shown)],
        );
    }

    /// The settings it was opened with.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Random id of this engine, made when its data folder was.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Runs an operation to its end, whatever becomes of the caller.
    pub(crate) async fn whole<T: Send + 'static>(
        &self,
        operation: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        if self.stop.is_cancelled() {
            return Err(Error::ShuttingDown("no operations are accepted"));
        }
        match self.tasks.spawn(operation).await {
            Ok(result) => result,
            Err(_) => Err(Error::ShuttingDown("the operation was interrupted")),
        }
    }

    /// Folder of a container's lasting state.
    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.config.data_dir.join("engine/containers").join(id)
    }

    /// Folder of a container's shim.
    pub(crate) fn shim_dir(&self, id: &str) -> PathBuf {
        self.config.run_dir.join("shim").join(id)
    }
}

/// Runs blocking work (files, images) away from the event loop.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(Error::ShuttingDown("the operation was interrupted")))
}

/// Makes a folder that only root can look into.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .context(|| format!("create {}", path.display()))
}

/// Pause before a removal is tried again.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(500);

/// Removes a folder that may be gone already. Listing a folder takes a descriptor: when there is none, it is tried again in the
/// background until there is one or the daemon stops (the next one's start removes what belongs to nobody).
pub(crate) async fn remove_folder(path: PathBuf, stop: CancellationToken) -> Result<()> {
    let scarce = |error: &std::io::Error| {
        let number = error.raw_os_error();
        number == Some(rustix::io::Errno::MFILE.raw_os_error())
            || number == Some(rustix::io::Errno::NFILE.raw_os_error())
    };
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if scarce(&error) => {
            tracing::warn!(path = %path.display(), "out of descriptors: a folder is removed later");
            tokio::spawn(async move {
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(AGAIN) => {}
                    }
                    match std::fs::remove_dir_all(&path) {
                        Err(error) if scarce(&error) => {}
                        _ => return,
                    }
                }
            });
            Ok(())
        }
        other => other.context(|| format!("remove {}", path.display())),
    }
}

fn network_config(config: &EngineConfig) -> pontoon_net::Config {
    let mut network = pontoon_net::Config::new(&config.run_dir, &config.data_dir);
    let defaults = &config.networks;
    network.default_bridge = BridgeConfig {
        subnet: defaults.bip,
        range: defaults.fixed_cidr,
        ipv6: defaults.ipv6,
        subnet6: defaults.fixed_cidr_v6,
        mtu: defaults.mtu,
        options: defaults.bridge_options.clone(),
        ..BridgeConfig::new(&config.bridge)
    };
    network.gateway_bridge = BridgeConfig::new(&config.gateway_bridge);
    network.address_pools.clone_from(&defaults.address_pools);
    network.host_binding = defaults.host_binding;
    network.host_gateway.clone_from(&defaults.host_gateway);
    network.accept_in_other_chains = defaults.firewall_accept;
    network.netd = config.dns.then(|| config.exe.clone());
    network.resolv_conf.clone_from(&config.resolv_conf);
    network
}

fn engine_id(data_dir: &Path) -> Result<String> {
    let path = data_dir.join("engine/id");
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => {
            return Err(Error::Io {
                what: format!("read {}", path.display()),
                source,
            });
        }
    }
    let id = id::generate();
    std::fs::write(&path, &id).context(|| format!("write {}", path.display()))?;
    Ok(id)
}
