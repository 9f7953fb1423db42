//! From a container's wishes to its mounts: `--volumes-from` first, then `-v`, `--mount` and `--tmpfs`, at last the image's
//! volumes where nothing is mounted yet. Volumes are made here and counted; content comes later (`content`). What is planned
//! is kept in the container's record; at each start [`Engine::use_mounts`] makes it ready.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pontoon_image::Image;
use pontoon_proto::v1::{
    ContainerSpec, HostConfig, Mount, MountPoint, MountSyntax, MountType, VolumeOptions,
};
use prost::Message;

use super::store::Wish;
use super::{LOCAL, check, from, propagation};
use crate::engine::blocking;
use crate::error::IoContext;
use crate::spec::mounts::{Mounted, Origin};
use crate::undo::Undo;
use crate::{Engine, Error, Result};

/// One mount of a container, kept in its record.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PlannedMount {
    /// As asked for. The source of an anonymous volume is empty.
    #[prost(message, optional, tag = "1")]
    pub wanted: Option<Mount>,
    /// Name of the volume.
    #[prost(string, tag = "2")]
    pub volume: String,
    /// Under which the layers of a mounted image are held in the image store.
    #[prost(string, tag = "3")]
    pub rootfs: String,
    /// Another container's.
    #[prost(bool, tag = "4")]
    pub is_borrowed: bool,
    /// The image asks for it, or a `-v` without a source: `inspect` shows no mode.
    #[prost(bool, tag = "5")]
    pub is_implied: bool,
}

impl PlannedMount {
    /// As asked for.
    pub(crate) fn wanted(&self) -> Mount {
        self.wanted.clone().unwrap_or_default()
    }

    /// Where, without `.`, `..` and needless slashes.
    pub(crate) fn target(&self) -> PathBuf {
        clean(self.wanted.as_ref().map_or("", |mount| mount.target.as_str()))
    }

    fn kind(&self) -> MountType {
        self.wanted.as_ref().map_or(MountType::Bind, Mount::r#type)
    }

    /// It has a volume that nobody named: `rm -v` takes that along.
    pub(crate) fn is_anonymous(&self) -> bool {
        !self.volume.is_empty() && self.wanted.as_ref().is_none_or(|mount| mount.source.is_empty())
    }

    /// An image's content belongs into its volume, if that is empty.
    pub(super) fn takes_content(&self) -> bool {
        let no_copy = |mount: &Mount| mount.volume.as_ref().is_some_and(|options| options.no_copy);
        !self.volume.is_empty() && !self.is_borrowed && !self.wanted.as_ref().is_some_and(no_copy)
    }

    /// The folder in the volume that is mounted.
    pub(super) fn subpath(&self) -> &str {
        let mount = self.wanted.as_ref();
        match self.kind() {
            MountType::Image => mount.map_or("", |mount| mount.image_subpath.as_str()),
            _ => mount
                .and_then(|mount| mount.volume.as_ref())
                .map_or("", |options| options.subpath.as_str()),
        }
    }

    /// As `inspect` shows it; `mountpoint` is the volume's folder. `--tmpfs` is shown elsewhere.
    fn point(&self, mountpoint: impl FnOnce(&str) -> String) -> Option<MountPoint> {
        let mount = self.wanted.as_ref()?;
        let mut point = MountPoint {
            r#type: mount.r#type,
            destination: self.target().display().to_string(),
            mode: mount.mode.clone(),
            read_write: !mount.read_only,
            ..MountPoint::default()
        };
        match mount.r#type() {
            MountType::Bind => {
                point.source.clone_from(&mount.source);
                point.propagation = match mount.propagation.as_str() {
                    "" => "rprivate".to_owned(),
                    mode => mode.to_owned(),
                };
            }
            MountType::Volume => {
                point.name.clone_from(&self.volume);
                point.source = mountpoint(&self.volume);
                LOCAL.clone_into(&mut point.driver);
                if point.mode.is_empty() && !self.is_implied {
                    // Docker relabels volumes for sharing, and shows that also where there are no labels.
                    "z".clone_into(&mut point.mode);
                }
            }
            MountType::Image => {
                point.name.clone_from(&mount.source);
                point.read_write = false;
            }
            MountType::Tmpfs if mount.syntax() == MountSyntax::Tmpfs => return None,
            MountType::Tmpfs => {}
        }
        Some(point)
    }
}

