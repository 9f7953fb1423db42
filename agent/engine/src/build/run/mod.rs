//! RUN: a snapshot of the tree, the mounts, the program, and what it changed as a layer. Nothing of secrets, agents and mount points
//! stays in the layer.
//!
//! - `mounts`: what `--mount` asks for; `stubs`: what of mount points must not stay

mod mounts;
mod stubs;

use std::path::Path;
use std::sync::Arc;

use pontoon_build::plan::{Network, Run};
use pontoon_image::{LayerOptions, Stack};
use pontoon_proto::v1::{ContainerSpec, HostConfig, Resources};
use tokio::sync::mpsc;

use super::progress::Begun;
use super::{Build, Failure, Outcome};
use crate::container::step::{Ended, StepSpec};
use crate::engine::{blocking, make_dir};
use crate::error::IoContext;
use crate::stdio::StdStream;
use crate::{Error, id};
use mounts::Held;

/// The host name of steps, as BuildKit's: it must not tell where a build ran.
const HOSTNAME: &str = "buildkitsandbox";
/// Pieces of output that wait for the client.
const OUTPUT: usize = 16;

impl Build {
    /// Runs a step; gives the tree with its changes.
    pub(super) async fn run(self: &Arc<Self>, run: &Run, base: &Stack, begun: &Begun) -> Outcome<Stack> {
        self.check_allowed(run)?;
        let step = id::generate();
        let files = self.run_dir.join(id::short(&step));
        make_dir(&files)?;
        let mut held = Held::default();
        let made = self.run_in(run, base, begun, (&step, &files), &mut held).await;
        drop(held.agents);
        let (images, snapshots) = (self.engine.images.clone(), held.snapshots);
        let cleaned = blocking(move || {
            for snapshot in snapshots.into_iter().chain([step]) {
                images.remove_rootfs(&snapshot).map_err(Error::Image)?;
            }
            std::fs::remove_dir_all(&files).context(|| format!("remove {}", files.display()))
        })
        .await;
        if let Err(error) = cleaned {
            tracing::warn!(
                error = error.chain(),
                "could not clean up after a step of a build"
            );
        }
        made
    }

    fn check_allowed(&self, run: &Run) -> Outcome<()> {
        let allowed = |what: &str| self.start.allow.iter().any(|given| given == what);
        if run.network == Network::Host && !allowed("network.host") {
            return Err(Failure::new("network.host is not allowed"));
        }
        if run.is_insecure && !allowed("security.insecure") {
            return Err(Failure::new("security.insecure is not allowed"));
        }
        Ok(())
    }

    async fn run_in(
        self: &Arc<Self>,
        run: &Run,
        base: &Stack,
        begun: &Begun,
        (step, files): (&str, &Path),
        held: &mut Held,
    ) -> Outcome<Stack> {
        let (images, id, below) = (self.engine.images.clone(), step.to_owned(), base.clone());
        let rootfs = blocking(move || images.snapshot(&id, &below).map_err(Error::Image)).await?;
        for (number, mount) in run.mounts.iter().enumerate() {
            self.mount(mount, number, (step, files), held).await?;
        }
        let stubs = self.stubs(base, &held.mounted).await?;
        let (output, mut lines) = mpsc::channel(OUTPUT);
        let spec = StepSpec {
            id: step.to_owned(),
            rootfs: rootfs.clone(),
            config: self.config(run, &held.env),
            host: self.host(run),
            mounts: std::mem::take(&mut held.mounted),
            dir: files.to_owned(),
        };
        let running = self.engine.run_step(spec, output, &self.stop);
        let telling = async {
            while let Some((stream, bytes)) = lines.recv().await {
                let stream = if stream == StdStream::Stderr { 2 } else { 1 };
                begun.log(stream, bytes).await;
            }
        };
        let (ended, ()) = tokio::join!(running, telling);
        match ended {
            Ok(Ended::Code(0)) => {}
            Ok(Ended::Code(code)) => return Err(unsuccessful(run, code, begun)),
            Ok(Ended::Cancelled) => return Err(Failure::cancelled()),
            Err(Error::Start { code, message }) if code != 125 => {
                let advice = match message.to_lowercase().contains("exec format error") {
                    true => {
                        ": a program for another platform needs an emulator that is registered with binfmt_misc"
                    }
                    false => "",
                };
                begun.log(2, format!("{message}{advice}\n").into()).await;
                return Err(unsuccessful(run, code, begun));
            }
            Err(error) => return Err(error.into()),
        }
        let (images, id, below) = (self.engine.images.clone(), step.to_owned(), base.clone());
        let latest = self.epoch();
        let made = blocking(move || {
            stubs::remove(&rootfs, &stubs)?;
            let options = LayerOptions {
                latest,
                ..LayerOptions::default()
            };
            images
                .layer_of_snapshot(&id, &below, &options)
                .map_err(Error::Image)
        })
        .await?;
        Ok(made)
    }

    fn config(&self, run: &Run, more: &[String]) -> ContainerSpec {
        ContainerSpec {
            args: run.args.clone(),
            hostname: HOSTNAME.into(),
            env: [&run.proxy, &run.env, more].map(<[String]>::to_vec).concat(),
            dir: run.dir.clone(),
            user: run.user.clone(),
            ulimits: self.start.ulimits.clone(),
            hosts: self.start.hosts.clone(),
            ..ContainerSpec::default()
        }
    }

    fn host(&self, run: &Run) -> HostConfig {
        let start = &self.start;
        let mode = match run.network {
            Network::Bridge => "default",
            Network::None => "none",
            Network::Host => "host",
        };
        HostConfig {
            network_mode: mode.into(),
            privileged: run.is_insecure,
            shm_size: start.shm_size,
            cgroup_parent: start.cgroup_parent.clone(),
            memory_swap: start.memory_swap,
            cpu_shares: start.cpu_shares,
            cpu_period: start.cpu_period,
            cpu_quota: start.cpu_quota,
            cpuset_cpus: start.cpuset_cpus.clone(),
            cpuset_mems: start.cpuset_mems.clone(),
            resources: Some(Resources {
                memory_bytes: start.memory,
                ..Resources::default()
            }),
            ..HostConfig::default()
        }
    }
}

fn unsuccessful(run: &Run, code: i32, begun: &Begun) -> Failure {
    let words = run.args.join(" ");
    Failure {
        exit_code: code,
        output: begun.tail(),
        step: begun.name.clone(),
        ..Failure::new(format!(
            "process \"{words}\" did not complete successfully: exit code: {code}"
        ))
    }
}
