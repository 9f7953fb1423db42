//! `start`: network and specification are made, the shim is spawned, clients that wait are joined to it, the program runs.
//! A failure at any step takes back what was made before, and is recorded in the container.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pontoon_image::{Rootfs, User};
use pontoon_proto::v1::{ContainerState, HealthState};
use pontoon_runtime::{RuntimeKind, ShimClient, ShimConfig};

use super::network::Connected;
use super::record::Record;
use super::{Container, health, supervise};
use crate::config::NATIVE_RUNTIME;
use crate::engine::{blocking, make_dir, remove_folder};
use crate::error::IoContext;
use crate::event::ContainerEventKind;
use crate::spec::namespaces::PidMode;
use crate::stdio::Joined;
use crate::undo::Undo;
use crate::{Engine, Error, Result, id, logs, spec};

impl Engine {
    /// Starts a container. One that runs already is left alone.
    ///
    /// # Errors
    /// [`Error::Start`] with 126 or 127 when its program could not be executed; any error leaves nothing running.
    pub async fn start(self: &Arc<Self>, target: &str) -> Result<()> {
        let container = self.containers.find(target)?;
        let engine = self.clone();
        self.whole(async move { engine.start_now(&container).await })
            .await
    }

    async fn start_now(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let operation = container.operation.lock().await;
        match container.state() {
            ContainerState::Running => return Ok(()),
            ContainerState::Paused => {
                return Err(Error::Conflict(
                    "cannot start a paused container, try unpause instead".to_owned(),
                ));
            }
            ContainerState::Removing | ContainerState::Dead => {
                return Err(Error::Conflict(
                    "container is marked for removal and cannot be started".to_owned(),
                ));
            }
            ContainerState::Created | ContainerState::Restarting | ContainerState::Exited => {}
        }
        if let Some(backoff) = container.live().restart.take() {
            backoff.cancel();
        }
        container.update(|record| {
            record.stopped_by_user = false;
            record.view_mut().restart_count = 0;
        })?;
        let started = self.launch(container).await;
        drop(operation);
        if started.is_err() && container.read(|record| record.host().auto_remove) {
            self.remove_quietly(container).await;
        }
        started
    }

    /// Runs a container whose operation lock the caller holds.
    pub(crate) async fn launch(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _files = container.gate.close().await;
        self.release(container).await;
        let mut undo = Undo::default();
        container.live().held = true;
        let Err(error) = self.launch_steps(container, &mut undo).await else {
            return Ok(());
        };
        undo.run(&container.id).await;
        {
            let mut live = container.live();
            live.shim = None;
            live.held = false;
            // Clients that wait for the streams are told by the drop.
            live.pending.clear();
        }
        let (code, text) = (error.exit_code(), error.chain());
        let recorded = container.update(|record| {
            let view = record.view_mut();
            let state = if view.started_at == 0 {
                ContainerState::Created
            } else {
                ContainerState::Exited
            };
            view.set_state(state);
            view.exit_code = code;
            view.error = text;
            view.pid = 0;
        });
        if let Err(failure) = recorded {
            tracing::warn!(
                container = container.id,
                error = failure.chain(),
                "could not record a failed start"
            );
        }
        Err(error)
    }

