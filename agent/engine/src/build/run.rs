//! RUN: a snapshot of the tree, the mounts, the program, and what it changed as a layer. Nothing of secrets, agents and mount points
//! stays in the layer.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pontoon_build::dockerfile::Sharing;
use pontoon_build::plan::{MountOf, Network, Rights, Run, RunMount, Tree};
use pontoon_image::{LayerOptions, Rootfs, Stack};
use pontoon_proto::v1::{self, ContainerSpec, HostConfig, MountType, Resources};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::cache::InUse;
use super::progress::Begun;
use super::solve::Tree as Made;
use super::{Build, Failure, Outcome};
use crate::container::step::{Ended, StepSpec};
use crate::engine::{blocking, make_dir};
use crate::error::IoContext;
use crate::spec::mounts::{Mounted, Origin};
use crate::stdio::StdStream;
use crate::{Error, Result, id};

/// The host name of steps, as BuildKit's: it must not tell where a build ran.
const HOSTNAME: &str = "buildkitsandbox";
/// Pieces of output that wait for the client.
const OUTPUT: usize = 16;

/// What a step's mounts hold until it has ended.
#[derive(Default)]
struct Held {
    mounted: Vec<Mounted>,
    env: Vec<String>,
    /// Snapshots that mounts are made of.
    snapshots: Vec<String>,
    agents: Vec<AbortOnDropHandle<()>>,
    locks: Vec<OwnedMutexGuard<()>>,
    in_use: Vec<InUse>,
}

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
                begun.log(2, format!("{message}\n").into()).await;
                return Err(unsuccessful(run, code, begun));
            }
            Err(error) => return Err(error.into()),
        }
        let (images, id, below) = (self.engine.images.clone(), step.to_owned(), base.clone());
        let latest = self.epoch();
        let made = blocking(move || {
            remove_stubs(&rootfs, &stubs)?;
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

    /// Makes one mount ready.
    async fn mount(
        self: &Arc<Self>,
        mount: &RunMount,
        number: usize,
        (step, files): (&str, &Path),
        held: &mut Held,
    ) -> Outcome<()> {
        let path = files.join(format!("m{number}"));
        match &mount.what {
            MountOf::Bind {
                tree,
                source,
                read_only,
            } => {
                let snapshot = format!("{step}-{number}");
                let origin = self.bind(*tree, source, *read_only, snapshot, held).await?;
                held.mounted.push(mounted(&mount.target, origin, *read_only));
            }
            MountOf::Cache { .. } => self.cache_mount(mount, held).await?,
            MountOf::Tmpfs { size } => {
                let mut tmpfs = mounted(&mount.target, Origin::Nothing, false);
                tmpfs.wanted.r#type = MountType::Tmpfs.into();
                tmpfs.wanted.tmpfs_size = i64::try_from(*size).unwrap_or(i64::MAX);
                held.mounted.push(tmpfs);
            }
            MountOf::Secret { .. } => self.secret(mount, &path, held)?,
            MountOf::Ssh {
                id,
                is_required,
                rights,
            } => {
                if !self.start.ssh.contains(id) {
                    if *is_required {
                        return Err(Failure::new(format!(
                            "no SSH key \"{id}\" forwarded from the client"
                        )));
                    }
                    return Ok(());
                }
                let served = self.agents.serve(id, &path, *rights, self.reporter.clone())?;
                held.agents.push(served);
                let target = match mount.target.as_str() {
                    "" => format!("/run/buildkit/ssh_agent.{number}"),
                    target => target.to_owned(),
                };
                held.env.push(format!("SSH_AUTH_SOCK={target}"));
                held.mounted.push(mounted(&target, Origin::Path(path), false));
            }
            MountOf::Script { name, data } => {
                make_dir(&path)?;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
                    .context(|| "make a script")?;
                write_file(&path.join(name), data.as_bytes(), Rights::default(), 0o755)?;
                held.mounted
                    .push(mounted(&mount.target, Origin::Path(path), true));
            }
        }
        Ok(())
    }

    fn secret(&self, mount: &RunMount, path: &Path, held: &mut Held) -> Outcome<()> {
        let MountOf::Secret {
            id,
            env,
            is_required,
            rights,
        } = &mount.what
        else {
            return Ok(());
        };
        let Some(secret) = self.start.secrets.iter().find(|secret| secret.id == *id) else {
            if *is_required {
                return Err(Failure::new(format!("secret {id}: not found")));
            }
            return Ok(());
        };
        if let Some(name) = env {
            held.env
                .push(format!("{name}={}", String::from_utf8_lossy(&secret.data)));
        }
        if !mount.target.is_empty() {
            write_file(path, &secret.data, *rights, 0o400)?;
            let origin = Origin::Path(path.to_owned());
            held.mounted.push(mounted(&mount.target, origin, true));
        }
        Ok(())
    }

    /// Files of a context or stage as a mount. The kernel can't mount a part of a stack of layers: that is copied.
    async fn bind(
        self: &Arc<Self>,
        tree: Tree,
        source: &str,
        read_only: bool,
        snapshot: String,
        held: &mut Held,
    ) -> Outcome<Origin> {
        let found = self.made(tree).await?;
        let (path, is_folder) = self.locate(&found, source).await?;
        if let (Made::Folder(dir), true) = (&found, read_only) {
            return Ok(Origin::Path(dir.join(&path)));
        }
        let is_writable_context = matches!(found, Made::Folder(_)) && !read_only;
        if !path.as_os_str().is_empty() || is_writable_context {
            let copy = self.dir.join(format!("bind-{snapshot}"));
            make_dir(&copy)?;
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&copy, mode).context(|| "copy files for a mount")?;
            self.copy_out(&found, &path.display().to_string(), &copy).await?;
            return Ok(Origin::Path(match path.file_name() {
                Some(name) if !is_folder => copy.join(name),
                _ => copy,
            }));
        }
        let Made::Stack(stack, _) = found else {
            return Err(Failure::cancelled());
        };
        held.snapshots.push(snapshot.clone());
        let images = self.engine.images.clone();
        let rootfs = blocking(move || images.snapshot(&snapshot, &stack).map_err(Error::Image)).await?;
        Ok(match (rootfs.image_layers(), read_only) {
            ([only], true) => Origin::Path(only.clone()),
            (layers, true) => Origin::Layers(layers.to_vec()),
            (_, false) if rootfs.is_tree => Origin::Path(rootfs.upper.clone()),
            (layers, false) => Origin::Writable {
                lower: layers.to_vec(),
                upper: rootfs.upper.clone(),
                work: rootfs.work.clone(),
            },
        })
    }

    /// Where a source is, links followed; one that is not there is told as BuildKit tells it.
    async fn locate(&self, made: &Made, source: &str) -> Outcome<(PathBuf, bool)> {
        let (tree, source) = (self.look(made).await?, source.to_owned());
        let found = blocking(move || {
            let resolved = tree
                .resolve(source.as_bytes())
                .context(|| format!("read {source}"))?;
            match resolved.node {
                Some(node) => Ok((PathBuf::from(OsStr::from_bytes(&resolved.path)), node.is_dir())),
                None => Err(Error::Files(format!(
                    "failed to compute cache key: \"{source}\": not found"
                ))),
            }
        });
        Ok(found.await?)
    }

    async fn cache_mount(self: &Arc<Self>, mount: &RunMount, held: &mut Held) -> Outcome<()> {
        let MountOf::Cache {
            id,
            sharing,
            read_only,
            from,
            source,
            rights,
        } = &mount.what
        else {
            return Ok(());
        };
        let cache = self.engine.build_cache.clone();
        if *sharing == Sharing::Locked {
            let lock = cache.lock_of(id).lock_owned();
            tokio::select! {
                guard = lock => held.locks.push(guard),
                () = self.stop.cancelled() => return Err(Failure::cancelled()),
            }
        }
        let (in_use, path, is_new) = cache.mount(id, *sharing == Sharing::Private)?;
        held.in_use.push(in_use);
        let data = path.join("data");
        if is_new || !data.exists() {
            let given = rights.unwrap_or_default();
            make_dir(&data)?;
            let mode = std::fs::Permissions::from_mode(given.mode.unwrap_or(0o755));
            let what = || format!("make {}", data.display());
            std::fs::set_permissions(&data, mode).context(what)?;
            std::os::unix::fs::chown(&data, Some(given.uid), Some(given.gid)).context(what)?;
            if from.is_some() {
                let made = self.made(*from).await?;
                self.copy_out(&made, source, &data).await?;
            }
        }
        held.mounted
            .push(mounted(&mount.target, Origin::Path(data), *read_only));
        Ok(())
    }

    /// Mount points and the folders on the way: the runtime makes what is missing, and that must not become part of the layer.
    async fn stubs(&self, base: &Stack, mounts: &[Mounted]) -> Result<Vec<Stub>> {
        let (images, base) = (self.engine.images.clone(), base.clone());
        let targets: Vec<PathBuf> = mounts.iter().map(|mount| mount.target.clone()).collect();
        blocking(move || {
            let tree = images.tree(&base).map_err(Error::Image)?;
            let failed = || "look for mount points";
            let mut paths = Vec::new();
            for target in targets {
                let path = tree.resolve(target.as_os_str().as_bytes()).context(failed)?.path;
                let ends = path
                    .iter()
                    .enumerate()
                    .filter(|(_, b)| **b == b'/')
                    .map(|(at, _)| at);
                paths.extend(ends.chain([path.len()]).map(|end| path[..end].to_vec()));
            }
            // The deepest first.
            paths.sort_by_key(|path| (std::cmp::Reverse(path.len()), path.clone()));
            paths.dedup();
            let stub = |path: Vec<u8>| {
                let before = tree.get(&path).context(failed)?;
                Ok(Stub {
                    before: before.map(|node| rights_of(&node.stat)),
                    path,
                })
            };
            paths.into_iter().map(stub).collect()
        })
        .await
    }
}

