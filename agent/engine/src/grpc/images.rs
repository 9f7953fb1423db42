//! Images on the wire: archives as streams of chunks.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use pontoon_image::{LoadEvent, Removed};
use pontoon_proto::v1::{
    Chunk, ImportImageRequest, ImportImageResponse, LoadImagesRequest, LoadImagesResponse, LoadProgress,
    LoadedImage, RemoveImageRequest, RemoveImageResponse, RemovedImage, SaveImagesRequest,
    load_images_response, removed_image,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use super::{Answer, BoxStream, answer, status};
use crate::Engine;
use crate::images::{ArchiveSender, LoadUpdate};

/// Carries an archive's chunks; a stream that breaks off fails the reader instead of ending it.
async fn feed<T>(mut requests: Streaming<T>, archive: ArchiveSender, data: impl Fn(T) -> Bytes) {
    loop {
        let chunk = match requests.message().await {
            Ok(Some(message)) => Ok(data(message)),
            Ok(None) => return,
            Err(status) => Err(io::Error::other(status.message().to_owned())),
        };
        let broken = chunk.is_err();
        if archive.send(chunk).await.is_err() || broken {
            return;
        }
    }
}

pub(super) async fn load(
    engine: &Arc<Engine>,
    mut requests: Streaming<LoadImagesRequest>,
) -> Answer<BoxStream<LoadImagesResponse>> {
    let first = requests.message().await?.unwrap_or_default();
    let platform = crate::images::platform(&first.platform).map_err(|error| status(&error))?;
    let (archive, updates) = engine.load_platform(platform);
    tokio::spawn(async move {
        if archive.send(Ok(first.data)).await.is_ok() {
            feed(requests, archive, |request| request.data).await;
        }
    });
    let events = ReceiverStream::new(updates).filter_map(async |update| {
        let event = match update {
            LoadUpdate::Event(event) => load_images_response::Event::Progress(progress(event)?),
            LoadUpdate::Loaded(image) => load_images_response::Event::Loaded(LoadedImage {
                id: image.id.to_string(),
                references: image
                    .references
                    .iter()
                    .map(|reference| reference.familiar())
                    .collect(),
            }),
            LoadUpdate::Failed(error) => return Some(Err(status(&error))),
        };
        Some(Ok(LoadImagesResponse { event: Some(event) }))
    });
    Ok(Response::new(Box::pin(events)))
}

fn progress(event: LoadEvent) -> Option<LoadProgress> {
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    match event {
        LoadEvent::Received { .. } => None,
        LoadEvent::Unpacking { diff_id, bytes } => Some(LoadProgress {
            layer: diff_id.to_string(),
            current: 0,
            total: number(bytes),
        }),
        LoadEvent::Unpacked { diff_id, .. } => Some(LoadProgress {
            layer: diff_id.to_string(),
            current: 1,
            total: 1,
        }),
    }
}

pub(super) async fn import(
    engine: &Arc<Engine>,
    mut requests: Streaming<ImportImageRequest>,
) -> Answer<ImportImageResponse> {
    let Some(first) = requests.message().await? else {
        return Err(Status::invalid_argument(
            "the first message of import must have its options",
        ));
    };
    let (archive, imported) = engine.import_image(first.options.unwrap_or_default());
    tokio::spawn(async move {
        if archive.send(Ok(first.data)).await.is_ok() {
            feed(requests, archive, |request| request.data).await;
        }
    });
    answer(imported.await.map(|id| ImportImageResponse { id }))
}

pub(super) fn save(engine: &Arc<Engine>, request: SaveImagesRequest) -> Answer<BoxStream<Chunk>> {
    let platform = crate::images::platform(&request.platform).map_err(|error| status(&error))?;
    let chunks = ReceiverStream::new(engine.save_platform(request.names, platform))
        .map(|chunk| chunk.map(|data| Chunk { data }).map_err(|error| status(&error)));
    Ok(Response::new(Box::pin(chunks)))
}

pub(super) async fn remove(engine: &Arc<Engine>, request: RemoveImageRequest) -> Answer<RemoveImageResponse> {
    let removed = engine.remove_image(request).await;
    answer(removed.map(|steps| {
        RemoveImageResponse {
            removed: steps
                .into_iter()
                .map(|step| RemovedImage {
                    what: Some(match step {
                        Removed::Untagged(name) => removed_image::What::Untagged(name),
                        Removed::Deleted(digest) => removed_image::What::Deleted(digest.to_string()),
                    }),
                })
                .collect(),
        }
    }))
}