/// What became of a container's wishes.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// In the order of planning.
    pub mounts: Vec<PlannedMount>,
    /// The same as `inspect` shows them.
    pub points: Vec<MountPoint>,
    /// `Config.Volumes`: paths that are volumes by the image or by `-v` without a source.
    pub volumes: Vec<String>,
}

/// A path inside a container without `.`, `..` and needless slashes.
pub(crate) fn clean(path: &str) -> PathBuf {
    pontoon_runtime::clean_path(path)
}

/// `-v /path`: Docker counts it with the image's volumes.
pub(super) fn is_anonymous_flag(mount: &Mount) -> bool {
    mount.syntax() == MountSyntax::Volume && mount.r#type() == MountType::Volume && mount.source.is_empty()
}

impl Engine {
    /// Plans a new container's mounts and makes the volumes that are missing. The settings have been checked.
    ///
    /// # Errors
    /// A container, volume or image is not there, or a volume can't be made; `undo` knows what was made until then.
    pub(crate) async fn plan_mounts(
        self: &Arc<Self>,
        id: &str,
        (config, host): (&ContainerSpec, &HostConfig),
        image: &Image,
        undo: &mut Undo,
    ) -> Result<Plan> {
        let mut planned = from::mounts(&self.containers, &host.volumes_from)?;
        for mount in config.mounts.iter().filter(|mount| !is_anonymous_flag(mount)) {
            let target = clean(&mount.target);
            planned.retain(|known| known.target() != target);
            planned.push(PlannedMount {
                wanted: Some(mount.clone()),
                ..PlannedMount::default()
            });
        }
        let flags = config.mounts.iter().filter(|mount| is_anonymous_flag(mount));
        let implied: Vec<(String, Mount)> = image
            .config
            .config
            .volumes
            .iter()
            .map(|path| (path.clone(), volume_at(path)))
            .chain(flags.map(|mount| (mount.target.clone(), mount.clone())))
            .collect();
        let mut volumes = Vec::new();
        for (path, mount) in implied {
            let target = clean(&path);
            if target == Path::new("/") {
                return Err(Error::Invalid(
                    "invalid specification: destination can't be '/'".to_owned(),
                ));
            }
            volumes.push(path);
            if planned.iter().all(|known| known.target() != target) {
                planned.push(PlannedMount {
                    wanted: Some(mount),
                    is_implied: true,
                    ..PlannedMount::default()
                });
            }
        }
        volumes.sort();
        volumes.dedup();
        self.make_volumes(id, host, &mut planned, undo).await?;
        self.hold_images(id, &mut planned, undo).await?;
        let mountpoint = |name: &str| {
            self.volumes
                .get(name)
                .map_or_else(|_| String::new(), |v| v.path().display().to_string())
        };
        Ok(Plan {
            points: planned
                .iter()
                .filter_map(|mount| mount.point(mountpoint))
                .collect(),
            mounts: planned,
            volumes,
        })
    }

    async fn make_volumes(
        self: &Arc<Self>,
        id: &str,
        host: &HostConfig,
        planned: &mut Vec<PlannedMount>,
        undo: &mut Undo,
    ) -> Result<()> {
        if planned.iter().all(|mount| mount.kind() != MountType::Volume) {
            return Ok(());
        }
        let (volumes, container) = (self.volumes.clone(), id.to_owned());
        undo.push("remove the container's new volumes", async move {
            blocking(move || volumes.abandon(&container)).await
        });
        let engine = self.clone();
        let (container, host, mut mounts) = (id.to_owned(), host.clone(), std::mem::take(planned));
        *planned = blocking(move || {
            for mount in mounts
                .iter_mut()
                .filter(|mount| mount.kind() == MountType::Volume)
            {
                engine.make_volume(&container, &host, mount)?;
            }
            Ok(mounts)
        })
        .await?;
        Ok(())
    }

    fn make_volume(&self, container: &str, host: &HostConfig, mount: &mut PlannedMount) -> Result<()> {
        if !mount.volume.is_empty() {
            return self.volumes.refer(&mount.volume, container).map(drop);
        }
        let wanted = mount.wanted();
        let options = wanted.volume.clone().unwrap_or_default();
        let is_new = self.volumes.get(&wanted.source).is_err();
        let volume = self.volumes.create(
            &Wish {
                driver: check::driver(&wanted, host).to_owned(),
                name: wanted.source,
                options: options.driver_options,
                labels: options.labels,
            },
            Some(container),
        )?;
        if is_new {
            self.volume_created(&volume.name);
        }
        mount.volume.clone_from(&volume.name);
        Ok(())
    }