    async fn launch_steps(self: &Arc<Self>, container: &Arc<Container>, undo: &mut Undo) -> Result<()> {
        let record = container.record();
        let joined = self.join_namespaces(container, &record, undo).await?;
        let mounts = self
            .use_mounts(&container.id, record.mounts.clone(), undo)
            .await?;
        self.volumes_mounted(&container.id, &record.mounts);
        let (connected, rootfs) = tokio::join!(
            self.connect(container, &record, undo),
            self.rootfs_and_user(&record)
        );
        let (connected, (rootfs, user)) = (connected?, rootfs?);
        let remap = self.remap(&record.host());
        if let Some(remap) = remap {
            own_files(&connected.files, remap.root())?;
        }
        let run_dir = container.run_dir.clone();
        let gone = run_dir.clone();
        // Missing when the step below failed.
        undo.push("remove the shim's folder", remove_folder(gone, self.stop.clone()));
        let mount_point = run_dir.join("rootfs");
        make_dir(&mount_point)?;
        let shim_config = self.shim_config(container, &record, rootfs, mount_point)?;
        let mut config = record.config();
        config.env.extend(connected.env.iter().cloned());
        let oci = spec::build(&spec::Inputs {
            config: &config,
            host: &record.host(),
            user: &user,
            dir: &connected.files,
            mounts: &mounts,
            rootfs: &shim_config.rootfs_path,
            netns: connected.netns.clone(),
            hostname: &record.config().hostname,
            domainname: &record.domainname,
            cgroup: self.cgroup(&container.id),
            joined: &joined,
            defaults: &self.config.containers,
            remap,
        })?;
        undo.push("remove the container's processes", async move {
            pontoon_runtime::destroy(&run_dir).await
        });
        let shim = ShimClient::spawn(&shim_config, &oci)
            .await
            .map_err(|error| match error {
                pontoon_runtime::Error::Exec { code, message } => Error::Start { code, message },
                other => Error::Start {
                    code: 125,
                    message: other.chain(),
                },
            })?;
        check_limits(&record, &shim)?;
        join_pending(container, &shim).await;
        shim.start().await.map_err(|error| match error {
            pontoon_runtime::Error::Exec { code, message } => Error::Start { code, message },
            other => Error::Start {
                code: 125,
                message: other.chain(),
            },
        })?;
        self.started(container, shim, connected);
        Ok(())
    }

    /// The program runs: records it and begins to look after it.
    fn started(self: &Arc<Self>, container: &Arc<Container>, shim: ShimClient, connected: Connected) {
        for warning in shim.warnings() {
            tracing::warn!(
                container = container.id,
                warning,
                "container started without a limit"
            );
        }
        let pid = shim.pid();
        let recorded = container.update_started(|record| {
            let has_check = health::is_enabled(&record.config());
            let log = record.host().log.unwrap_or_default();
            let view = record.view_mut();
            view.log_path = logs::shown_path(&log, &container.dir, &container.id);
            view.set_state(ContainerState::Running);
            view.pid = pid;
            view.started_at = id::now();
            view.exit_code = 0;
            view.oom_killed = false;
            view.error.clear();
            view.sandbox_key = connected
                .netns
                .map(|path| path.display().to_string())
                .unwrap_or_default();
            let file = |name: &str| connected.files.join(name).display().to_string();
            view.hosts_path = file("hosts");
            view.hostname_path = file("hostname");
            view.resolv_conf_path = file("resolv.conf");
            view.networks = connected.networks;
            view.ports = connected.ports;
            view.health = has_check.then(|| pontoon_proto::v1::Health {
                state: HealthState::Starting.into(),
                ..pontoon_proto::v1::Health::default()
            });
        });
        if let Err(error) = recorded {
            // It runs all the same; a restarted daemon finds the shim.
            tracing::warn!(
                container = container.id,
                error = error.chain(),
                "could not record a start"
            );
        }
        self.emit(&container.id, ContainerEventKind::Started);
        supervise::spawn(self, container, shim);
    }

    async fn rootfs_and_user(self: &Arc<Self>, record: &Record) -> Result<(Rootfs, User)> {
        let images = self.images.clone();
        let id = record.view().id.clone();
        let config = record.config();
        blocking(move || {
            let rootfs = images.rootfs(&id).map_err(Error::Image)?;
            let user = resolve_user(&images, &rootfs, &config.user, &config.groups)?;
            Ok((rootfs, user))
        })
        .await
    }

    pub(super) fn shim_config(
        &self,
        container: &Container,
        record: &Record,
        rootfs: Rootfs,
        rootfs_path: PathBuf,
    ) -> Result<ShimConfig> {
        let host = record.host();
        let config = record.config();
        let runtime = match host.runtime.as_str() {
            NATIVE_RUNTIME => RuntimeKind::Native,
            name => RuntimeKind::External(
                self.config
                    .runtimes
                    .get(name)
                    .cloned()
                    .ok_or_else(|| Error::Invalid(format!("unknown or invalid runtime name: {name}")))?,
            ),
        };
        Ok(ShimConfig {
            id: container.id.clone(),
            dir: container.run_dir.clone(),
            rootfs: crate::images::mount_of(rootfs),
            rootfs_path,
            runtime,
            tty: config.tty,
            open_stdin: config.open_stdin,
            stdin_once: record.stdin_once,
            log: logs::shim_config(record, &container.dir, &self.config.journal)?,
            seccomp_cache: self.config.run_dir.join("seccomp"),
            init: config.init && PidMode::parse(&host.pid_mode)? == PidMode::Own,
        })
    }