/// A path on the way to a mount, and what it was before.
struct Stub {
    path: Vec<u8>,
    before: Option<(u32, u32, u32)>,
}

fn rights_of(stat: &rustix::fs::Stat) -> (u32, u32, u32) {
    (stat.st_mode, stat.st_uid, stat.st_gid)
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

fn mounted(target: &str, origin: Origin, read_only: bool) -> Mounted {
    let wanted = v1::Mount {
        r#type: MountType::Bind.into(),
        target: target.to_owned(),
        read_only,
        ..v1::Mount::default()
    };
    Mounted {
        wanted,
        target: target.into(),
        subpath: String::new(),
        origin,
    }
}

fn write_file(path: &Path, data: &[u8], rights: Rights, mode: u32) -> Result<()> {
    let what = || format!("write {}", path.display());
    std::fs::write(path, data).context(what)?;
    let mode = rights.mode.unwrap_or(mode);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).context(what)?;
    std::os::unix::fs::chown(path, Some(rights.uid), Some(rights.gid)).context(what)
}

/// Takes mount points out of what the step has written: empty files and folders that were not there, and folders that are as they were.
fn remove_stubs(rootfs: &Rootfs, stubs: &[Stub]) -> Result<()> {
    for stub in stubs {
        let path = rootfs.upper.join(OsStr::from_bytes(&stub.path));
        // A link in the way is the program's; it is not followed.
        let mut above = path.ancestors().skip(1).take_while(|dir| *dir != rootfs.upper);
        let Ok(stat) = rustix::fs::lstat(&path) else {
            continue;
        };
        if above.any(Path::is_symlink) || stub.before.is_some_and(|before| before != rights_of(&stat)) {
            continue;
        }
        let mut mark = [0; 1];
        let is_opaque = rustix::fs::lgetxattr(&path, "trusted.overlay.opaque", &mut mark).is_ok();
        match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            // Folders with something in them stay. In a tree of its own one that was there before is no copy of it.
            rustix::fs::FileType::Directory if stub.before.is_none() || !is_opaque && !rootfs.is_tree => {
                let _ = std::fs::remove_dir(&path);
            }
            rustix::fs::FileType::RegularFile if stat.st_size == 0 && stub.before.is_none() => {
                std::fs::remove_file(&path).context(|| format!("remove {}", path.display()))?;
            }
            _ => {}
        }
    }
    Ok(())
}
