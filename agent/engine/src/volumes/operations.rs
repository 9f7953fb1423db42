//! The operations behind `volume create|ls|inspect|rm|prune`. Called by `grpc` and by the agent.

use std::collections::HashMap;
use std::sync::Arc;

use pontoon_proto::v1::{self, CreateVolumeRequest, FilterValues, PruneResponse, RemoveVolumeRequest};

use super::filter::Filters;
use super::store::Wish;
use super::{LOCAL, tree};
use crate::engine::blocking;
use crate::event::EventObject;
use crate::{Engine, Error, Result};

impl Engine {
    /// Makes a volume; one that has this name already is given as it is.
    ///
    /// # Errors
    /// [`Error::Invalid`]: a bad name, another driver than `local`, bad options.
    pub async fn create_volume(self: &Arc<Self>, request: CreateVolumeRequest) -> Result<v1::Volume> {
        let engine = self.clone();
        self.whole(async move {
            blocking(move || {
                let is_new = request.name.is_empty() || engine.volumes.get(&request.name).is_err();
                let volume = engine.volumes.create(
                    &Wish {
                        name: request.name,
                        driver: request.driver,
                        options: request.options,
                        labels: request.labels,
                    },
                    None,
                )?;
                if is_new {
                    engine.volume_created(&volume.name);
                }
                Ok(unmeasured(volume.view()))
            })
            .await
        })
        .await
    }

    /// Volumes that meet all filters, by name.
    ///
    /// # Errors
    /// [`Error::Invalid`]: an unknown filter.
    pub fn list_volumes(&self, filters: &HashMap<String, FilterValues>) -> Result<Vec<v1::Volume>> {
        let filters = Filters::for_list(filters)?;
        let dangling = filters.switch();
        Ok(self
            .volumes
            .all()
            .into_iter()
            .filter(|(_, containers)| dangling.is_none_or(|wanted| containers.is_empty() == wanted))
            .map(|(volume, _)| unmeasured(volume.view()))
            .filter(|view| filters.matches(view))
            .collect())
    }

    /// One volume.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`].
    pub fn inspect_volume(&self, name: &str) -> Result<v1::Volume> {
        self.volumes.get(name).map(|volume| unmeasured(volume.view()))
    }

    /// Removes a volume that no container has.
    ///
    /// # Errors
    /// [`Error::NoSuchVolume`] without `force`, [`Error::Conflict`] while containers have it.
    pub async fn remove_volume(self: &Arc<Self>, request: RemoveVolumeRequest) -> Result<()> {
        let engine = self.clone();
        self.whole(async move {
            blocking(move || match engine.volumes.remove(&request.name) {
                Ok(()) => {
                    engine.volume_destroyed(&request.name);
                    Ok(())
                }
                Err(Error::NoSuchVolume(_)) if request.force => Ok(()),
                Err(error) => Err(error),
            })
            .await
        })
        .await
    }

    /// Removes volumes that no container has: the anonymous ones, or with the filter `all` every one.
    ///
    /// # Errors
    /// [`Error::Invalid`]: an unknown filter. A volume that can't be removed is logged and left.
    pub async fn prune_volumes(
        self: &Arc<Self>,
        filters: HashMap<String, FilterValues>,
    ) -> Result<PruneResponse> {
        let filters = Filters::for_prune(&filters)?;
        let engine = self.clone();
        self.whole(async move { blocking(move || Ok(engine.prune_volumes_now(&filters))).await })
            .await
    }

    fn prune_volumes_now(&self, filters: &Filters) -> PruneResponse {
        let mut pruned = PruneResponse::default();
        for (volume, containers) in self.volumes.all() {
            let view = volume.view();
            let wanted = view.anonymous || filters.switch() == Some(true);
            if !wanted || !containers.is_empty() || !filters.matches(&view) {
                continue;
            }
            let size = tree::size(&volume.path()).unwrap_or_default();
            match self.volumes.remove(&volume.name) {
                Ok(()) => {
                    self.volume_destroyed(&volume.name);
                    pruned.deleted.push(view.name);
                    pruned.space_reclaimed += size;
                }
                // Somebody uses or has removed it meanwhile.
                Err(Error::Conflict(_) | Error::NoSuchVolume(_)) => {}
                Err(error) => {
                    tracing::warn!(
                        volume = volume.name,
                        error = error.chain(),
                        "could not prune a volume"
                    );
                }
            }
        }
        self.emit_pruned(EventObject::Volume, pruned.space_reclaimed);
        pruned
    }

