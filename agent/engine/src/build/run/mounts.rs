//! What `RUN --mount` asks for, made ready: files of trees, folders of the cache, secrets, agents, scripts.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pontoon_build::dockerfile::Sharing;
use pontoon_build::plan::{MountOf, Rights, RunMount, Tree};
use pontoon_proto::v1::{self, MountType};
use tokio::sync::OwnedMutexGuard;
use tokio_util::task::AbortOnDropHandle;

use crate::build::cache::InUse;
use crate::build::solve::Tree as Made;
use crate::build::{Build, Failure, Outcome};
use crate::engine::{blocking, make_dir};
use crate::error::IoContext;
use crate::spec::mounts::{Mounted, Origin};
use crate::{Error, Result};

/// What a step's mounts hold until it has ended.
#[derive(Default)]
pub(super) struct Held {
    pub(super) mounted: Vec<Mounted>,
    pub(super) env: Vec<String>,
    /// Snapshots that mounts are made of.
    pub(super) snapshots: Vec<String>,
    pub(super) agents: Vec<AbortOnDropHandle<()>>,
    locks: Vec<OwnedMutexGuard<()>>,
    in_use: Vec<InUse>,
}

impl Build {
    /// Makes one mount ready.
    pub(super) async fn mount(
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
        if let (Made::Folder(context), true) = (&found, read_only) {
            let copy = self.dir.join(format!("mounted-{}", tree.unwrap_or_default()));
            return Ok(Origin::Path(context.path_for_mounts(copy).await?.join(&path)));
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
