//! Images: what there are, their names, their removal and their checks, behind async calls; archives are in `archives`, what goes
//! when the disk is full in `collect`.

mod archives;
mod collect;
mod peers;
mod prune;
pub(crate) mod pull;
pub(crate) mod push;
mod registry;
mod storage;

pub use archives::{ArchiveSender, LoadUpdate};
pub use collect::{Collected, ImageGc};

pub(crate) use storage::{mount_of, storage};

use std::collections::HashMap;
use std::sync::Arc;

use pontoon_image::{ContainerUse, ImageStore, Platform, Removed};
use pontoon_proto::v1::{
    self, CheckImagesResponse, FilterValues, ImageHistoryEntry, ImageProblem, ListImagesRequest,
    RemoveImageRequest,
};

use crate::container::prune::moment;
use crate::container::record::has_process;
use crate::engine::blocking;
use crate::event::EventObject;
use crate::{Engine, Error, Result};

impl Engine {
    /// Lists images, newest first.
    ///
    /// # Errors
    /// A filter that makes no sense.
    pub async fn list_images(&self, request: ListImagesRequest) -> Result<Vec<v1::Image>> {
        let options = list_options(&request)?;
        let used = self.images_in_use();
        let images = self.images.clone();
        blocking(move || {
            let listed = images.list(&options).map_err(Error::Image)?;
            let count = |id: &str| used.get(id).map_or(0, |users| users.len() as u64);
            Ok(listed
                .into_iter()
                .map(|summary| v1::Image {
                    id: summary.id.to_string(),
                    containers: count(&summary.id.to_string()),
                    repo_tags: summary.repo_tags,
                    repo_digests: summary.repo_digests,
                    created_at: summary.created,
                    size: i64::try_from(summary.size).unwrap_or(i64::MAX),
                    labels: summary.labels.into_iter().collect(),
                    ..v1::Image::default()
                })
                .collect())
        })
        .await
    }

    /// Everything about an image.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`].
    pub async fn inspect_image(&self, target: &str) -> Result<v1::Image> {
        self.inspect_platform(target, "").await
    }

    /// As [`Engine::inspect_image`], of a name's images the one for a platform.
    ///
    /// # Errors
    /// As there; the name has none for it.
    pub async fn inspect_platform(&self, target: &str, platform: &str) -> Result<v1::Image> {
        let image = self.find_platform(target, platform).await?;
        let users = self
            .images_in_use()
            .remove(&image.id.to_string())
            .map_or(0, |users| users.len() as u64);
        let (driver, data) = (self.images.storage().0, self.images.image_folders(&image));
        Ok(v1::Image {
            containers: users,
            driver: driver.to_owned(),
            driver_data: data.into_iter().collect(),
            ..view(image)
        })
    }

    /// The image of a name for a platform (`os[/arch[/variant]]`); empty: the one that the name means.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; the name has none for the platform.
    pub(crate) async fn find_platform(&self, target: &str, wanted: &str) -> Result<pontoon_image::Image> {
        let Some(platform) = platform(wanted)? else {
            return self.find_image(target).await;
        };
        let (images, target) = (self.images.clone(), target.to_owned());
        blocking(move || {
            images
                .get_platform(&target, &platform)
                .map_err(|error| Error::image(&target, error))
        })
        .await
    }

    /// Checks the image store: blobs against their digests, layers, counts; repairs what it can.
    ///
    /// # Errors
    /// The store can't be read, or not be written.
    pub async fn check_images(self: &Arc<Self>, repair: bool) -> Result<CheckImagesResponse> {
        let images = self.images.clone();
        self.whole(async move {
            let report = blocking(move || images.check(repair).map_err(Error::Image)).await?;
            let problem = |found: pontoon_image::Problem| ImageProblem {
                object: found.object,
                what: found.what,
                repaired: found.repaired,
                advice: found.advice,
            };
            Ok(CheckImagesResponse {
                images: report.images as u64,
                blobs: report.blobs as u64,
                layers: report.layers as u64,
                problems: report.problems.into_iter().map(problem).collect(),
            })
        })
        .await
    }

    /// Adds a tag.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], or the new name is bad.
    pub async fn tag_image(self: &Arc<Self>, source: &str, target: &str) -> Result<()> {
        let (engine, source, target) = (self.clone(), source.to_owned(), target.to_owned());
        blocking(move || {
            engine
                .images
                .tag(&source, &target)
                .map_err(|error| Error::image(&source, error))?;
            if let Ok(image) = engine.images.get(&target) {
                engine.tell_image("tag", &image.id.to_string(), Some(&target));
            }
            Ok(())
        })
        .await
    }

    /// Removes a tag or an image.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], or it is in use.
    pub async fn remove_image(self: &Arc<Self>, request: RemoveImageRequest) -> Result<Vec<Removed>> {
        let engine = self.clone();
        let platforms: Vec<Platform> = request
            .platforms
            .iter()
            .filter_map(|text| platform(text).transpose())
            .collect::<Result<_>>()?;
        self.whole(async move {
            let used = engine.images_in_use();
            blocking(move || {
                let options = pontoon_image::RemoveOptions {
                    force: request.force,
                    no_prune: request.no_prune,
                };
                let in_use =
                    |id: &pontoon_image::ImageId| used.get(&id.to_string()).cloned().unwrap_or_default();
                let named = engine
                    .images
                    .get(&request.target)
                    .map(|image| image.id.to_string());
                let removed = match platforms.as_slice() {
                    [] => engine.images.remove(&request.target, &options, &in_use),
                    some => engine
                        .images
                        .remove_platforms(&request.target, some, &options, &in_use),
                };
                let removed = removed.map_err(|error| Error::image(&request.target, error))?;
                engine.tell_removed(&named.unwrap_or_default(), &removed);
                Ok(removed)
            })
            .await
        })
        .await
    }