    /// Makes a container's mounts ready for its start.
    ///
    /// # Errors
    /// A bind's source or a volume's folder is missing, a volume can't be mounted; `undo` ends what was begun.
    pub(crate) async fn use_mounts(
        self: &Arc<Self>,
        id: &str,
        planned: Vec<PlannedMount>,
        undo: &mut Undo,
    ) -> Result<Vec<Mounted>> {
        if planned.is_empty() {
            return Ok(Vec::new());
        }
        let (engine, container) = (self.clone(), id.to_owned());
        undo.push("give the volumes back", async move {
            engine.give_volumes_back(&container).await;
            Ok::<(), Error>(())
        });
        let (engine, id) = (self.clone(), id.to_owned());
        blocking(move || {
            let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").context(|| "read mountinfo")?;
            planned
                .iter()
                .map(|mount| {
                    let origin = engine.origin(&id, mount, &mountinfo)?;
                    Ok(Mounted {
                        wanted: mount.wanted(),
                        target: mount.target(),
                        subpath: mount.subpath().to_owned(),
                        origin,
                    })
                })
                .collect()
        })
        .await
    }

    fn origin(&self, container: &str, mount: &PlannedMount, mountinfo: &str) -> Result<Origin> {
        let wanted = mount.wanted();
        Ok(match wanted.r#type() {
            MountType::Bind => {
                make_source(&wanted)?;
                propagation::check(&wanted, mountinfo)?;
                Origin::Path(PathBuf::from(wanted.source))
            }
            MountType::Volume => {
                let volume = self.volumes.get(&mount.volume)?;
                let path = volume.begin_use(container)?;
                // From now on it holds what the user put there.
                if volume.read(|record| !record.made_for.is_empty()) {
                    volume.update(|record| record.made_for.clear())?;
                }
                Origin::Path(path)
            }
            MountType::Tmpfs => Origin::Nothing,
            MountType::Image => {
                let rootfs = self.images.rootfs(&mount.rootfs).map_err(Error::Image)?;
                super::image::origin(&rootfs)
            }
        })
    }
}

/// Makes the folder that a bind is to find, as `run -v` does.
fn make_source(mount: &Mount) -> Result<()> {
    let source = Path::new(&mount.source);
    if !mount.create_source || source.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(source).map_err(|error| {
        Error::Invalid(format!(
            "error while creating mount source path '{0}': mkdir {0}: {1}",
            mount.source,
            check::go_text(&error)
        ))
    })
}

/// An image's volume.
fn volume_at(path: &str) -> Mount {
    Mount {
        r#type: MountType::Volume.into(),
        target: clean(path).display().to_string(),
        volume: Some(VolumeOptions::default()),
        syntax: MountSyntax::Volume.into(),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, clean_path) in [
            ("/a//b/", "/a/b"),
            ("a/./b", "/a/b"),
            ("/a/../../b", "/b"),
            ("/..", "/"),
        ] {
            assert_eq!(clean(path), Path::new(clean_path));
        }
    }

    #[test]
    fn points_are_dockers() {
        let mut mount = PlannedMount {
            wanted: Some(Mount {
                r#type: MountType::Volume.into(),
                source: "data".into(),
                target: "/data/".into(),
                ..Mount::default()
            }),
            volume: "data".into(),
            ..PlannedMount::default()
        };
        let point = mount.point(|name| format!("/volumes/{name}/_data")).unwrap();
        assert_eq!(
            (
                point.mode.as_str(),
                point.destination.as_str(),
                point.driver.as_str()
            ),
            ("z", "/data", "local")
        );
        assert_eq!(
            (point.source.as_str(), point.read_write),
            ("/volumes/data/_data", true)
        );
        assert!(!mount.is_anonymous() && mount.takes_content());
        mount.is_implied = true;
        mount.is_borrowed = true;
        mount.wanted.as_mut().unwrap().source.clear();
        assert_eq!(mount.point(|_| String::new()).unwrap().mode, "");
        assert!(mount.is_anonymous() && !mount.takes_content());
    }
}
