//! Images: the blocking image store behind async calls; archives are streamed through bounded channels, never held whole.

mod prune;
pub(crate) mod pull;
pub(crate) mod push;
mod registry;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use pontoon_image::{ContainerUse, ImageStore, LoadEvent, Loaded, Removed};
use pontoon_proto::v1::{
    self, FilterValues, ImageHistoryEntry, ImportOptions, ListImagesRequest, RemoveImageRequest,
};
use tokio::sync::mpsc;

use crate::container::record::has_process;
use crate::engine::blocking;
use crate::event::EventObject;
use crate::{Engine, Error, Result};

/// Chunks that wait for the other side.
const CHUNKS: usize = 8;
/// Bytes of a chunk.
const CHUNK: usize = 256 << 10;

/// What happens during a load.
#[derive(Debug)]
pub enum LoadUpdate {
    /// Progress.
    Event(LoadEvent),
    /// An image is there.
    Loaded(Loaded),
    /// The load failed; nothing follows.
    Failed(Error),
}

/// A channel of chunks as a blocking reader. The sender says that the archive is whole by sending `Ok(empty)` last or by
/// closing the channel; an `Err` ends it as a failed stream.
struct ChunkReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

/// A blocking writer that sends chunks.
struct ChunkWriter {
    chunks: mpsc::Sender<Result<Bytes>>,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunks
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where an archive's bytes go in.
pub type ArchiveSender = mpsc::Sender<io::Result<Bytes>>;

impl Engine {
    /// Loads an archive: send its bytes into the first, drop it at the end; updates come out of the second.
    pub fn load_images(self: &Arc<Self>) -> (ArchiveSender, mpsc::Receiver<LoadUpdate>) {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let (updates, receiver) = mpsc::channel(CHUNKS);
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let reader = ChunkReader {
                chunks,
                current: Bytes::new(),
            };
            // A client that no longer listens does not stop the load.
            let outcome = engine.images.load(reader, &mut |event| {
                updates.try_send(LoadUpdate::Event(event)).ok();
            });
            match outcome {
                Ok(loaded) => {
                    for image in loaded {
                        let name = image.references.first().map(pontoon_image::Reference::familiar);
                        engine.tell_image("load", &image.id.to_string(), name.as_ref());
                        updates.blocking_send(LoadUpdate::Loaded(image)).ok();
                    }
                }
                Err(error) => drop(updates.blocking_send(LoadUpdate::Failed(Error::Image(error)))),
            }
        });
        (sender, receiver)
    }

    /// Imports a flat root file system: send its bytes into the first, drop it at the end; the second gives the id.
    pub fn import_image(
        self: &Arc<Self>,
        options: ImportOptions,
    ) -> (ArchiveSender, impl Future<Output = Result<String>> + use<>) {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let engine = self.clone();
        let imported = blocking(move || {
            let reader = ChunkReader {
                chunks,
                current: Bytes::new(),
            };
            let options = pontoon_image::ImportOptions {
                reference: Some(options.reference).filter(|text| !text.is_empty()),
                message: options.message,
                changes: options.changes,
                platform: Some(options.platform).filter(|text| !text.is_empty()),
            };
            let id = engine
                .images
                .import(reader, &options)
                .map_err(Error::Image)?
                .to_string();
            engine.tell_image("import", &id, options.reference.as_ref());
            Ok(id)
        });
        (sender, imported)
    }

    /// Writes images as one archive.
    pub fn save_images(self: &Arc<Self>, names: Vec<String>) -> mpsc::Receiver<Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let writer = ChunkWriter {
                chunks: sender.clone(),
            };
            let mut writer = io::BufWriter::with_capacity(CHUNK, writer);
            let saved = engine
                .images
                .save(&names, &mut writer)
                .map_err(|error| match error {
                    pontoon_image::Error::NotFound(name) => Error::NoSuchImage(name),
                    other => Error::Image(other),
                });
            let flushed = saved.and_then(|()| {
                writer.flush().map_err(|source| Error::Io {
                    what: "send the archive".to_owned(),
                    source,
                })
            });
            match flushed {
                Ok(()) => {
                    for name in &names {
                        if let Ok(image) = engine.images.get(name) {
                            engine.tell_image("save", &image.id.to_string(), Some(name));
                        }
                    }
                }
                Err(error) => drop(sender.blocking_send(Err(error))),
            }
        });
        receiver
    }

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
        let image = self.find_image(target).await?;
        let users = self
            .images_in_use()
            .remove(&image.id.to_string())
            .map_or(0, |users| users.len() as u64);
        Ok(v1::Image {
            containers: users,
            ..view(image)
        })
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
                let removed = engine
                    .images
                    .remove(&request.target, &options, &in_use)
                    .map_err(|error| Error::image(&request.target, error))?;
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
        let (images, target) = (self.images.clone(), target.to_owned());
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
    fn images_in_use(&self) -> HashMap<String, Vec<ContainerUse>> {
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
    let mut options = pontoon_image::ListOptions::default();
    if !request.reference.is_empty() {
        options.references.push(request.reference.clone());
    }
    for (key, FilterValues { values }) in &request.filters {
        let last = || values.last().cloned();
        match key.as_str() {
            "reference" => options.references.extend(values.iter().cloned()),
            "label" => options.labels.extend(values.iter().cloned()),
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

fn view(image: pontoon_image::Image) -> v1::Image {
    let config = image.config.config;
    v1::Image {
        id: image.id.to_string(),
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
        containers: 0,
    }
}