    /// A container is removed: its claim on volumes ends, and with `anonymous` those that nobody named go, unless another
    /// container has them. What fails is logged, as in Docker: the container is removed all the same.
    pub(crate) async fn release_volumes(
        self: &Arc<Self>,
        container: &str,
        planned: Vec<super::PlannedMount>,
        anonymous: bool,
    ) -> Result<()> {
        if planned.is_empty() {
            return Ok(());
        }
        let (engine, container) = (self.clone(), container.to_owned());
        blocking(move || {
            for mount in planned.iter().filter(|mount| !mount.volume.is_empty()) {
                engine.release_volume(&container, mount, anonymous)?;
            }
            for mount in planned
                .iter()
                .filter(|mount| !mount.rootfs.is_empty() && !mount.is_borrowed)
            {
                if super::holder(&mount.rootfs) == container {
                    engine.images.remove_rootfs(&mount.rootfs).map_err(Error::Image)?;
                }
            }
            engine.volumes.forget(&container);
            Ok(())
        })
        .await
    }

    fn release_volume(&self, container: &str, mount: &super::PlannedMount, anonymous: bool) -> Result<()> {
        let Ok(volume) = self.volumes.get(&mount.volume) else {
            return Ok(());
        };
        if !anonymous || !mount.is_anonymous() {
            // It stays: a daemon that starts again must not take it for one whose creation was cut short.
            let is_new = volume.read(|record| record.made_for == container);
            // One that was deleted by hand has no record to be changed.
            if is_new && volume.path().exists() {
                volume.update(|record| record.made_for.clear())?;
            }
            return Ok(());
        }
        self.volumes.forget_one(&mount.volume, container);
        match self.volumes.remove(&mount.volume) {
            Ok(()) => self.volume_destroyed(&mount.volume),
            Err(Error::Conflict(_) | Error::NoSuchVolume(_)) => {}
            Err(error) => {
                tracing::warn!(
                    container,
                    error = error.chain(),
                    "could not remove a container's volume"
                );
            }
        }
        Ok(())
    }

    /// A container's process is there: tells watchers of its volumes.
    pub(crate) fn volumes_mounted(&self, container: &str, planned: &[super::PlannedMount]) {
        for mount in planned.iter().filter(|mount| !mount.volume.is_empty()) {
            let attributes = [
                ("driver", LOCAL.to_owned()),
                ("container", container.to_owned()),
                ("destination", mount.target().display().to_string()),
                ("read/write", (!mount.wanted().read_only).to_string()),
                ("propagation", String::new()),
            ];
            self.emit_object(EventObject::Volume, "mount", &mount.volume, attributes);
        }
    }

    /// A container has no process any more, or never got one: its volumes are not used by it, those of drivers are unmounted.
    pub(crate) async fn give_volumes_back(&self, container: &str) {
        let (volumes, user) = (self.volumes.clone(), container.to_owned());
        let used = blocking(move || Ok(volumes.end_all_uses(&user))).await;
        for volume in used.unwrap_or_default() {
            let attributes = [("driver", LOCAL.to_owned()), ("container", container.to_owned())];
            self.emit_object(EventObject::Volume, "unmount", &volume, attributes);
        }
    }

    /// Tells watchers of a new volume.
    pub(super) fn volume_created(&self, name: &str) {
        self.emit_object(
            EventObject::Volume,
            "create",
            name,
            [("driver", LOCAL.to_owned())],
        );
    }

    /// Tells watchers that a volume is gone.
    pub(super) fn volume_destroyed(&self, name: &str) {
        self.emit_object(
            EventObject::Volume,
            "destroy",
            name,
            [("driver", LOCAL.to_owned())],
        );
    }
}

/// Size and count are told only where they are asked for.
fn unmeasured(view: v1::Volume) -> v1::Volume {
    v1::Volume {
        size: -1,
        ref_count: -1,
        ..view
    }
}
