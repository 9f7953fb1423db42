//! A program that runs once in a root file system without being a container: the steps of builds. It has the same isolation,
//! limits and network as a container, but no record, no name and no log: what a daemon that was killed leaves of it belongs to no
//! container and goes at the next start. Called by `crate::build`.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use pontoon_image::Rootfs;
use pontoon_proto::v1::{self, ContainerSpec, HostConfig};
use pontoon_runtime::{AttachOptions, Attachment, ShimClient};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::record::Record;
use super::start::resolve_user;
use super::{Container, settings, validate};
use crate::engine::{blocking, make_dir, remove_folder};
use crate::spec::mounts::Mounted;
use crate::spec::namespaces::Joined;
use crate::stdio::StdStream;
use crate::undo::Undo;
use crate::{Engine, Error, Result, spec};

/// What runs.
pub(crate) struct StepSpec {
    /// 64 hexadecimal digits; also the id of its root file system.
    pub id: String,
    /// Its root file system.
    pub rootfs: Rootfs,
    /// Program, variables, user.
    pub config: ContainerSpec,
    /// Limits and network.
    pub host: HostConfig,
    /// What is mounted.
    pub mounts: Vec<Mounted>,
    /// A folder of the caller's for its `/etc/hosts` and the like.
    pub dir: PathBuf,
}

/// What a program writes.
pub(crate) type Output = mpsc::Sender<(StdStream, Bytes)>;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With this exit code.
    Code(i32),
    /// It was killed because the caller gave up.
    Cancelled,
}

impl Engine {
    /// Runs a program to its end. Nothing of it is left then, whatever happened; the root file system stays.
    pub(crate) async fn run_step(
        self: &Arc<Self>,
        spec: StepSpec,
        output: Output,
        stop: &CancellationToken,
    ) -> Result<Ended> {
        let mut undo = Undo::default();
        let id = spec.id.clone();
        let ended = Box::pin(self.step_to_end(spec, output, stop, &mut undo)).await;
        undo.run(&id).await;
        ended
    }

    async fn step_to_end(
        self: &Arc<Self>,
        step: StepSpec,
        output: Output,
        stop: &CancellationToken,
        undo: &mut Undo,
    ) -> Result<Ended> {
        let StepSpec {
            id,
            rootfs,
            config,
            host,
            mounts,
            dir,
        } = step;
        let record = self.step_record(&id, config, host).await?;
        let container = Container::new(record.clone(), dir, self.shim_dir(&id));
        let connected = self.connect(&container, &record, undo).await?;
        let config = record.config();
        let (images, looked) = (self.images.clone(), rootfs.clone());
        let (name, groups) = (config.user.clone(), config.groups.clone());
        let user = blocking(move || resolve_user(&images, &looked, &name, &groups)).await?;
        let remap = self.remap(&record.host());
        if let Some(remap) = remap {
            super::start::own_files(&connected.files, remap.root())?;
        }
        let run_dir = container.run_dir.clone();
        undo.push(
            "remove the shim's folder",
            remove_folder(run_dir.clone(), self.stop.clone()),
        );
        let mount_point = run_dir.join("rootfs");
        make_dir(&mount_point)?;
        let shim_config = self.shim_config(&container, &record, rootfs, mount_point)?;
        let cgroup = self.step_cgroup(&id, &record.host());
        let oci = spec::build(&spec::Inputs {
            config: &config,
            host: &record.host(),
            user: &user,
            dir: &connected.files,
            mounts: &mounts,
            rootfs: &shim_config.rootfs_path,
            netns: connected.netns.clone(),
            hostname: &config.hostname,
            domainname: "",
            cgroup,
            joined: &Joined::default(),
            defaults: &self.config.containers,
            remap,
        })?;
        undo.push("remove the step's processes", async move {
            pontoon_runtime::destroy(&run_dir).await
        });
        if stop.is_cancelled() {
            return Ok(Ended::Cancelled);
        }
        let shim = ShimClient::spawn(&shim_config, &oci).await.map_err(failed)?;
        let streams = AttachOptions {
            stdin: false,
            stdout: true,
            stderr: true,
        };
        let attachment = shim.attach(streams).await.map_err(failed)?;
        shim.start().await.map_err(failed)?;
        carry_out(&shim, attachment, output, stop).await
    }

    /// Settings made complete, as a container's are.
    async fn step_record(&self, id: &str, mut config: ContainerSpec, mut host: HostConfig) -> Result<Record> {
        settings::adapt(&mut config, &mut host, &self.config.containers);
        validate::validate(&mut config, &mut host, "")?;
        self.check_remap(&host)?;
        if host.runtime.is_empty() {
            host.runtime.clone_from(&self.config.default_runtime);
        }
        let log = host.log.get_or_insert_default();
        "none".clone_into(&mut log.name);
        let wanted_networks = self.wanted_networks(&host, &config, (&[], false)).await?;
        if let Some(overlay) = wanted_networks.iter().find(|n| n.from_cluster) {
            return Err(Error::Invalid(format!(
                "network {} is an overlay: a build's steps can't join it",
                overlay.network
            )));
        }
        Ok(Record {
            view: Some(v1::Container {
                id: id.to_owned(),
                name: id.to_owned(),
                host: Some(host),
                config: Some(config),
                ..v1::Container::default()
            }),
            wanted_networks,
            ..Record::default()
        })
    }

    fn step_cgroup(&self, id: &str, host: &HostConfig) -> PathBuf {
        let parent = match host.cgroup_parent.trim_matches('/') {
            "" => self.config.cgroup_parent.trim_matches('/'),
            own => own,
        };
        PathBuf::from("/").join(parent).join(id)
    }
}

fn failed(error: pontoon_runtime::Error) -> Error {
    match error {
        pontoon_runtime::Error::Exec { code, message } => Error::Start { code, message },
        other => Error::Start {
            code: 125,
            message: other.chain(),
        },
    }
}

/// Carries output until the program has ended.
async fn carry_out(
    shim: &ShimClient,
    attachment: Attachment,
    output: Output,
    stop: &CancellationToken,
) -> Result<Ended> {
    let (mut reader, _writer) = attachment.split();
    let reading = async {
        while let Ok(Some((stream, bytes))) = reader.next().await {
            if output.send((stream, bytes)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = stop.cancelled() => {
            if let Err(error) = shim.kill(crate::signal::KILL, true).await {
                tracing::debug!(error = error.chain(), "a step has ended by itself");
            }
            let _ = shim.wait().await;
            return Ok(Ended::Cancelled);
        }
    }
    tokio::select! {
        exit = shim.wait() => {
            let exit = exit.map_err(|error| Error::runtime("wait for a step", error))?;
            Ok(Ended::Code(exit.code))
        }
        () = stop.cancelled() => {
            shim.kill(crate::signal::KILL, true).await.ok();
            let _ = shim.wait().await;
            Ok(Ended::Cancelled)
        }
    }
}