    /// History, newest first.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`].
    pub async fn image_history(&self, target: &str) -> Result<Vec<ImageHistoryEntry>> {
        self.platform_history(target, "").await
    }

    /// As [`Engine::image_history`], of a name's images the one for a platform.
    ///
    /// # Errors
    /// As there; the name has none for it.
    pub async fn platform_history(&self, target: &str, wanted: &str) -> Result<Vec<ImageHistoryEntry>> {
        // By its name, which the newest line shows, unless a platform picks another image of it.
        let target = match wanted {
            "" => target.to_owned(),
            wanted => self.find_platform(target, wanted).await?.id.to_string(),
        };
        let images = self.images.clone();
        let lines =
            blocking(move || ImageStore::history(&images, &target).map_err(|e| Error::image(&target, e)))
                .await?;
        Ok(lines
            .into_iter()
            .map(|line| ImageHistoryEntry {
                id: line
                    .id
                    .map_or_else(|| "<missing>".to_owned(), |id| id.to_string()),
                created_at: line.created,
                created_by: line.created_by,
                size: i64::try_from(line.size).unwrap_or(i64::MAX),
                comment: line.comment,
                tags: line.tags,
            })
            .collect())
    }

    /// Tells of an image by its id and a name of it.
    pub(crate) fn tell_image(&self, action: &str, id: &str, name: Option<&impl ToString>) {
        let name = name.map_or_else(|| id.to_owned(), ToString::to_string);
        self.emit_object(EventObject::Image, action, id, [("name", name)]);
    }

    /// Tells of tags that went, and of the image if it went. Layers are no events of their own.
    pub(crate) fn tell_removed(&self, id: &str, removed: &[Removed]) {
        for step in removed {
            match step {
                Removed::Untagged(name) => self.tell_image("untag", id, Some(name)),
                Removed::Deleted(digest) if digest.to_string() == id => {
                    self.tell_image("delete", id, None::<&String>);
                }
                Removed::Deleted(_) => {}
            }
        }
    }

    /// Containers by the image they were made from.
    pub(crate) fn images_in_use(&self) -> HashMap<String, Vec<ContainerUse>> {
        let mut used: HashMap<String, Vec<ContainerUse>> = HashMap::new();
        for container in self.containers.all() {
            let (image, running) = container.read(|record| {
                let view = record.view();
                (view.image_id.clone(), has_process(view.state()))
            });
            used.entry(image).or_default().push(ContainerUse {
                id: container.id.clone(),
                running,
            });
        }
        used
    }
}

fn list_options(request: &ListImagesRequest) -> Result<pontoon_image::ListOptions> {
    let mut options = pontoon_image::ListOptions {
        all: request.all,
        ..pontoon_image::ListOptions::default()
    };
    if !request.reference.is_empty() {
        options.references.push(request.reference.clone());
    }
    for (key, FilterValues { values }) in &request.filters {
        let last = || values.last().cloned();
        match key.as_str() {
            "reference" => options.references.extend(values.iter().cloned()),
            "label" => options.labels.extend(values.iter().cloned()),
            "until" => options.until = last().map(|text| moment(&text)).transpose()?,
            "before" => options.before = last(),
            "since" => options.since = last(),
            "dangling" => {
                options.dangling = match values.last().map(String::as_str) {
                    Some("true" | "1") => Some(true),
                    Some("false" | "0") => Some(false),
                    other => {
                        return Err(Error::Invalid(format!(
                            "invalid filter 'dangling={}'",
                            other.unwrap_or("")
                        )));
                    }
                }
            }
            _ => return Err(Error::Invalid(format!("invalid filter '{key}'"))),
        }
    }
    Ok(options)
}

/// A platform as users give it; `None` for an empty text.
pub(crate) fn platform(text: &str) -> Result<Option<Platform>> {
    match text {
        "" => Ok(None),
        text => Platform::parse(text)
            .map(Some)
            .map_err(|error| Error::Invalid(error.to_string())),
    }
}

fn view(image: pontoon_image::Image) -> v1::Image {
    let config = image.config.config;
    v1::Image {
        id: image.id.to_string(),
        manifest_digest: image.manifest.to_string(),
        index_digest: image.index.map(|digest| digest.to_string()).unwrap_or_default(),
        on_build: config.on_build,
        shell: config.shell.unwrap_or_default(),
        stop_timeout: config.stop_timeout.unwrap_or_default(),
        repo_tags: image.repo_tags,
        repo_digests: image.repo_digests,
        created_at: image.created,
        size: i64::try_from(image.size).unwrap_or(i64::MAX),
        architecture: image.config.architecture,
        variant: image.config.variant.unwrap_or_default(),
        os: image.config.os,
        author: image.config.author.unwrap_or_default(),
        comment: image.config.comment.unwrap_or_default(),
        labels: config.labels.into_iter().collect(),
        env: config.env,
        entrypoint: config.entrypoint.unwrap_or_default(),
        command: config.cmd.unwrap_or_default(),
        working_dir: config.working_dir,
        user: config.user,
        exposed_ports: config.exposed_ports.into_iter().collect(),
        volumes: config.volumes.into_iter().collect(),
        stop_signal: config.stop_signal.unwrap_or_default(),
        healthcheck: config.healthcheck.map(|check| v1::HealthConfig {
            test: check.test,
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: u32::try_from(check.retries).unwrap_or_default(),
        }),
        diff_ids: image
            .config
            .rootfs
            .diff_ids
            .iter()
            .map(ToString::to_string)
            .collect(),
        ..v1::Image::default()
    }
}
