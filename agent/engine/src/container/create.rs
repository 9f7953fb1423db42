//! `create`: settings and image become a record and a root file system; nothing runs yet.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use pontoon_proto::v1::{
    self, ContainerSpec, ContainerState, CreateContainerRequest, CreateContainerResponse, HealthState,
    HostConfig, PortBinding, PortProtocol,
};

use super::record::Record;
use super::{Container, merge, network, settings, validate};
use crate::config::NATIVE_RUNTIME;
use crate::engine::{blocking, make_dir, remove_folder};
use crate::event::ContainerEventKind;
use crate::undo::Undo;
use crate::{Engine, Error, Result, id, logs, name};

/// What a container is made with, checked and complete.
struct Settings {
    name: String,
    config: ContainerSpec,
    host: HostConfig,
    exposed_ports: Vec<String>,
}

impl Engine {
    /// Makes a container; it does not run yet.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::NoSuchImage`], [`Error::NameInUse`], [`Error::NoSuchNetwork`]; nothing is left then.
    pub fn create(
        self: &Arc<Self>,
        request: CreateContainerRequest,
    ) -> BoxFuture<'static, Result<CreateContainerResponse>> {
        // Boxed: a request is some kilobytes, which every caller's future would hold several times.
        self.create_as(request, false)
    }

    /// As [`Engine::create`], for a task of the cluster: its addresses are the cluster's, and come with the request.
    ///
    /// # Errors
    /// As [`Engine::create`].
    pub fn create_task(
        self: &Arc<Self>,
        request: CreateContainerRequest,
    ) -> BoxFuture<'static, Result<CreateContainerResponse>> {
        self.create_as(request, true)
    }

    fn create_as(
        self: &Arc<Self>,
        request: CreateContainerRequest,
        is_task: bool,
    ) -> BoxFuture<'static, Result<CreateContainerResponse>> {
        let engine = self.clone();
        Box::pin(async move {
            let creation = engine.clone();
            engine
                .whole(async move { Box::pin(creation.create_now(request, is_task)).await })
                .await
        })
    }

    async fn create_now(
        self: &Arc<Self>,
        request: CreateContainerRequest,
        is_task: bool,
    ) -> Result<CreateContainerResponse> {
        let mut config = request.config.clone().unwrap_or_default();
        let mut host = request.host.clone().unwrap_or_default();
        let image = self
            .find_image(&config.image)
            .await
            .map_err(|error| with_tag(&config.image, error))?;
        check_platform(&request.platform, &config.image, &image)?;
        merge::merge(&mut config, &image.config.config)?;
        settings::adapt(&mut config, &mut host, &self.config.containers);
        let warnings = validate::validate(&mut config, &mut host, &request.domainname)?;
        self.check_remap(&host)?;
        self.resolve_shared(&mut host)?;
        self.resolve_network_mode(&mut host)?;
        self.fill_defaults(&mut host)?;
        super::etc_files::check_hosts(&config.hosts)?;
        let listed = (request.networks.as_slice(), is_task);
        let mut wanted_networks = self.wanted_networks(&host, &config, listed).await?;
        self.resolve_wishes(&mut host, &mut wanted_networks)?;
        let exposed_ports = exposed(&request, &image);
        let id = id::generate();
        config.hostname = match self.sharing(&host) {
            Some(other) => other.read(|record| record.config().hostname),
            None => network::hostname(&id, &config, &host),
        };
        let mut undo = Undo::default();
        let name = if request.name.is_empty() {
            self.containers.reserve_generated(&id)
        } else {
            let name = name::validate(&request.name)?;
            self.containers.reserve(name, &id)?;
            name.to_owned()
        };
        let taken = (self.clone(), name.clone(), id.clone());
        undo.push("give the name back", async move {
            let (engine, name, id) = taken;
            engine.containers.release(&name, &id);
            Ok::<(), Error>(())
        });
        let planned = Box::pin(self.plan_mounts(&id, (&config, &host), &image, &mut undo)).await;
        let planned = match planned {
            Ok(planned) => planned,
            Err(error) => {
                undo.run(&id).await;
                return Err(error);
            }
        };
        let mut record = Record {
            view: Some(self.first_view(
                &id,
                Settings {
                    name,
                    config,
                    host,
                    exposed_ports,
                },
                &image,
            )),
            stdin_once: request.stdin_once,
            domainname: request.domainname.clone(),
            wanted_networks,
            mounts: planned.mounts,
            ..Record::default()
        };
        record.view_mut().networks = record.wanted_networks.clone();
        record.view_mut().mounts = planned.points;
        record.view_mut().volumes = planned.volumes;
        show_request(record.view_mut(), request);
        match self.make(record, image, &mut undo).await {
            Ok(()) => Ok(CreateContainerResponse { id, warnings }),
            Err(error) => {
                undo.run(&id).await;
                Err(error)
            }
        }
    }

    /// What is made on disk: the folder with the record, and the root file system.
    async fn make(
        self: &Arc<Self>,
        record: Record,
        image: pontoon_image::Image,
        undo: &mut Undo,
    ) -> Result<()> {
        let id = record.view().id.clone();
        let dir = self.container_dir(&id);
        let (images, gone, unmade) = (self.images.clone(), dir.clone(), id.clone());
        // Each may be missing: these also run when making them failed.
        undo.push(
            "remove the container's folder",
            remove_folder(gone, self.stop.clone()),
        );
        undo.push("remove the container's root file system", async move {
            blocking(move || images.remove_rootfs(&unmade).map_err(Error::Image)).await
        });
        let (images, wanted) = (self.images.clone(), id.clone());
        let container = Arc::new(Container::new(record.clone(), dir.clone(), self.shim_dir(&id)));
        // Only a container that outlives its end has to survive a power failure right after its creation.
        let durable = !record.host().auto_remove;
        let (mounts, host) = (record.mounts.clone(), record.host());
        let home = dir.clone();
        blocking(move || {
            make_dir(&home)?;
            images
                .prepare_rootfs(&wanted, &image)
                .map_err(Error::Image)
                .map(drop)
        })
        .await?;
        Box::pin(self.fill_volumes(&id, host, &mounts)).await?;
        blocking(move || record.save(&dir, durable)).await?;
        self.containers.insert(container);
        self.emit(&id, ContainerEventKind::Created);
        Ok(())
    }

    /// Finds an image by name or id.
    pub(crate) async fn find_image(&self, name: &str) -> Result<pontoon_image::Image> {
        let (images, name) = (self.images.clone(), name.to_owned());
        blocking(move || images.get(&name).map_err(|error| Error::image(&name, error))).await
    }

    fn fill_defaults(&self, host: &mut HostConfig) -> Result<()> {
        if host.runtime.is_empty() {
            host.runtime.clone_from(&self.config.default_runtime);
        }
        if host.runtime != NATIVE_RUNTIME && !self.config.runtimes.contains_key(&host.runtime) {
            return Err(Error::Invalid(format!(
                "unknown or invalid runtime name: {}",
                host.runtime
            )));
        }
        let log = host.log.get_or_insert_default();
        logs::fill_defaults(log, &self.config.log);
        logs::validate(log)
    }

    fn first_view(&self, id: &str, settings: Settings, image: &pontoon_image::Image) -> v1::Container {
        let Settings {
            name,
            config,
            mut host,
            exposed_ports,
        } = settings;
        if host.network_mode.is_empty() {
            "default".clone_into(&mut host.network_mode);
        }
        if host.publish_all_ports && !host.network_mode.starts_with("container:") {
            publish_all(&mut host, &exposed_ports);
        }
        let mut command = config.command.iter().chain(&config.args).cloned();
        let dir = self.container_dir(id);
        let file = |name: &str| dir.join(name).display().to_string();
        let has_check = super::health::is_enabled(&config);
        v1::Container {
            id: id.to_owned(),
            name,
            created_at: id::now(),
            image: config.image.clone(),
            image_id: image.id.to_string(),
            path: command.next().unwrap_or_default(),
            args: command.collect(),
            host: Some(host),
            state: ContainerState::Created.into(),
            health: has_check.then(|| v1::Health {
                state: HealthState::Starting.into(),
                ..v1::Health::default()
            }),
            exposed_ports,
            hostname_path: file("hostname"),
            hosts_path: file("hosts"),
            resolv_conf_path: file("resolv.conf"),
            platform: "linux".to_owned(),
            driver: self.images.storage().0.to_owned(),
            config: Some(config),
            ..v1::Container::default()
        }
    }
}

