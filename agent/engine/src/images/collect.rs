//! Garbage collection by disk pressure: when the file system of the images is fuller than the high mark, what broken-off pulls have
//! left, build cache, and then the images that were not used for the longest time go, until it is no fuller than the low mark. Never what a container or an
//! assigned task uses. Off unless the daemon is told the marks.
//!
//! The agent says which images its tasks are to run ([`Engine::set_task_images`]); what is under way (a pull, a load, a build) holds
//! its content itself.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pontoon_image::{ImageId, ListOptions};
use pontoon_proto::v1::{FilterValues, MountType, PruneRequest, PruneResponse};

use super::prune::Unused;
use crate::engine::blocking;
use crate::{Engine, Error, Result, id};

/// When images are collected.
#[derive(Clone, Debug)]
pub struct ImageGc {
    /// From this percentage of use on images go.
    pub high: u8,
    /// Until it is no more than this.
    pub low: u8,
    /// Time between two looks at the disk.
    pub every: Duration,
    /// Images that were used in this time stay: somebody may just be about to make a container.
    pub min_age: Duration,
}

impl ImageGc {
    /// Marks in percent.
    ///
    /// # Errors
    /// Marks that make no sense.
    pub fn new(high: u8, low: u8) -> Result<Self> {
        if !(1..=100).contains(&high) || low >= high {
            return Err(Error::Invalid(format!(
                "the low mark ({low} %) must be below the high mark ({high} %), and that between 1 and 100"
            )));
        }
        Ok(Self {
            high,
            low,
            every: Duration::from_secs(10),
            min_age: Duration::from_secs(60),
        })
    }
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// The file system was fuller than the high mark.
    pub was_full: bool,
    /// Names that were taken away and images that went, as `image prune` tells them.
    pub removed: Vec<String>,
    /// Bytes that are free now.
    pub freed: u64,
    /// It is still fuller than the low mark: what is left is in use.
    pub still_full: bool,
}

/// How full a file system is, as df(1) counts it: what only root may use is not there.
#[derive(Clone, Copy, Debug)]
struct Fill {
    used: u64,
    total: u64,
}

impl Fill {
    fn of(folder: &Path) -> Result<Self> {
        let stat = rustix::fs::statvfs(folder).map_err(|errno| Error::Io {
            what: format!("read the file system of {}", folder.display()),
            source: errno.into(),
        })?;
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        Ok(Self {
            used: used.saturating_mul(stat.f_frsize),
            total: used.saturating_add(stat.f_bavail).saturating_mul(stat.f_frsize),
        })
    }

    fn mark(self, percent: u8) -> u64 {
        u64::try_from(u128::from(self.total) * u128::from(percent) / 100).unwrap_or(u64::MAX)
    }

    fn is_at(self, percent: u8) -> bool {
        self.used >= self.mark(percent)
    }

    /// Bytes above a mark.
    fn above(self, percent: u8) -> u64 {
        self.used.saturating_sub(self.mark(percent))
    }
}

