//! Image archives: the blocking image store behind async calls; bytes are streamed through bounded channels, never held whole.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use pontoon_image::archive::ChunkReader;
use pontoon_image::{LoadEvent, Loaded, Platform};
use pontoon_proto::v1::ImportOptions;
use tokio::sync::mpsc;

use crate::engine::blocking;
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
        self.load_platform(None)
    }

    /// As [`Engine::load_images`], only the images of one platform.
    pub fn load_platform(
        self: &Arc<Self>,
        platform: Option<Platform>,
    ) -> (ArchiveSender, mpsc::Receiver<LoadUpdate>) {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let (updates, receiver) = mpsc::channel(CHUNKS);
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let reader = ChunkReader::new(chunks);
            // A client that no longer listens does not stop the load.
            let mut tell = |event| drop(updates.try_send(LoadUpdate::Event(event)));
            let outcome = match &platform {
                Some(platform) => engine.images.load_platform(reader, platform, &mut tell),
                None => engine.images.load(reader, &mut tell),
            };
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
            let reader = ChunkReader::new(chunks);
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
        self.save_platform(names, None)
    }

    /// As [`Engine::save_images`], only the images of one platform.
    pub fn save_platform(
        self: &Arc<Self>,
        names: Vec<String>,
        platform: Option<Platform>,
    ) -> mpsc::Receiver<Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let writer = ChunkWriter {
                chunks: sender.clone(),
            };
            let mut writer = io::BufWriter::with_capacity(CHUNK, writer);
            let saved = match &platform {
                Some(platform) => engine.images.save_platform(&names, platform, &mut writer),
                None => engine.images.save(&names, &mut writer),
            };
            let saved = saved.map_err(|error| match error {
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
}