/// What `inspect` shows of a request as it came.
fn show_request(view: &mut v1::Container, request: CreateContainerRequest) {
    view.domainname = request.domainname;
    view.stdin_once = request.stdin_once;
    view.attach_stdin = request.attach_stdin;
    view.attach_stdout = request.attach_stdout;
    view.attach_stderr = request.attach_stderr;
}

/// Says the missing image's whole name, as Docker does at creation: `box` is box:latest.
fn with_tag(name: &str, error: Error) -> Error {
    let last = name.rsplit('/').next().unwrap_or_default();
    match error {
        Error::NoSuchImage(_) if !last.contains([':', '@']) => Error::NoSuchImage(format!("{name}:latest")),
        other => other,
    }
}

/// Refuses an image that is for other machines than the ones asked for; the words are Docker's.
fn check_platform(wanted: &str, name: &str, image: &pontoon_image::Image) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let wanted = settings::Platform::parse(wanted)?;
    let own = settings::Platform {
        os: image.config.os.clone(),
        architecture: image.config.architecture.clone(),
        variant: image.config.variant.clone().unwrap_or_default(),
    };
    if wanted.accepts(&own) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "image with reference {name} was found but its platform ({own}) does not match the specified platform ({wanted})"
    )))
}

fn exposed(request: &CreateContainerRequest, image: &pontoon_image::Image) -> Vec<String> {
    let mut ports: Vec<String> = image.config.config.exposed_ports.iter().cloned().collect();
    ports.extend(request.exposed_ports.iter().cloned());
    let bound = request.host.iter().flat_map(|host| &host.port_bindings);
    ports.extend(bound.map(|port| {
        format!(
            "{}/{}",
            port.container_port,
            super::filter::protocol(port.protocol())
        )
    }));
    for port in &mut ports {
        if !port.contains('/') {
            port.push_str("/tcp");
        }
    }
    ports.sort();
    ports.dedup();
    ports
}

fn publish_all(host: &mut HostConfig, exposed: &[String]) {
    for port in exposed {
        let Some((number, protocol)) = port.split_once('/') else {
            continue;
        };
        let (Ok(number), Some(protocol)) = (number.parse::<u32>(), parse_protocol(protocol)) else {
            continue;
        };
        let bound = host
            .port_bindings
            .iter()
            .any(|binding| binding.container_port == number && binding.protocol() == protocol);
        if !bound {
            host.port_bindings.push(PortBinding {
                protocol: protocol.into(),
                container_port: number,
                ..PortBinding::default()
            });
        }
    }
}

fn parse_protocol(name: &str) -> Option<PortProtocol> {
    match name {
        "tcp" => Some(PortProtocol::Tcp),
        "udp" => Some(PortProtocol::Udp),
        "sctp" => Some(PortProtocol::Sctp),
        _ => None,
    }
}