impl Engine {
    /// Looks at the disk again and again, until the engine stops.
    pub(crate) fn watch_disk(self: &Arc<Self>) {
        let Some(gc) = self.config.image_gc.clone() else {
            return;
        };
        let (engine, stop) = (Arc::downgrade(self), self.stop.clone());
        self.tasks.spawn(async move {
            let mut told = false;
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(gc.every) => {}
                }
                let Some(engine) = engine.upgrade() else { return };
                match engine.collect_images().await {
                    Ok(collected) => {
                        // Once, not at every look.
                        if collected.still_full && !told {
                            tracing::warn!(
                                "the disk is fuller than the low mark, and all images that are left are in use"
                            );
                        }
                        told = collected.still_full;
                    }
                    Err(_) if stop.is_cancelled() => return,
                    Err(error) => tracing::warn!(error = error.chain(), "could not look after the disk"),
                }
            }
        });
    }

    /// One look at the disk: collects if it is too full. Does nothing without marks.
    ///
    /// # Errors
    /// The file system or the images can't be looked at. An image that can't be removed is left and logged.
    pub async fn collect_images(self: &Arc<Self>) -> Result<Collected> {
        let Some(gc) = self.config.image_gc.clone() else {
            return Ok(Collected::default());
        };
        let engine = self.clone();
        self.whole(async move { engine.collect(&gc).await }).await
    }

    async fn collect(self: &Arc<Self>, gc: &ImageGc) -> Result<Collected> {
        let folder = self.images_folder();
        let used = self.images_held().await?;
        let fill = Fill::of(&folder)?;
        let mut collected = Collected::default();
        if !fill.is_at(gc.high) {
            return Ok(collected);
        }
        collected.was_full = true;
        let wanted = fill.above(gc.low);
        tracing::info!(
            used = fill.used,
            total = fill.total,
            "the disk is full: removing images"
        );
        // Some file systems free space later than they answer: what should be free counts as well.
        let is_enough =
            |freed: u64| -> Result<bool> { Ok(freed >= wanted || Fill::of(&folder)?.above(gc.low) == 0) };
        let (images, age) = (self.images.clone(), gc.min_age);
        collected.freed = blocking(move || images.drop_partial_blobs(age).map_err(Error::Image)).await?;
        if !is_enough(collected.freed)? {
            self.collect_cache(wanted, &mut collected).await?;
        }
        for image in self.idle_images(used, gc.min_age).await? {
            if is_enough(collected.freed)? {
                return Ok(collected);
            }
            // A container or task may have come meanwhile.
            if self.images_held().await?.contains(&image.id) {
                continue;
            }
            let before = self.images_size().await?;
            let mut response = PruneResponse::default();
            self.prune_image(image, &mut response).await;
            collected.freed += before.saturating_sub(self.images_size().await?);
            for line in &response.deleted {
                tracing::info!("the disk is full: {line}");
            }
            collected.removed.extend(response.deleted);
        }
        collected.still_full = !is_enough(collected.freed)?;
        Ok(collected)
    }

    /// Build cache, the longest unused first, as far as it is needed. What builds use stays.
    async fn collect_cache(self: &Arc<Self>, wanted: u64, collected: &mut Collected) -> Result<()> {
        let records = self.build_cache_records().await?;
        let total: u64 = records.iter().map(|record| record.size.unsigned_abs()).sum();
        let filter = |value: String| FilterValues { values: vec![value] };
        let mut filters = HashMap::from([("all".to_owned(), filter("true".to_owned()))]);
        let keep = total.saturating_sub(wanted.saturating_sub(collected.freed));
        if keep > 0 {
            filters.insert("keep-storage".to_owned(), filter(keep.to_string()));
        }
        let pruned = self.prune_build_cache(PruneRequest { filters }).await?;
        collected.freed += pruned.space_reclaimed;
        for id in pruned.deleted {
            tracing::info!("the disk is full: build cache {id} deleted");
            collected.removed.push(format!("build cache: {id}"));
        }
        Ok(())
    }

    /// Where the store of the driver in use is.
    fn images_folder(&self) -> PathBuf {
        let (driver, _) = self.images.storage();
        self.config.data_dir.join(pontoon_image::folder_of(driver))
    }

    /// Images that a container was made from or mounts, or that an assigned task is to run. Those of containers count as used now.
    async fn images_held(self: &Arc<Self>) -> Result<HashSet<ImageId>> {
        let mut of_containers: BTreeSet<String> = self.images_in_use().into_keys().collect();
        for container in self.containers.all() {
            container.read(|record| {
                let images = record.mounts.iter().filter_map(|mount| mount.wanted.as_ref());
                let images = images.filter(|wanted| wanted.r#type() == MountType::Image);
                of_containers.extend(images.map(|wanted| wanted.source.clone()));
            });
        }
        let engine = self.clone();
        blocking(move || {
            let mut held: HashSet<ImageId> = engine.task_images().into_iter().collect();
            for image in of_containers
                .iter()
                .filter_map(|name| engine.images.get(name).ok())
            {
                engine.images.touch(&image.id);
                held.insert(image.id);
            }
            Ok(held)
        })
        .await
    }

    /// What may go, the longest unused first.
    async fn idle_images(&self, held: HashSet<ImageId>, min_age: Duration) -> Result<Vec<Unused>> {
        let images = self.images.clone();
        let limit = id::now().saturating_sub(i64::try_from(min_age.as_nanos()).unwrap_or(i64::MAX));
        blocking(move || {
            let listed = images.list(&ListOptions::default()).map_err(Error::Image)?;
            let mut idle: Vec<(i64, ImageId)> = listed
                .iter()
                .filter(|summary| !held.contains(&summary.id))
                .map(|summary| (images.last_used(&summary.id), summary.id))
                .filter(|(used, _)| *used <= limit)
                .collect();
            idle.sort_unstable();
            let image = |(_, id): (i64, ImageId)| images.get(&id.to_string()).ok();
            Ok(idle.into_iter().filter_map(image).map(Unused::of).collect())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::{Fill, ImageGc};

    #[test]
    fn marks_are_checked_and_counted() {
        for (high, low) in [(0, 0), (50, 50), (50, 60), (101, 10)] {
            assert!(ImageGc::new(high, low).is_err(), "{high} {low}");
        }
        let gc = ImageGc::new(85, 80).unwrap();
        let fill = |used| Fill { used, total: 1000 };
        assert!(!fill(849).is_at(gc.high) && fill(850).is_at(gc.high));
        assert_eq!(fill(850).above(gc.low), 50);
        assert_eq!(fill(700).above(gc.low), 0);
    }
}