    /// Path of a container's cgroup below each hierarchy.
    pub(crate) fn cgroup(&self, id: &str) -> PathBuf {
        let own = self
            .containers
            .find(id)
            .map(|container| container.read(|record| record.host().cgroup_parent))
            .unwrap_or_default();
        let parent = match own.trim_matches('/') {
            "" => self.config.cgroup_parent.trim_matches('/').to_owned(),
            own => own.to_owned(),
        };
        Path::new("/").join(parent).join(id)
    }

    /// Gives back what a container that has no process any more still holds. The caller has its operation lock.
    /// Collects errors in the log and goes on.
    pub(crate) async fn release(&self, container: &Container) {
        if !std::mem::take(&mut container.live().held) {
            return;
        }
        self.remove_shm(&container.id);
        if let Err(errors) = self.network.remove_sandbox(&container.id).await {
            tracing::warn!(container = container.id, %errors, "could not remove the sandbox");
        }
        // Only now: an address is others' when nothing here has it any more.
        self.detach_cluster(container, None).await;
        self.give_volumes_back(&container.id).await;
        let removed = remove_folder(container.run_dir.clone(), self.stop.clone());
        if let Err(error) = removed.await {
            tracing::warn!(
                container = container.id,
                error = error.chain(),
                "could not remove the shim's folder"
            );
        }
    }
}

/// The files that are bound into a container belong to its root.
pub(super) fn own_files(dir: &Path, (uid, gid): (u32, u32)) -> Result<()> {
    for name in ["resolv.conf", "hosts", "hostname"] {
        let path = dir.join(name);
        std::os::unix::fs::chown(&path, Some(uid), Some(gid))
            .context(|| format!("change the owner of {}", path.display()))?;
    }
    Ok(())
}

/// A real-time budget that the kernel refuses is an error, as with Docker: the program would be run with less than was asked for.
fn check_limits(record: &Record, shim: &ShimClient) -> Result<()> {
    let host = record.host();
    let refused = shim
        .warnings()
        .iter()
        .find(|warning| warning.starts_with("cpu.rt_"));
    match refused.filter(|_| host.cpu_rt_period != 0 || host.cpu_rt_runtime != 0) {
        Some(warning) => Err(Error::Start {
            code: 125,
            message: warning.clone(),
        }),
        None => Ok(()),
    }
}

/// Who a process runs as: the image's files decide, `groups` come on top.
pub(crate) fn resolve_user(
    images: &pontoon_image::ImageStore,
    rootfs: &Rootfs,
    user: &str,
    groups: &[String],
) -> Result<User> {
    let invalid = |error: pontoon_image::Error| match error {
        error @ pontoon_image::Error::UnknownUser { .. } => Error::Invalid(error.to_string()),
        other => Error::Image(other),
    };
    let mut resolved = images.resolve_user(rootfs, user).map_err(invalid)?;
    for group in groups {
        let gid = images.resolve_group(rootfs, group).map_err(invalid)?;
        if !resolved.additional_gids.contains(&gid) {
            resolved.additional_gids.push(gid);
        }
    }
    // Without it a group that a file denies could be left by setgid programs (CVE-2022-36109).
    if !resolved.additional_gids.contains(&resolved.gid) {
        resolved.additional_gids.insert(0, resolved.gid);
    }
    Ok(resolved)
}

/// Hands the streams to clients that attached before the start; from here on they attach directly.
async fn join_pending(container: &Container, shim: &ShimClient) {
    let pending = {
        let mut live = container.live();
        live.shim = Some(shim.clone());
        std::mem::take(&mut live.pending)
    };
    for client in pending {
        match shim.attach(client.options).await {
            // A client that has gone meanwhile needs no streams.
            Ok(attachment) => drop(client.joined.send(Joined {
                shim: shim.clone(),
                attachment,
            })),
            Err(error) => {
                tracing::warn!(
                    container = container.id,
                    error = error.chain(),
                    "could not attach a client"
                );
            }
        }
    }
}
