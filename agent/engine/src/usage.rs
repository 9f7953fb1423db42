//! `system df`: what images, containers and volumes take on disk. Each layer is counted once, so that the sums add up to
//! what the data folder holds.

use std::sync::Arc;

use pontoon_proto::v1::{
    DiskUsageRequest, DiskUsageResponse, ImageUsage, ListContainersRequest, ListImagesRequest,
};

use crate::engine::blocking;
use crate::{Engine, Error, Result, volumes};

/// What can be asked for.
const TYPES: [&str; 4] = ["image", "container", "volume", "build-cache"];

impl Engine {
    /// Disk use of the types asked for; all if none is named.
    ///
    /// # Errors
    /// A type that does not exist, or files that can't be read.
    pub async fn disk_usage(self: &Arc<Self>, request: &DiskUsageRequest) -> Result<DiskUsageResponse> {
        if let Some(unknown) = request.types.iter().find(|name| !TYPES.contains(&name.as_str())) {
            return Err(Error::Invalid(format!("unknown object type: {unknown}")));
        }
        let wanted = |name: &str| request.types.is_empty() || request.types.iter().any(|kind| kind == name);
        let mut usage = DiskUsageResponse::default();
        if wanted("image") {
            let images = self.images.clone();
            let used = self.images_in_use();
            let layers =
                blocking(move || Ok(images.layers_usage(&|id| used.contains_key(&id.to_string())))).await?;
            usage.held_size = i64::try_from(layers.held).unwrap_or(i64::MAX);
            usage.blobs_size = i64::try_from(layers.blobs).unwrap_or(i64::MAX);
            usage.layers_size = i64::try_from(layers.total).unwrap_or(i64::MAX);
            let shared = |id: &str| {
                let known = layers.shared.iter().find(|(image, _)| image.to_string() == id);
                known.map_or(0, |(_, bytes)| i64::try_from(*bytes).unwrap_or(i64::MAX))
            };
            let images = self.list_images(ListImagesRequest::default()).await?;
            usage.images = images
                .into_iter()
                .map(|image| ImageUsage {
                    shared_size: shared(&image.id),
                    image: Some(image),
                })
                .collect();
        }
        if wanted("container") {
            let every = ListContainersRequest {
                all: true,
                size: true,
                ..ListContainersRequest::default()
            };
            usage.containers = self.list(&every).await?;
        }
        if wanted("volume") {
            usage.volumes = volumes::usage(self).await?;
        }
        if wanted("build-cache") {
            usage.build_cache = self.build_cache_records().await?;
        }
        Ok(usage)
    }
}
