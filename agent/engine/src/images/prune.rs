//! `image prune`: removes images without a tag, or all that no container was made from (moby `ImagesPrune`).

use std::sync::Arc;

use pontoon_image::{Image, ImageId, ListOptions, RemoveOptions, Removed};
use pontoon_proto::v1::{PruneRequest, PruneResponse};

use crate::container::prune::PruneFilters;
use crate::engine::blocking;
use crate::event::EventObject;
use crate::{Engine, Error, Result};

/// An image that goes, unless somebody takes it into use meanwhile.
pub(super) struct Unused {
    pub(super) id: ImageId,
    /// Its names; none: the id is removed.
    names: Vec<String>,
}

impl Unused {
    pub(super) fn of(image: Image) -> Self {
        Self {
            id: image.id,
            names: [image.repo_tags, image.repo_digests].concat(),
        }
    }
}

impl Engine {
    /// Removes images without a tag; with `dangling=false` also those with one. Images of containers, running or not,
    /// stay.
    ///
    /// # Errors
    /// A filter that makes no sense. An image that can't be removed is left and logged.
    pub async fn prune_images(self: &Arc<Self>, request: &PruneRequest) -> Result<PruneResponse> {
        let mut given = request.filters.clone();
        let dangling = given.remove("dangling");
        let dangling = match dangling
            .as_ref()
            .and_then(|list| list.values.last())
            .map(String::as_str)
        {
            None | Some("true" | "1") => true,
            Some("false" | "0") => false,
            Some(other) => return Err(Error::Invalid(format!("invalid filter 'dangling={other}'"))),
        };
        let filters = PruneFilters::new(&given)?;
        let engine = self.clone();
        self.whole(async move {
            let unused = engine.unused_images(dangling, filters).await?;
            let mut response = PruneResponse::default();
            let before = engine.images_size().await?;
            for image in unused {
                engine.prune_image(image, &mut response).await;
            }
            response.space_reclaimed = before.saturating_sub(engine.images_size().await?);
            engine.emit_pruned(EventObject::Image, response.space_reclaimed);
            Ok(response)
        })
        .await
    }

    /// Bytes of all layers and blobs.
    pub(super) async fn images_size(&self) -> Result<u64> {
        let images = self.images.clone();
        blocking(move || {
            let usage = images.layers_usage(&|_| false);
            Ok(usage.total + usage.blobs)
        })
        .await
    }

    /// What goes, oldest last.
    async fn unused_images(&self, dangling: bool, filters: PruneFilters) -> Result<Vec<Unused>> {
        let used = self.images_in_use();
        let images = self.images.clone();
        blocking(move || {
            let options = ListOptions {
                dangling: dangling.then_some(true),
                ..ListOptions::default()
            };
            let mut unused = Vec::new();
            for summary in images.list(&options).map_err(Error::Image)? {
                let labels = summary.labels.clone().into_iter().collect();
                if used.contains_key(&summary.id.to_string()) || !filters.fits(summary.created, &labels) {
                    continue;
                }
                // Gone since it was listed.
                let Ok(image) = images.get(&summary.id.to_string()) else {
                    continue;
                };
                unused.push(Unused::of(image));
            }
            Ok(unused)
        })
        .await
    }

    pub(super) async fn prune_image(&self, image: Unused, response: &mut PruneResponse) {
        let (images, used) = (self.images.clone(), self.images_in_use());
        let id = image.id.to_string();
        let names = if image.names.is_empty() {
            vec![id.clone()]
        } else {
            image.names
        };
        let removed = blocking(move || {
            let in_use = |id: &ImageId| used.get(&id.to_string()).cloned().unwrap_or_default();
            let mut removed = Vec::new();
            for name in names {
                match images.remove(&name, &RemoveOptions::default(), &in_use) {
                    Ok(steps) => removed.extend(steps),
                    // The last tag of a repository takes its digests along.
                    Err(pontoon_image::Error::NotFound(_)) => {}
                    Err(error) => tracing::debug!(image = name, %error, "image not pruned"),
                }
            }
            Ok(removed)
        })
        .await;
        let Ok(removed) = removed else { return };
        self.tell_removed(&id, &removed);
        for step in removed {
            response.deleted.push(match step {
                Removed::Untagged(name) => format!("untagged: {name}"),
                Removed::Deleted(digest) => format!("deleted: {digest}"),
            });
        }
    }
}
